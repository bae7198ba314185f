package clients;

import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.store.ReadOffsetType;
import org.apache.rocketmq.client.consumer.store.RemoteBrokerOffsetStore;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What all scenarios share: names, clients with patient timeouts, reading a topic back, and checks that say what was wrong. */
final class Lab {
    /** Long enough for a machine that runs everything at once; nothing here waits for it to pass. */
    static final long PATIENCE_MS = 60_000;

    final String namesrv;
    private final String prefix;
    private final DefaultMQProducer admin;
    private final DefaultMQPullConsumer reader;

    Lab(String namesrv, String prefix) throws Exception {
        this.namesrv = namesrv;
        this.prefix = prefix;
        this.admin = producer("admin");
        this.reader = new DefaultMQPullConsumer(group("reader"));
        reader.setNamesrvAddr(namesrv);
        reader.setInstanceName("reader");
        // Brokers come back at other addresses.
        reader.setPollNameServerInterval(1_000);
        reader.setConsumerPullTimeoutMillis(PATIENCE_MS);
        reader.setMqClientApiTimeout((int) PATIENCE_MS);
        reader.start();
    }

    void close() {
        reader.shutdown();
        admin.shutdown();
    }

    String topic(String name) {
        return prefix + "_" + name;
    }

    String group(String name) {
        return prefix + "_" + name + "_group";
    }

