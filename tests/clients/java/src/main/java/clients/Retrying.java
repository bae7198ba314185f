package clients;

import static clients.Lab.bytes;
import static clients.Lab.check;
import static clients.Lab.equal;

import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** What comes later: retries, the dead letter topic, delayed messages. */
final class Retrying {
    private Retrying() {
    }

    private static final class Delivery {
        final long atMs = System.currentTimeMillis();
        final MessageExt message;

        Delivery(MessageExt message) {
            this.message = message;
        }
    }

    /** The first retry comes after ten seconds (level 3); with one retry allowed, the second failure ends in the DLQ. */
    static String laterThenDeadLetter(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("retry");
        String topic = lab.create("retry", 2);
        Map<String, List<Delivery>> deliveries = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = lab.push("retry", "retry");
        consumer.setMaxReconsumeTimes(1);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently)
            (messages, context) -> {
                MessageExt message = messages.get(0);
                String body = Lab.text(message);
                deliveries.computeIfAbsent(body, k -> new CopyOnWriteArrayList<>()).add(new Delivery(message));
                boolean fail = body.equals("dead") || body.equals("once") && message.getReconsumeTimes() == 0;
                return fail ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        consumer.start();
        lab.balanced(topic, List.of(consumer));
        Message once = new Message(topic, "T", "key-once", bytes("once"));
        once.putUserProperty("größe", "bleibt");
        SendResult sent = Sending.accepted(producer.send(once));
        Sending.accepted(producer.send(new Message(topic, bytes("dead"))));
        Sending.accepted(producer.send(new Message(topic, bytes("fine"))));

        Lab.await("the retry", () -> deliveries.containsKey("once") && deliveries.get("once").size() == 2,
            () -> deliveries.keySet().toString());
        Delivery first = deliveries.get("once").get(0);
        Delivery second = deliveries.get("once").get(1);
        long waitedMs = second.atMs - first.atMs;
        // The client finds the queues of a retry topic that is new at one of its own rounds, every 20 and 30 s.
        check(waitedMs >= 9_000 && waitedMs < 50_000, "retried after " + waitedMs + " ms");
        equal("reconsume times", 1, second.message.getReconsumeTimes());
        equal("topic shown to the listener", topic, second.message.getTopic());
        equal("id over the retry", sent.getMsgId(), second.message.getMsgId());
        equal("tags over the retry", "T", second.message.getTags());
        equal("keys over the retry", "key-once", second.message.getKeys());
        equal("property over the retry", "bleibt", second.message.getUserProperty("größe"));

        String deadLetters = "%DLQ%" + lab.group("retry");
        Lab.await("the dead letter", () -> lab.stored(deadLetters) == 1);
        equal("deliveries of the dead one", 2, deliveries.get("dead").size());
        equal("deliveries of the good one", 1, deliveries.get("fine").size());
        consumer.shutdown();
        producer.shutdown();
        return "retried after " + waitedMs + " ms";
    }

    static String delayLevel(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("delay");
        String topic = lab.create("delay", 2);
        List<Delivery> deliveries = new CopyOnWriteArrayList<>();
        DefaultMQPushConsumer consumer = lab.push("delay", "delay");
        consumer.subscribe(topic, "T");
        consumer.registerMessageListener((org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently)
            (messages, context) -> {
                messages.forEach(message -> deliveries.add(new Delivery(message)));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        consumer.start();
        lab.balanced(topic, List.of(consumer));
        long sentMs = System.currentTimeMillis();
        for (int level = 1; level <= 2; level++) {
            Message message = new Message(topic, "T", bytes("delayed " + level));
            message.setDelayTimeLevel(level);
            Sending.accepted(producer.send(message));
        }
        Lab.await("delayed messages", () -> deliveries.size() == 2, () -> "have " + deliveries.size());
        for (int i = 0; i < 2; i++) {
            long waitedMs = deliveries.get(i).atMs - sentMs;
            long wantedMs = i == 0 ? 1_000 : 5_000;
            equal("order of delays", "delayed " + (i + 1), Lab.text(deliveries.get(i).message));
            check(waitedMs >= wantedMs - 100 && waitedMs < wantedMs + 10_000, "level " + (i + 1) + " came after " + waitedMs + " ms");
            equal("tags of a delayed message", "T", deliveries.get(i).message.getTags());
        }
        consumer.shutdown();
        producer.shutdown();
        return "level 1 after " + (deliveries.get(0).atMs - sentMs) + " ms, level 2 after " + (deliveries.get(1).atMs - sentMs) + " ms";
    }
}
