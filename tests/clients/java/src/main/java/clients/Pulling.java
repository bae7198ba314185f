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
        check(producer.maxOffset(queue) > 20, "messages in " + queue + ": " + producer.maxOffset(queue));
        goesOnAfter("seekToBegin", consumer, () -> {
            consumer.seekToBegin(queue);
            return 0;
        });
        goesOnAfter("seek", consumer, () -> {
            consumer.seek(queue, 17);
            return 17;
        });
        goesOnAfter("seek back", consumer, () -> {
            consumer.seek(queue, 3);
            return 3;
        });
        goesOnAfter("seekToEnd", consumer, () -> {
            long end = producer.maxOffset(queue);
            consumer.seekToEnd(queue);
            Receiving.send(producer, topic, 100, 140);
            return end;
        });
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

    private interface Seek {
        /** Seeks, and names the offset from which the polls should go on. */
        long run() throws Exception;
    }

    /**
     * One of the polls after the seek begins at its offset. Not always the first one: a pull that was under way may still hand over
     * its ten messages. Going on from there, none would begin at the offsets that are asked for here.
     *
     * <p>The client can lose a seek by itself, whatever the broker: a seek interrupts the thread that pulls, 5.5.0 answers an
     * interrupt before its write by closing the connection, and when the first pull from the new offset fails with that connection,
     * the next one goes on from the offset before the seek. So a lost seek is made again, twice.
     */
    private static void goesOnAfter(String name, DefaultLitePullConsumer consumer, Seek seek) throws Exception {
        List<String> tries = new ArrayList<>();
        while (tries.size() < 3) {
            long offset = seek.run();
            List<Long> begins = new ArrayList<>();
            while (begins.size() < 4) {
                begins.add(polled(consumer).get(0).getQueueOffset());
                if (begins.contains(offset)) {
                    return;
                }
            }
            tries.add("wanted " + offset + ", polls began at " + begins);
        }
        throw new AssertionError("after " + name + ": " + tries);
    }
}
