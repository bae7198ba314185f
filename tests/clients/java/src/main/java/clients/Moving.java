package clients;

import static clients.Lab.bytes;
import static clients.Lab.check;
import static clients.Lab.equal;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * One store under changing brokers: each round writes every kind of message under one broker and remembers all of it; the next broker must
 * have the same at the same places, and go on with what was not finished.
 */
final class Moving {
    private static final String[] TOPICS = {"plain", "batch", "large", "group", "failing", "half"};
    private static final int LARGE_BYTES = 3 * 1024 * 1024;
    private static final int CONSUMED = 40;
    private static final int WAITING = 20;

    /** Lines that tell all of each message, by topic, in order. */
    private static final Map<String, List<String>> STORED = new TreeMap<>();
    private static final Map<String, Long> COMMITTED = new TreeMap<>();
    /** Client id and place of the messages with a key. */
    private static final Map<String, String> KEYS = new TreeMap<>();
    /** When each delayed message is due at the earliest, of those that did not come yet. */
    private static final Map<String, Long> DUE_MS = new ConcurrentHashMap<>();
    private static final Set<String> DELIVERED = new HashSet<>();
    private static int round;
    private static String failing;

    private Moving() {
    }

    static String write(Lab lab) throws Exception {
        round++;
        // The stock broker says that it runs before the name server knows its topics.
        lab.queues("TBW102");
        DefaultMQProducer producer = lab.producer("moving_" + round);
        producer.setCompressMsgBodyOverHowmuch(2048);
        lab.create("moving_half", 1);
        writePlain(lab, producer);
        writeBatch(lab, producer);
        writeLarge(lab, producer);
        consumeSome(lab, producer);
        failOnce(lab, producer);
        writeDelayed(lab, producer);
        producer.shutdown();
        return "round " + round;
    }

    /** What the broker holds now; to be the last before it ends. */
    static String remember(Lab lab) throws Exception {
        StringBuilder note = new StringBuilder();
        for (String name : TOPICS) {
            List<String> lines = lines(lab, name);
            STORED.put(name, lines);
            note.append(name).append(' ').append(lines.size()).append(' ');
        }
        COMMITTED.put("group", lab.committed(lab.group("moving"), lab.topic("moving_group")));
        COMMITTED.put("failing", lab.committed(lab.group("moving_failing"), lab.topic("moving_failing")));
        return note + COMMITTED.toString();
    }

    /** After a clean stop: everything is as it was, and nothing comes twice. */
    static String read(Lab lab) throws Exception {
        return read(lab, true);
    }

    /** After a kill: everything is as it was; the last five seconds of offsets may be forgotten. */
    static String readAfterKill(Lab lab) throws Exception {
        return read(lab, false);
    }

    private static String read(Lab lab, boolean wasClean) throws Exception {
        Lab.await("the broker", () -> {
            try {
                return !lab.queues(lab.topic("moving_plain")).isEmpty() && lab.stored(lab.topic("moving_plain")) > 0;
            } catch (Exception notYet) {
                return false;
            }
        });
        for (String name : TOPICS) {
            List<String> wanted = STORED.get(name);
            List<String> found = lines(lab, name);
            // The stock broker appends a half message again whenever it asks for its transaction.
            boolean mayGrow = name.equals("half") && found.size() > wanted.size();
            equal("messages of " + name, wanted.size(), mayGrow ? wanted.size() : found.size());
            for (int i = 0; i < wanted.size(); i++) {
                equal(name, wanted.get(i), found.get(i));
            }
        }
        if (wasClean) {
            equal("offset of the group", COMMITTED.get("group"), lab.committed(lab.group("moving"), lab.topic("moving_group")));
            equal("offset of the group that failed", COMMITTED.get("failing"),
                lab.committed(lab.group("moving_failing"), lab.topic("moving_failing")));
        }
        findByKey(lab);
        findByTime(lab);
        String group = goOn(lab, wasClean);
        String retried = retry(lab);
        String delayed = awaitDelayed(lab, wasClean);
        return group + "; " + retried + "; " + delayed;
    }

