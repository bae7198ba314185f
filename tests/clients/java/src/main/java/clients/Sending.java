package clients;

import static clients.Lab.bytes;
import static clients.Lab.check;
import static clients.Lab.equal;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** The producer's calls: what was sent is in the queue and at the offset that the result names, with every field. */
final class Sending {
    private static final String UMLAUTS = "Größe ∑ 消息 🚀";
    private static final int BODY_BYTES_MAX = 4 * 1024 * 1024;

    private Sending() {
    }

    /** The topic does not exist before: it is created by the first message. */
    static String sync(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("sync");
        String topic = lab.topic("sync");
        Map<String, SendResult> results = new HashMap<>();
        for (int i = 0; i < 20; i++) {
            Message message = new Message(topic, "tag-" + i % 3, "key-" + i + " common-key", bytes("body " + i + " " + UMLAUTS));
            message.putUserProperty("größe", UMLAUTS + i);
            message.setFlag(i);
            results.put("body " + i + " " + UMLAUTS, accepted(producer.send(message)));
        }
        producer.shutdown();
        List<MessageExt> stored = lab.readAll(topic, 20);
        for (MessageExt message : stored) {
            SendResult result = results.get(Lab.text(message));
            check(result != null, "unknown body " + Lab.text(message));
            int i = message.getFlag();
            equal("queue", result.getMessageQueue().getQueueId(), message.getQueueId());
            equal("broker", result.getMessageQueue().getBrokerName(), message.getBrokerName());
            equal("offset", result.getQueueOffset(), message.getQueueOffset());
            equal("tags", "tag-" + i % 3, message.getTags());
            equal("keys", "key-" + i + " common-key", message.getKeys());
            equal("property", UMLAUTS + i, message.getUserProperty("größe"));
            equal("msgId", result.getMsgId(), message.getMsgId());
            equal("reconsume times", 0, message.getReconsumeTimes());
            check(message.getBornHostString().equals("127.0.0.1"), "born host " + message.getBornHost());
            long age = message.getStoreTimestamp() - message.getBornTimestamp();
            check(age >= -1000 && age < Lab.PATIENCE_MS, "stored " + age + " ms after birth");
        }
        equal("distinct offset ids", 20, results.values().stream().map(SendResult::getOffsetMsgId).distinct().count());
        return "20 messages over " + lab.queues(topic).size() + " queues";
    }

    static String async(Lab lab) throws Exception {
        int count = 200;
        DefaultMQProducer producer = lab.producer("async");
        String topic = lab.create("async", 4);
        CountDownLatch answered = new CountDownLatch(count);
        AtomicReference<Throwable> failure = new AtomicReference<>();
        Set<String> places = java.util.concurrent.ConcurrentHashMap.newKeySet();
        for (int i = 0; i < count; i++) {
            producer.send(new Message(topic, "A", bytes("async " + i)), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    places.add(result.getMessageQueue() + "@" + result.getQueueOffset());
                    answered.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    failure.set(e);
                    answered.countDown();
                }
            });
        }
        check(answered.await(Lab.PATIENCE_MS, TimeUnit.MILLISECONDS), answered.getCount() + " without an answer");
        producer.shutdown();
        check(failure.get() == null, "a send failed: " + failure.get());
        equal("distinct places", count, places.size());
        equal("distinct bodies", count, distinctBodies(lab.readAll(topic, count)));
        return "";
    }

    static String oneway(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("oneway");
        String topic = lab.create("oneway", 4);
        for (int i = 0; i < 100; i++) {
            producer.sendOneway(new Message(topic, bytes("oneway " + i)));
        }
        equal("distinct bodies", 100, distinctBodies(lab.readAll(topic, 100)));
        producer.shutdown();
        return "";
    }

    static String batch(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("batch");
        String topic = lab.create("batch", 2);
        Set<String> bodies = new HashSet<>();
        for (int round = 0; round < 3; round++) {
            List<Message> messages = new ArrayList<>();
            for (int i = 0; i < 30; i++) {
                Message message = new Message(topic, "tag-" + i % 2, "key-" + i, bytes("batch " + round + " " + i));
                message.putUserProperty("n", UMLAUTS + i);
                messages.add(message);
                bodies.add("batch " + round + " " + i);
            }
            SendResult result = accepted(producer.send(messages));
            equal("client ids", 30, result.getMsgId().split(",").length);
            equal("offset ids", 30, result.getOffsetMsgId().split(",").length);
            List<String> ids = Arrays.asList(result.getMsgId().split(","));
            List<MessageExt> found = new ArrayList<>();
            while (found.size() < 30) {
                found.addAll(lab.reader().pull(result.getMessageQueue(), "*", result.getQueueOffset() + found.size(),
                    30 - found.size()).getMsgFoundList());
            }
            for (int i = 0; i < 30; i++) {
                equal("order in the batch", "batch " + round + " " + i, Lab.text(found.get(i)));
                equal("tags", "tag-" + i % 2, found.get(i).getTags());
                equal("property", UMLAUTS + i, found.get(i).getUserProperty("n"));
                equal("id", ids.get(i), found.get(i).getMsgId());
            }
        }
        producer.shutdown();
        for (MessageExt message : lab.readAll(topic, 90)) {
            check(bodies.remove(Lab.text(message)), "unexpected " + Lab.text(message));
        }
        return "";
    }

    static String largestBody(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("largest");
        String topic = lab.create("largest", 1);
        MessageQueue queue = lab.queues(topic).get(0);
        byte[] random = new byte[BODY_BYTES_MAX];
        new Random(7).nextBytes(random);
        byte[] even = new byte[BODY_BYTES_MAX];
        Arrays.fill(even, (byte) 'x');
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        accepted(producer.send(new Message(topic, random), queue));
        accepted(producer.send(new Message(topic, new byte[] {1}), queue));
        producer.setCompressMsgBodyOverHowmuch(1024);
        accepted(producer.send(new Message(topic, even), queue));
        List<MessageExt> found = lab.readAll(topic, 3);
        check(Arrays.equals(random, found.get(0).getBody()), "the raw body of 4 MiB differs");
        equal("the small body", 1, found.get(1).getBody().length);
        check(Arrays.equals(even, found.get(2).getBody()), "the compressed body differs");
        producer.shutdown();
        return "";
    }

    /** What the broker must refuse, with the code that the client shows; the connection stays usable. */
    static String refusals(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("refusals");
        String topic = lab.create("refusals", 1);
        producer.setMaxMessageSize(BODY_BYTES_MAX * 2);
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        equal("code for a body over 4 MiB", 13, refused(producer, new Message(topic, new byte[BODY_BYTES_MAX + 1])));
        Message manyProperties = new Message(topic, bytes("x"));
        manyProperties.putUserProperty("long", "v".repeat(40_000));
        equal("code for properties over 32767 bytes", 13, refused(producer, manyProperties));
        accepted(producer.send(new Message(topic, bytes("still here"))));
        equal("stored", 1, lab.readAll(topic).size());
        producer.shutdown();
        return "";
    }

    static SendResult accepted(SendResult result) {
        equal("status of " + result, SendStatus.SEND_OK, result.getSendStatus());
        check(result.getMsgId() != null && result.getOffsetMsgId() != null, "no ids in " + result);
        return result;
    }

    private static int refused(DefaultMQProducer producer, Message message) throws Exception {
        try {
            throw new AssertionError("accepted: " + producer.send(message));
        } catch (MQBrokerException refusal) {
            return refusal.getResponseCode();
        }
    }

    private static long distinctBodies(List<MessageExt> messages) {
        return messages.stream().map(Lab::text).distinct().count();
    }
}
