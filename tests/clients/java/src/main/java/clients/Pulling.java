package clients;

import static clients.Lab.check;
import static clients.Lab.equal;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** The lite pull consumer: assigned queues with seeks, and subscribed with commits. */
final class Pulling {
    private Pulling() {
    }

    static String assignAndSeek(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("lite_assign");
        String topic = lab.create("lite_assign", 1);
        Receiving.send(producer, topic, 0, 100);
        DefaultLitePullConsumer consumer = lab.lite("lite_assign");
        consumer.setAutoCommit(false);
        consumer.start();
        List<MessageQueue> queues = new ArrayList<>();
        Lab.await("queues for the lite consumer", () -> {
            queues.clear();
            queues.addAll(consumer.fetchMessageQueues(topic));
            return !queues.isEmpty();
        });
        // The messages lie in one of the queues: with several brokers there is one queue on each.
        MessageQueue queue = queues.get(0);
        consumer.assign(List.of(queue));
        long end = producer.maxOffset(queue);
        check(end > 20, "messages in " + queue + ": " + end);
        consumer.seekToBegin(queue);
        goesOnAt("after seekToBegin", consumer, 0);
        consumer.seek(queue, 17);
        goesOnAt("after seek", consumer, 17);
        consumer.seek(queue, 3);
        goesOnAt("after seek back", consumer, 3);
        consumer.seekToEnd(queue);
        Receiving.send(producer, topic, 100, 140);
        goesOnAt("after seekToEnd", consumer, end);
        equal("offset for a time before all", 0, consumer.offsetForTimestamp(queue, System.currentTimeMillis() - 3_600_000));
        consumer.shutdown();
        producer.shutdown();
        return "";
    }

    static String subscribeAndCommit(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("lite_subscribe");
        String topic = lab.create("lite_subscribe", 4);
        Receiving.send(producer, topic, 0, 200);
        Set<String> seen = new HashSet<>();
        DefaultLitePullConsumer first = subscribed(lab, topic);
        while (seen.size() < 200) {
            for (MessageExt message : polled(first)) {
                check(seen.add(Lab.text(message)), "twice: " + Lab.text(message));
            }
        }
        first.commitSync();
        Lab.await("committed offsets", () -> lab.committed(lab.group("lite_subscribe"), topic) == 200);
        first.shutdown();
        Receiving.send(producer, topic, 200, 240);
        DefaultLitePullConsumer second = subscribed(lab, topic);
        while (seen.size() < 240) {
            for (MessageExt message : polled(second)) {
                check(seen.add(Lab.text(message)), "twice, over the change of consumers: " + Lab.text(message));
            }
        }
        second.shutdown();
        producer.shutdown();
        return "";
    }

    private static DefaultLitePullConsumer subscribed(Lab lab, String topic) throws Exception {
        DefaultLitePullConsumer consumer = lab.lite("lite_subscribe");
        consumer.setAutoCommit(false);
        consumer.subscribe(topic, "*");
        consumer.start();
        return consumer;
    }

    private static List<MessageExt> polled(DefaultLitePullConsumer consumer) {
        List<MessageExt> messages = consumer.poll(Lab.PATIENCE_MS);
        check(!messages.isEmpty(), "nothing to poll");
        return messages;
    }

    /**
     * One of the next polls begins at this offset. Not always the first one: a pull that was under way during the seek may still
     * hand over its ten messages. Going on from there, none would begin at the offsets that are asked for here.
     */
    private static void goesOnAt(String when, DefaultLitePullConsumer consumer, long offset) {
        List<Long> begins = new ArrayList<>();
        while (begins.size() < 4 && !begins.contains(offset)) {
            begins.add(polled(consumer).get(0).getQueueOffset());
        }
        check(begins.contains(offset), when + " wanted " + offset + ", polls began at " + begins);
    }
}