    private static void writePlain(Lab lab, DefaultMQProducer producer) throws Exception {
        String topic = lab.create("moving_plain", 4);
        for (int i = 0; i < 100; i++) {
            String key = "key-" + round + "-" + i;
            Message message = new Message(topic, "tag-" + i % 5, key + " common-" + round, bytes("plain " + round + " " + "x".repeat(i * 50)));
            message.putUserProperty("größe", "∑ 消息 " + i);
            message.setFlag(round * 1000 + i);
            SendResult sent = Sending.accepted(producer.send(message));
            if (i % 20 == 0) {
                KEYS.put(key, sent.getMsgId() + "@" + sent.getMessageQueue().getQueueId() + ":" + sent.getQueueOffset());
            }
        }
    }

    private static void writeBatch(Lab lab, DefaultMQProducer producer) throws Exception {
        String topic = lab.create("moving_batch", 2);
        List<Message> messages = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            messages.add(new Message(topic, "B", "batch-" + round + "-" + i, bytes("batch " + round + " " + i)));
        }
        Sending.accepted(producer.send(messages));
    }

    private static void writeLarge(Lab lab, DefaultMQProducer producer) throws Exception {
        String topic = lab.create("moving_large", 1);
        for (int i = 0; i < 3; i++) {
            byte[] random = new byte[LARGE_BYTES];
            new Random(round * 10L + i).nextBytes(random);
            Sending.accepted(producer.send(new Message(topic, random)));
        }
        byte[] even = new byte[4 * 1024 * 1024];
        Arrays.fill(even, (byte) ('a' + round));
        Sending.accepted(producer.send(new Message(topic, even)));
    }

    /** The group consumes some, and leaves some. */
    private static void consumeSome(Lab lab, DefaultMQProducer producer) throws Exception {
        String topic = lab.create("moving_group", 4);
        Receiving.Inbox inbox = new Receiving.Inbox();
        DefaultMQPushConsumer consumer = consumer(lab, "moving", topic, inbox);
        int before = (round - 1) * (CONSUMED + WAITING);
        sendNumbered(producer, topic, before, before + CONSUMED);
        lab.settled(List.of(consumer), topic, before + CONSUMED);
        consumer.shutdown();
        sendNumbered(producer, topic, before + CONSUMED, before + CONSUMED + WAITING);
    }

    private static void sendNumbered(DefaultMQProducer producer, String topic, int from, int to) throws Exception {
        for (int i = from; i < to; i++) {
            Sending.accepted(producer.send(new Message(topic, bytes("numbered " + i))));
        }
    }

    /** A message that its consumer cannot handle: it waits for its retry when the broker ends. */
    private static void failOnce(Lab lab, DefaultMQProducer producer) throws Exception {
        String topic = lab.create("moving_failing", 1);
        failing = "failing " + round;
        Set<String> failed = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer consumer = lab.push("moving_failing", "moving_failing");
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            boolean fails = Lab.text(messages.get(0)).equals(failing) && messages.get(0).getReconsumeTimes() == 0;
            if (fails) {
                failed.add(failing);
            }
            return fails ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        Message message = new Message(topic, "F", "failing-" + round, bytes(failing));
        message.putUserProperty("kept", "bleibt");
        Sending.accepted(producer.send(message));
        Lab.await("the failure", () -> failed.contains(failing));
        lab.settled(List.of(consumer), topic, round);
        consumer.shutdown();
    }

    private static void writeDelayed(Lab lab, DefaultMQProducer producer) throws Exception {
        String topic = lab.create("moving_delayed", 2);
        // 10 s always; in the first round also 30 s, which surely are not over when the next broker runs.
        for (int level : round == 1 ? new int[] {3, 4} : new int[] {3}) {
            for (int i = 0; i < 3; i++) {
                String body = "delayed " + round + " by level " + level + " " + i;
                Message message = new Message(topic, "D", bytes(body));
                message.setDelayTimeLevel(level);
                long dueMs = System.currentTimeMillis() + (level == 3 ? 10_000 : 30_000);
                Sending.accepted(producer.send(message));
                DUE_MS.put(body, dueMs);
            }
        }
    }

    /** One transaction of each kind: committed, rolled back, and one of which nothing is heard any more. */
    static String half(Lab lab) throws Exception {
        String topic = lab.topic("moving_half");
        TransactionMQProducer producer = new TransactionMQProducer(lab.group("moving_half"));
        producer.setNamesrvAddr(lab.namesrv);
        producer.setInstanceName("moving_half_" + round);
        producer.setSendMsgTimeout((int) Lab.PATIENCE_MS);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object state) {
                return (LocalTransactionState) state;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.UNKNOW;
            }
        });
        producer.start();
        long before = lab.stored(topic);
        for (LocalTransactionState state : LocalTransactionState.values()) {
            Message message = new Message(topic, "H", "half-" + state, bytes("half " + round + " " + state));
            equal("status of " + state, SendStatus.SEND_OK, producer.sendMessageInTransaction(message, state).getSendStatus());
        }
        Lab.await("the committed message", () -> lab.stored(topic) == before + 1);
        producer.shutdown();
        return "";
    }

    /** After the way back: the stock broker asks for what became of the transaction that was left open, and delivers it. */
    static String halfChecked(Lab lab) throws Exception {
        String topic = lab.topic("moving_half");
        long before = lab.stored(topic);
        Set<String> checked = ConcurrentHashMap.newKeySet();
        TransactionMQProducer producer = new TransactionMQProducer(lab.group("moving_half"));
        producer.setNamesrvAddr(lab.namesrv);
        producer.setInstanceName("moving_half_checked");
        producer.setHeartbeatBrokerInterval(1_000);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object state) {
                return LocalTransactionState.UNKNOW;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                checked.add(Lab.text(message));
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        producer.start();
        // A producer tells those brokers of itself that it has sent to.
        Sending.accepted(producer.send(new Message(lab.topic("moving_plain"), bytes("here I am"))));
        Lab.await("the question for the open transaction", () -> lab.stored(topic) > before, () -> "asked for " + checked);
        equal("transactions that were asked for", Set.of("half 1 UNKNOW"), checked);
        producer.shutdown();
        return "";
    }

    private static void findByKey(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("moving_keys");
        for (Map.Entry<String, String> wanted : KEYS.entrySet()) {
            Set<String> places = new HashSet<>();
            Lab.await("the key " + wanted.getKey(), () -> {
                try {
                    List<MessageExt> found = producer.queryMessage(lab.topic("moving_plain"), wanted.getKey(), 32, 0,
                        System.currentTimeMillis() + 60_000).getMessageList();
                    found.forEach(m -> places.add(m.getMsgId() + "@" + m.getQueueId() + ":" + m.getQueueOffset()));
                    return true;
                } catch (MQClientException notYet) {
                    return false;
                }
            });
            equal("messages with the key " + wanted.getKey(), Set.of(wanted.getValue()), places);
        }
        producer.shutdown();
    }

    private static void findByTime(Lab lab) throws Exception {
        MessageQueue queue = lab.queues(lab.topic("moving_plain")).get(0);
        List<MessageExt> first = lab.reader().pull(queue, "*", 10, 1).getMsgFoundList();
        long offset = lab.reader().searchOffset(queue, first.get(0).getStoreTimestamp());
        MessageExt found = lab.reader().pull(queue, "*", offset, 1).getMsgFoundList().get(0);
        equal("time of the message that was found by its time", first.get(0).getStoreTimestamp(), found.getStoreTimestamp());
    }

    /** The group goes on where it was. */
    private static String goOn(Lab lab, boolean wasClean) throws Exception {
        String topic = lab.topic("moving_group");
        int end = round * (CONSUMED + WAITING);
        Receiving.Inbox inbox = new Receiving.Inbox();
        DefaultMQPushConsumer consumer = consumer(lab, "moving", topic, inbox);
        Lab.await("the messages that waited", () -> {
            for (int i = end - WAITING; i < end; i++) {
                if (!inbox.times.containsKey("numbered " + i)) {
                    return false;
                }
            }
            return true;
        }, () -> "have " + inbox.times.keySet());
        if (wasClean) {
            inbox.awaitEachOnce(WAITING);
        }
        lab.settled(List.of(consumer), topic, end);
        consumer.shutdown();
        return inbox.times.size() + " for the group";
    }

    private static String retry(Lab lab) throws Exception {
        Map<String, MessageExt> retried = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = lab.push("moving_failing", "moving_failing");
        consumer.subscribe(lab.topic("moving_failing"), "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.stream().filter(m -> m.getReconsumeTimes() > 0).forEach(m -> retried.put(Lab.text(m), m));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        Lab.await("the retry", () -> retried.containsKey(failing), () -> "have " + retried.keySet());
        MessageExt message = retried.get(failing);
        equal("reconsume times", 1, message.getReconsumeTimes());
        equal("topic shown to the listener", lab.topic("moving_failing"), message.getTopic());
        equal("keys over the retry", "failing-" + round, message.getKeys());
        equal("property over the retry", "bleibt", message.getUserProperty("kept"));
        consumer.shutdown();
        return "retried";
    }

    private static String awaitDelayed(Lab lab, boolean wasClean) throws Exception {
        String topic = lab.topic("moving_delayed");
        Map<String, Long> arrivedMs = new TreeMap<>();
        Lab.await("delayed messages", () -> {
            arrivedMs.clear();
            for (MessageExt message : lab.readAll(topic)) {
                Long again = arrivedMs.put(Lab.text(message), message.getStoreTimestamp());
                check(again == null || !wasClean || DELIVERED.contains(Lab.text(message)), "twice: " + Lab.text(message));
                equal("tags of a delayed message", "D", message.getTags());
            }
            return arrivedMs.keySet().containsAll(DUE_MS.keySet());
        }, () -> "have " + arrivedMs.keySet());
        for (Map.Entry<String, Long> due : DUE_MS.entrySet()) {
            long late = arrivedMs.get(due.getKey()) - due.getValue();
            check(late >= 0, due.getKey() + " came " + -late + " ms early");
        }
        DELIVERED.addAll(arrivedMs.keySet());
        DUE_MS.clear();
        return arrivedMs.size() + " delayed";
    }

    private static DefaultMQPushConsumer consumer(Lab lab, String group, String topic, Receiving.Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = lab.push(group, group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.listener(group));
        consumer.start();
        return consumer;
    }

    /** All that is stored in a topic. */
    private static List<String> lines(Lab lab, String name) throws Exception {
        List<String> lines = new ArrayList<>();
        List<MessageExt> messages = lab.readAll(lab.topic("moving_" + name));
        messages.forEach(message -> lines.add(line(message)));
        if (name.equals("half")) {
            String broker = lab.queues(lab.topic("moving_plain")).get(0).getBrokerName();
            MessageQueue halves = new MessageQueue("RMQ_SYS_TRANS_HALF_TOPIC", broker, 0);
            long end = lab.reader().maxOffset(halves);
            for (long at = 0; at < end;) {
                PullResult pulled = lab.reader().pull(halves, "*", at, 32);
                equal("pull of half messages", PullStatus.FOUND, pulled.getPullStatus());
                pulled.getMsgFoundList().forEach(message -> lines.add(line(message)));
                at = pulled.getNextBeginOffset();
            }
        }
        return lines;
    }

    private static String line(MessageExt message) {
        Map<String, String> properties = new TreeMap<>(message.getProperties());
        // What a broker says of the queue when it is asked, and which checksum it stores.
        properties.keySet().removeAll(Set.of("MIN_OFFSET", "MAX_OFFSET", "__CRC32#"));
        return String.join(" ", message.getTopic(), message.getQueueId() + ":" + message.getQueueOffset(), "log " + message.getCommitLogOffset(),
            message.getMsgId(), "born " + message.getBornTimestamp(), "stored " + message.getStoreTimestamp(), "flag " + message.getFlag(),
            "body " + message.getBody().length + " " + Arrays.hashCode(message.getBody()), properties.toString());
    }
}
