import java.io.File;
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.CommandCustomHeader;
import org.apache.rocketmq.remoting.protocol.LanguageCode;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RemotingSerializable;
import org.apache.rocketmq.remoting.protocol.SerializeType;
import org.apache.rocketmq.remoting.protocol.RequestCode;
import org.apache.rocketmq.remoting.protocol.admin.TopicOffset;
import org.apache.rocketmq.remoting.protocol.admin.TopicStatsTable;
import org.apache.rocketmq.remoting.protocol.body.ClusterInfo;
import org.apache.rocketmq.remoting.protocol.body.KVTable;
import org.apache.rocketmq.remoting.protocol.body.LockBatchRequestBody;
import org.apache.rocketmq.remoting.protocol.body.LockBatchResponseBody;
import org.apache.rocketmq.remoting.protocol.body.RegisterBrokerBody;
import org.apache.rocketmq.remoting.protocol.body.TopicConfigSerializeWrapper;
import org.apache.rocketmq.remoting.protocol.body.TopicList;
import org.apache.rocketmq.remoting.protocol.header.ConsumerSendMsgBackRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PullMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.QueryConsumerOffsetRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.SendMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.SendMessageRequestHeaderV2;
import org.apache.rocketmq.remoting.protocol.header.SendMessageResponseHeader;
import org.apache.rocketmq.remoting.protocol.header.UpdateConsumerOffsetRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.namesrv.GetRouteInfoRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.namesrv.RegisterBrokerRequestHeader;
import org.apache.rocketmq.remoting.protocol.heartbeat.ConsumeType;
import org.apache.rocketmq.remoting.protocol.heartbeat.ConsumerData;
import org.apache.rocketmq.remoting.protocol.heartbeat.HeartbeatData;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;
import org.apache.rocketmq.remoting.protocol.heartbeat.ProducerData;
import org.apache.rocketmq.remoting.protocol.heartbeat.SubscriptionData;
import org.apache.rocketmq.remoting.protocol.route.BrokerData;
import org.apache.rocketmq.remoting.protocol.route.QueueData;
import org.apache.rocketmq.remoting.protocol.route.TopicRouteData;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;

/**
 * `write DIR RELEASE`: encodes commands and bodies with the stock classes and writes them as hex, one file each.
 * `check DIR`: decodes with the stock classes what this project's own encoders wrote, and compares field by field.
 * The imports are those of 5.x; for 4.x the Makefile moves them to where these classes were.
 */
public class Capture {
    static File dir;
    static String release;

    public static void main(String[] args) throws Exception {
        dir = new File(args[1]);
        if (args[0].equals("write")) {
            release = args[2];
            dir.mkdirs();
            writeAll();
        } else {
            checkAll();
        }
    }

    // ---- writing -------------------------------------------------------------------------------------------------------