    DefaultMQProducer producer(String name) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(group("producer_" + name));
        producer.setNamesrvAddr(namesrv);
        producer.setInstanceName("producer_" + name);
        producer.setPollNameServerInterval(1_000);
        producer.setSendMsgTimeout((int) PATIENCE_MS);
        // When a call takes longer than this, 3 s by default, the client gives up the connection and what is under way on it.
        producer.setMqClientApiTimeout((int) PATIENCE_MS);
        producer.setRetryTimesWhenSendFailed(0);
        producer.setRetryTimesWhenSendAsyncFailed(0);
        producer.start();
        return producer;
    }

    /** A push consumer that is not started, for the group of `name`; the members of one group need different instances. */
    DefaultMQPushConsumer push(String name, String instance) {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group(name));
        consumer.setNamesrvAddr(namesrv);
        consumer.setInstanceName(instance);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        // A 5.x client that lost the race for its heartbeat lock is refused its pulls (SUBSCRIPTION_NOT_LATEST) until the next one.
        consumer.setHeartbeatBrokerInterval(1_000);
        consumer.setPollNameServerInterval(1_000);
        consumer.setMqClientApiTimeout((int) PATIENCE_MS);
        consumer.setConsumeThreadMin(2);
        consumer.setConsumeThreadMax(2);
        return consumer;
    }

    DefaultLitePullConsumer lite(String name) {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group(name));
        consumer.setNamesrvAddr(namesrv);
        consumer.setInstanceName("lite_" + name);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setHeartbeatBrokerInterval(1_000);
        consumer.setPollNameServerInterval(1_000);
        consumer.setMqClientApiTimeout((int) PATIENCE_MS);
        return consumer;
    }

    /** The enum of the message model has moved between client versions. */
    static void broadcast(Object consumer) throws Exception {
        for (Method method : consumer.getClass().getMethods()) {
            if (method.getName().equals("setMessageModel")) {
                for (Object model : method.getParameterTypes()[0].getEnumConstants()) {
                    if (model.toString().equals("BROADCASTING")) {
                        method.invoke(consumer, model);
                        return;
                    }
                }
            }
        }
        throw new NoSuchMethodException("setMessageModel");
    }

    /** Creates the topic with this many queues on every broker, through the client, and waits for its route. */
    String create(String name, int queues) throws Exception {
        String topic = topic(name);
        try {
            Method plain = DefaultMQProducer.class.getMethod("createTopic", String.class, String.class, int.class);
            plain.invoke(admin, "TBW102", topic, queues);
        } catch (NoSuchMethodException newer) {
            DefaultMQProducer.class.getMethod("createTopic", String.class, String.class, int.class, Map.class)
                .invoke(admin, "TBW102", topic, queues, new HashMap<String, String>());
        }
        queues(topic);
        return topic;
    }

    /** The queues of a topic, sorted; waits until the name server knows it. */
    List<MessageQueue> queues(String topic) throws Exception {
        List<MessageQueue> queues = new ArrayList<>();
        await("a route of " + topic, () -> {
            try {
                queues.addAll(reader.fetchSubscribeMessageQueues(topic));
            } catch (Exception notYet) {
                return false;
            }
            return !queues.isEmpty();
        });
        queues.sort(Comparator.naturalOrder());
        return queues;
    }

    /** Everything in the topic, queue by queue in order of offsets; checks that the offsets are dense. */
    List<MessageExt> readAll(String topic) throws Exception {
        List<MessageExt> all = new ArrayList<>();
        for (MessageQueue queue : queues(topic)) {
            long end = reader.maxOffset(queue);
            long at = reader.minOffset(queue);
            while (at < end) {
                PullResult pulled = reader.pull(queue, "*", at, 32);
                check(pulled.getPullStatus() == PullStatus.FOUND, "pull of " + queue + " at " + at + ": " + pulled);
                for (MessageExt message : pulled.getMsgFoundList()) {
                    equal("queue offset in " + queue, at, message.getQueueOffset());
                    at++;
                    all.add(message);
                }
                equal("next offset of " + queue, at, pulled.getNextBeginOffset());
            }
        }
        return all;
    }

    /** Waits until the topic holds this many messages, then reads them. */
    List<MessageExt> readAll(String topic, int count) throws Exception {
        await(count + " messages in " + topic, () -> stored(topic) >= count);
        List<MessageExt> all = readAll(topic);
        equal("messages in " + topic, count, all.size());
        return all;
    }

    long stored(String topic) throws Exception {
        long stored = 0;
        for (MessageQueue queue : queues(topic)) {
            stored += reader.maxOffset(queue) - reader.minOffset(queue);
        }
        return stored;
    }

    DefaultMQPullConsumer reader() {
        return reader;
    }

    /** Offset of a group as the broker has it; -1 when it has none. */
    long committed(String group, MessageQueue queue) {
        RemoteBrokerOffsetStore store =
            new RemoteBrokerOffsetStore(admin.getDefaultMQProducerImpl().getMqClientFactory(), group);
        return store.readOffset(queue, ReadOffsetType.READ_FROM_STORE);
    }

    long committed(String group, String topic) throws Exception {
        long sum = 0;
        for (MessageQueue queue : queues(topic)) {
            sum += Math.max(0, committed(group, queue));
        }
        return sum;
    }

    /** Waits until the broker has the offsets of all that the members consumed: the client counts a message after its listener. */
    void settled(Collection<DefaultMQPushConsumer> members, String topic, long consumed) throws Exception {
        String group = members.iterator().next().getConsumerGroup();
        await("committed offsets of " + group, () -> {
            members.forEach(member -> member.getDefaultMQPushConsumerImpl().persistConsumerOffset());
            return committed(group, topic) == consumed;
        }, () -> "wanted " + consumed + ", the broker has " + committed(group, topic));
    }

    /** Waits until the members own all queues, each queue one owner and each member at least one. */
    void balanced(String topic, Collection<DefaultMQPushConsumer> members) throws Exception {
        int queues = queues(topic).size();
        Map<String, Integer> shares = new TreeMap<>();
        await("balance of " + topic, () -> {
            Map<MessageQueue, Integer> owners = new HashMap<>();
            shares.clear();
            for (DefaultMQPushConsumer member : members) {
                int share = 0;
                for (MessageQueue queue : member.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
                    if (queue.getTopic().equals(topic)) {
                        owners.merge(queue, 1, Integer::sum);
                        share++;
                    }
                }
                shares.put(member.getInstanceName(), share);
            }
            return owners.size() == queues && owners.values().stream().allMatch(n -> n == 1) && !shares.containsValue(0);
        }, shares::toString);
    }

    static void await(String what, Callable<Boolean> condition) throws Exception {
        await(what, condition, () -> "");
    }

    static void await(String what, Callable<Boolean> condition, Callable<String> state) throws Exception {
        long deadline = System.nanoTime() + PATIENCE_MS * 1_000_000;
        while (!condition.call()) {
            check(System.nanoTime() < deadline, "waited too long for " + what + " " + state.call());
            Thread.sleep(20);
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void equal(String what, Object wanted, Object found) {
        boolean same = wanted instanceof Number && found instanceof Number
            ? ((Number) wanted).longValue() == ((Number) found).longValue()
            : wanted == null ? found == null : wanted.equals(found);
        check(same, what + ": wanted " + wanted + ", found " + found);
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(MessageExt message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }
}
