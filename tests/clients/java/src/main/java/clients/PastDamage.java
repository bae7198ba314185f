package clients;

import static clients.Lab.bytes;
import static clients.Lab.equal;

import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;

/** Push consumers of a queue of which some messages are damaged on the disk between the two halves: what was hit is in LOST. */
final class PastDamage {
    private static final int CONSUMED = 50;
    private static final int MESSAGES = 200;
    /** In the middle, two side by side, the very next one of a group, and the last. */
    private static final Set<Integer> LOST = Set.of(CONSUMED, 120, 121, MESSAGES - 1);

    private PastDamage() {
    }

    static String write(Lab lab) throws Exception {
        String topic = lab.create("damaged", 1);
        DefaultMQProducer producer = lab.producer("damaged");
        send(producer, topic, 0, CONSUMED);
        Receiving.Inbox inbox = new Receiving.Inbox();
        DefaultMQPushConsumer consumer = consumer(lab, "damaged_next", topic, inbox);
        inbox.awaitEachOnce(CONSUMED);
        lab.settled(List.of(consumer), topic, CONSUMED);
        consumer.shutdown();
        send(producer, topic, CONSUMED, MESSAGES);
        producer.shutdown();
        return "";
    }

    static String read(Lab lab) throws Exception {
        String topic = lab.topic("damaged");
        consumeFrom(lab, "damaged_next", topic, CONSUMED);
        consumeFrom(lab, "damaged_all", topic, 0);
        return "";
    }

    /** All from an offset on but what is lost; then the group goes on with what comes new. */
    private static void consumeFrom(Lab lab, String group, String topic, int from) throws Exception {
        Set<String> wanted = new TreeSet<>();
        for (int i = from; i < MESSAGES; i++) {
            if (!LOST.contains(i)) {
                wanted.add(body(i));
            }
        }
        Receiving.Inbox inbox = new Receiving.Inbox();
        DefaultMQPushConsumer consumer = consumer(lab, group, topic, inbox);
        Lab.await("all messages but those that are damaged", () -> inbox.times.keySet().containsAll(wanted), () -> "have " + inbox.times.size());
        String news = "news for " + group;
        DefaultMQProducer producer = lab.producer(group);
        Sending.accepted(producer.send(new Message(topic, bytes(news))));
        producer.shutdown();
        wanted.add(news);
        Lab.await("a message behind the damage", () -> inbox.times.containsKey(news));
        // A group that comes later gets the news of those before it, too.
        inbox.times.keySet().removeIf(text -> text.startsWith("news for ") && !text.equals(news));
        equal("messages", wanted, new TreeSet<>(inbox.times.keySet()));
        inbox.times.forEach((text, times) -> equal("deliveries of " + text, 1, times));
        consumer.shutdown();
    }

    private static void send(DefaultMQProducer producer, String topic, int from, int to) throws Exception {
        for (int i = from; i < to; i++) {
            Sending.accepted(producer.send(new Message(topic, bytes(body(i)))));
        }
    }

    private static String body(int number) {
        return String.format("message number %06d %s", number, "and what it says ".repeat(30));
    }

    private static DefaultMQPushConsumer consumer(Lab lab, String group, String topic, Receiving.Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = lab.push(group, group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.listener(group));
        consumer.start();
        return consumer;
    }
}