    static void writeAll() throws Exception {
        for (SerializeType type : SerializeType.values()) {
            String form = type.name().toLowerCase();
            frame("send-v2." + form, type, request(RequestCode.SEND_MESSAGE_V2,
                SendMessageRequestHeaderV2.createSendMessageRequestHeaderV2(sendHeader(false)), body("hello, 消息")));
            frame("send-long." + form, type, request(RequestCode.SEND_MESSAGE, sendHeader(false), body("hello")));
            frame("send-batch." + form, type, request(RequestCode.SEND_BATCH_MESSAGE,
                SendMessageRequestHeaderV2.createSendMessageRequestHeaderV2(sendHeader(true)), batch()));
            frame("pull." + form, type, request(RequestCode.PULL_MESSAGE, pullHeader(), null));
            frame("update-offset." + form, type, oneway(request(RequestCode.UPDATE_CONSUMER_OFFSET, updateOffset(), null)));
            frame("heartbeat." + form, type, request(RequestCode.HEART_BEAT, null, heartbeat().encode()));
        }
        SerializeType json = SerializeType.JSON;
        QueryConsumerOffsetRequestHeader query = new QueryConsumerOffsetRequestHeader();
        query.setConsumerGroup("group-1");
        query.setTopic("Orders");
        query.setQueueId(3);
        frame("query-offset", json, request(RequestCode.QUERY_CONSUMER_OFFSET, query, null));
        ConsumerSendMsgBackRequestHeader back = new ConsumerSendMsgBackRequestHeader();
        back.setOffset(4096L);
        back.setGroup("group-1");
        back.setDelayLevel(3);
        back.setOriginMsgId("7F00000100002A9F0000000000001000");
        back.setOriginTopic("Orders");
        back.setMaxReconsumeTimes(16);
        frame("send-back", json, request(RequestCode.CONSUMER_SEND_MSG_BACK, back, null));
        GetRouteInfoRequestHeader route = new GetRouteInfoRequestHeader();
        route.setTopic("Orders");
        frame("route", json, request(RequestCode.GET_ROUTEINFO_BY_TOPIC, route, null));
        frame("register-plain", json, request(RequestCode.REGISTER_BROKER, registerHeader(false), registerBody().encode(false)));
        frame("register-compressed", json, request(RequestCode.REGISTER_BROKER, registerHeader(true), compressed(registerBody())));
        RemotingCommand response = RemotingCommand.createResponseCommand(SendMessageResponseHeader.class);
        response.setCode(0);
        response.setRemark(null);
        SendMessageResponseHeader sent = (SendMessageResponseHeader) response.readCustomHeader();
        sent.setMsgId("7F00000100002A9F0000000000001000");
        sent.setQueueId(3);
        sent.setQueueOffset(42L);
        response.setOpaque(77);
        frame("send-response", json, response);

        LockBatchRequestBody lock = new LockBatchRequestBody();
        lock.setConsumerGroup("group-1");
        lock.setClientId("10.0.0.1@1");
        lock.setMqSet(new HashSet<>(Collections.singletonList(new MessageQueue("Orders", "b0", 1))));
        hex("body.lock-request", lock.encode());
        LockBatchResponseBody locked = new LockBatchResponseBody();
        locked.setLockOKMQSet(new HashSet<>(Collections.singletonList(new MessageQueue("Orders", "b0", 1))));
        hex("body.lock-response", locked.encode());
        hex("body.route-legacy", routeData().encode());
        hex("body.route-standard", com.alibaba.fastjson.JSON.toJSONString(routeData(),
            com.alibaba.fastjson.serializer.SerializerFeature.BrowserCompatible,
            com.alibaba.fastjson.serializer.SerializerFeature.QuoteFieldNames,
            com.alibaba.fastjson.serializer.SerializerFeature.SkipTransientField,
            com.alibaba.fastjson.serializer.SerializerFeature.MapSortField).getBytes(StandardCharsets.UTF_8));
        ClusterInfo cluster = new ClusterInfo();
        BrokerData broker = routeData().getBrokerDatas().get(0);
        HashMap<String, BrokerData> brokers = new HashMap<>();
        brokers.put("b0", broker);
        cluster.setBrokerAddrTable(brokers);
        HashMap<String, java.util.Set<String>> clusters = new HashMap<>();
        clusters.put("DefaultCluster", new HashSet<>(Collections.singletonList("b0")));
        cluster.setClusterAddrTable(clusters);
        hex("body.cluster", cluster.encode());
        TopicStatsTable stats = new TopicStatsTable();
        TopicOffset offset = new TopicOffset();
        offset.setMinOffset(1);
        offset.setMaxOffset(9);
        offset.setLastUpdateTimestamp(1700000000000L);
        stats.getOffsetTable().put(new MessageQueue("Orders", "b0", 1), offset);
        hex("body.topic-stats", stats.encode());
        hex("body.topic-configs", TopicConfigSerializeWrapper.encode(registerBody().getTopicConfigSerializeWrapper()));
        SubscriptionGroupConfig group = new SubscriptionGroupConfig();
        group.setGroupName("group-1");
        hex("body.subscription-group", RemotingSerializable.encode(group));
        TopicList topics = new TopicList();
        topics.getTopicList().add("Orders");
        hex("body.topic-list", topics.encode());
        KVTable table = new KVTable();
        table.getTable().put("brokerVersion", "479");
        hex("body.kv-table", table.encode());
    }

    static SendMessageRequestHeader sendHeader(boolean batch) {
        SendMessageRequestHeader header = new SendMessageRequestHeader();
        header.setProducerGroup("group-1");
        header.setTopic("Orders");
        header.setDefaultTopic("TBW102");
        header.setDefaultTopicQueueNums(4);
        header.setQueueId(3);
        header.setSysFlag(0);
        header.setBornTimestamp(1700000000000L);
        header.setFlag(0);
        header.setProperties(properties());
        header.setReconsumeTimes(0);
        header.setUnitMode(false);
        header.setMaxReconsumeTimes(16);
        header.setBatch(batch);
        return header;
    }

    static String properties() {
        java.util.TreeMap<String, String> properties = new java.util.TreeMap<>();
        properties.put(MessageConst.PROPERTY_KEYS, "key \"1\" \\ 键");
        properties.put(MessageConst.PROPERTY_TAGS, "TagA");
        properties.put(MessageConst.PROPERTY_UNIQ_CLIENT_MESSAGE_ID_KEYIDX, "7F0000010000000000000000000000");
        return MessageDecoder.messageProperties2String(properties);
    }

    static byte[] batch() {
        List<Message> messages = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            Message message = new Message("Orders", "TagA", "k" + i, body("body " + i));
            message.setWaitStoreMsgOK(true);
            messages.add(message);
        }
        return MessageDecoder.encodeMessages(messages);
    }

    static PullMessageRequestHeader pullHeader() {
        PullMessageRequestHeader header = new PullMessageRequestHeader();
        header.setConsumerGroup("group-1");
        header.setTopic("Orders");
        header.setQueueId(3);
        header.setQueueOffset(100L);
        header.setMaxMsgNums(32);
        header.setSysFlag(7);
        header.setCommitOffset(99L);
        header.setSuspendTimeoutMillis(15000L);
        header.setSubscription("TagA || TagB");
        header.setSubVersion(1700000000000L);
        header.setExpressionType("TAG");
        return header;
    }

    static UpdateConsumerOffsetRequestHeader updateOffset() {
        UpdateConsumerOffsetRequestHeader header = new UpdateConsumerOffsetRequestHeader();
        header.setConsumerGroup("group-1");
        header.setTopic("Orders");
        header.setQueueId(3);
        header.setCommitOffset(99L);
        return header;
    }

    static HeartbeatData heartbeat() {
        HeartbeatData data = new HeartbeatData();
        data.setClientID("10.0.0.1@1#2");
        ProducerData producer = new ProducerData();
        producer.setGroupName("producers");
        data.getProducerDataSet().add(producer);
        ConsumerData consumer = new ConsumerData();
        consumer.setGroupName("group-1");
        consumer.setConsumeType(ConsumeType.CONSUME_PASSIVELY);
        consumer.setMessageModel(MessageModel.CLUSTERING);
        consumer.setConsumeFromWhere(org.apache.rocketmq.common.consumer.ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET);
        SubscriptionData subscription = new SubscriptionData("Orders", "TagA || TagB");
        subscription.setSubVersion(1700000000000L);
        subscription.getTagsSet().addAll(Arrays.asList("TagA", "TagB"));
        subscription.getCodeSet().addAll(Arrays.asList("TagA".hashCode(), "TagB".hashCode()));
        consumer.getSubscriptionDataSet().add(subscription);
        data.getConsumerDataSet().add(consumer);
        return data;
    }

    static RegisterBrokerRequestHeader registerHeader(boolean compressed) {
        RegisterBrokerRequestHeader header = new RegisterBrokerRequestHeader();
        header.setBrokerName("b0");
        header.setBrokerAddr("10.0.0.5:10911");
        header.setClusterName("DefaultCluster");
        header.setHaServerAddr("10.0.0.5:10912");
        header.setBrokerId(0L);
        header.setCompressed(compressed);
        return header;
    }

    static RegisterBrokerBody registerBody() throws Exception {
        RegisterBrokerBody body = new RegisterBrokerBody();
        ConcurrentHashMap<String, TopicConfig> topics = new ConcurrentHashMap<>();
        topics.put("Orders", new TopicConfig("Orders", 4, 8, 6));
        topics.put("TBW102", new TopicConfig("TBW102", 8, 8, 7));
        body.getTopicConfigSerializeWrapper().setTopicConfigTable(topics);
        body.getTopicConfigSerializeWrapper().getDataVersion().setTimestamp(1700000000000L);
        body.getTopicConfigSerializeWrapper().getDataVersion().getCounter().set(3);
        try {
            // 5.x has a second version, of static topics, that would hold the time of the capture.
            Object mapping = body.getTopicConfigSerializeWrapper().getClass().getMethod("getMappingDataVersion")
                .invoke(body.getTopicConfigSerializeWrapper());
            mapping.getClass().getMethod("setTimestamp", long.class).invoke(mapping, 1700000000000L);
        } catch (NoSuchMethodException before5) {
            return body;
        }
        return body;
    }

    static byte[] compressed(RegisterBrokerBody body) {
        return body.encode(true);
    }

    static TopicRouteData routeData() {
        TopicRouteData route = new TopicRouteData();
        QueueData queue = new QueueData();
        queue.setBrokerName("b0");
        queue.setReadQueueNums(4);
        queue.setWriteQueueNums(4);
        queue.setPerm(6);
        route.setQueueDatas(new ArrayList<>(Collections.singletonList(queue)));
        HashMap<Long, String> addrs = new HashMap<>();
        addrs.put(0L, "10.0.0.5:10911");
        addrs.put(1L, "10.0.0.6:10911");
        route.setBrokerDatas(new ArrayList<>(Collections.singletonList(new BrokerData("DefaultCluster", "b0", addrs))));
        route.setFilterServerTable(new HashMap<>());
        route.setOrderTopicConf("b0:4;消息");
        return route;
    }

    static RemotingCommand request(int code, CommandCustomHeader header, byte[] body) {
        RemotingCommand command = RemotingCommand.createRequestCommand(code, header);
        command.setOpaque(77);
        command.setBody(body);
        return command;
    }

    static RemotingCommand oneway(RemotingCommand command) {
        command.markOnewayRPC();
        return command;
    }

    static byte[] body(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static void frame(String name, SerializeType type, RemotingCommand command) throws Exception {
        command.setSerializeTypeCurrentRPC(type);
        command.setLanguage(LanguageCode.JAVA);
        command.setVersion(release.startsWith("4") ? 409 : 513);
        ByteBuffer encoded = command.encode();
        byte[] bytes = new byte[encoded.remaining()];
        encoded.get(bytes);
        hex("frame." + name, bytes);
    }

    static void hex(String name, byte[] bytes) throws Exception {
        try (PrintWriter out = new PrintWriter(new File(dir, name + ".hex"), "UTF-8")) {
            out.print("# encoded by the classes of org.apache.rocketmq " + release + ", tests/golden/capture (make golden)\n");
            for (int at = 0; at < bytes.length; at++) {
                out.print(String.format("%02x", bytes[at]));
                out.print(at % 48 == 47 || at == bytes.length - 1 ? "\n" : "");
            }
        }
    }

    // ---- checking ------------------------------------------------------------------------------------------------------

    static void checkAll() throws Exception {
        for (String form : new String[] {"json", "rocketmq"}) {
            byte[] bytes = read("frame.send-response." + form);
            ByteBuffer frame = ByteBuffer.wrap(bytes, 4, bytes.length - 4).slice();
            RemotingCommand response = RemotingCommand.decode(frame);
            SendMessageResponseHeader header =
                (SendMessageResponseHeader) response.decodeCommandCustomHeader(SendMessageResponseHeader.class);
            equal("opaque", 77, response.getOpaque());
            equal("code", 0, response.getCode());
            equal("flag", 1, response.getFlag());
            equal("language", LanguageCode.JAVA, response.getLanguage());
            equal("msgId", "7F00000100002A9F0000000000001000", header.getMsgId());
            equal("queueId", 3, header.getQueueId());
            equal("queueOffset", 42L, header.getQueueOffset());
            equal("region", "DefaultRegion", response.getExtFields().get("MSG_REGION"));
            equal("remark", "quote \" and 消息\n", response.getRemark());
            equal("body", "body", new String(response.getBody(), StandardCharsets.UTF_8));
        }
        for (String form : new String[] {"legacy", "standard"}) {
            TopicRouteData route = RemotingSerializable.decode(read("body.route-" + form), TopicRouteData.class);
            equal("route " + form, routeData(), route);
        }
        TopicStatsTable stats = RemotingSerializable.decode(read("body.topic-stats"), TopicStatsTable.class);
        equal("max", 9L, stats.getOffsetTable().get(new MessageQueue("Orders", "b0", 1)).getMaxOffset());
        ClusterInfo cluster = RemotingSerializable.decode(read("body.cluster"), ClusterInfo.class);
        equal("broker", "10.0.0.5:10911", cluster.getBrokerAddrTable().get("b0").getBrokerAddrs().get(0L));
        equal("cluster", true, cluster.getClusterAddrTable().get("DefaultCluster").contains("b0"));
        RegisterBrokerBody registration = RegisterBrokerBody.decode(read("body.registration"), RegisterBrokerBody.class);
        equal("topic", 8, registration.getTopicConfigSerializeWrapper().getTopicConfigTable().get("Orders").getWriteQueueNums());
        equal("counter", 3L, registration.getTopicConfigSerializeWrapper().getDataVersion().getCounter().get());
        HeartbeatData heartbeat = RemotingSerializable.decode(read("body.heartbeat"), HeartbeatData.class);
        equal("heartbeat", heartbeat().getConsumerDataSet().iterator().next().getSubscriptionDataSet(),
            heartbeat.getConsumerDataSet().iterator().next().getSubscriptionDataSet());
        LockBatchResponseBody locked = RemotingSerializable.decode(read("body.lock-response"), LockBatchResponseBody.class);
        equal("locked", true, locked.getLockOKMQSet().contains(new MessageQueue("Orders", "b0", 1)));
        SubscriptionGroupConfig group =
            RemotingSerializable.decode(read("body.subscription-group"), SubscriptionGroupConfig.class);
        equal("group", "group-1", group.getGroupName());
        equal("retries", 16, group.getRetryMaxTimes());
        System.out.println("all of " + dir + " reads back");
    }

    static byte[] read(String name) throws Exception {
        StringBuilder text = new StringBuilder();
        for (String line : Files.readAllLines(Paths.get(dir.getPath(), name + ".hex"))) {
            text.append(line.startsWith("#") ? "" : line.trim());
        }
        byte[] bytes = new byte[text.length() / 2];
        for (int at = 0; at < bytes.length; at++) {
            bytes[at] = (byte) Integer.parseInt(text.substring(2 * at, 2 * at + 2), 16);
        }
        return bytes;
    }

    static void equal(String what, Object expected, Object found) {
        if (!expected.equals(found)) {
            throw new AssertionError(what + ": expected " + expected + ", found " + found);
        }
    }
}
