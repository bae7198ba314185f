package clients;

import static clients.Lab.bytes;
import static clients.Lab.check;
import static clients.Lab.equal;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Push consumers: sharing, filtering, waking, broadcasting, order. */
final class Receiving {
    private Receiving() {
    }

    /** How often each body was delivered, and to which member. */
    static final class Inbox {
        final Map<String, Integer> times = new ConcurrentHashMap<>();
        final Map<String, Integer> byMember = new ConcurrentHashMap<>();

        MessageListenerConcurrently listener(String member) {
            byMember.put(member, 0);
            return (messages, context) -> {
                for (MessageExt message : messages) {
                    times.merge(Lab.text(message), 1, Integer::sum);
                    byMember.merge(member, 1, Integer::sum);
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            };
        }

        void awaitEachOnce(int count) throws Exception {
            Lab.await(count + " distinct messages", () -> times.size() >= count, () -> "have " + times.size());
            equal("distinct messages", count, times.size());
            times.forEach((body, n) -> equal("deliveries of " + body, 1, n));
        }
    }

    /** Two members, then four: the queues are shared anew at once, and each message reaches one member once. */
    static String groupSharesQueues(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("push_group");
        String topic = lab.create("push_group", 8);
        Inbox inbox = new Inbox();
        List<DefaultMQPushConsumer> members = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            members.add(join(lab, topic, inbox, "member-" + i));
        }
        lab.balanced(topic, members);
        send(producer, topic, 0, 1000);
        inbox.awaitEachOnce(1000);
        for (Map.Entry<String, Integer> share : inbox.byMember.entrySet()) {
            check(share.getValue() > 100, "unequal shares: " + inbox.byMember);
        }
        lab.settled(members, topic, 1000);

        long joined = System.nanoTime();
        for (int i = 2; i < 4; i++) {
            members.add(join(lab, topic, inbox, "member-" + i));
        }
        lab.balanced(topic, members);
        long balanceMs = (System.nanoTime() - joined) / 1_000_000;
        check(balanceMs < 15_000, "members look by themselves every 20 s; they were not told of the change: " + balanceMs + " ms");
        send(producer, topic, 1000, 2000);
        inbox.awaitEachOnce(2000);
        for (Map.Entry<String, Integer> share : inbox.byMember.entrySet()) {
            check(share.getValue() > 0, "a member got nothing: " + inbox.byMember);
        }

        lab.settled(members, topic, 2000);
        members.remove(0).shutdown();
        lab.balanced(topic, members);
        send(producer, topic, 2000, 2300);
        inbox.awaitEachOnce(2300);
        lab.settled(members, topic, 2300);
        members.forEach(DefaultMQPushConsumer::shutdown);
        producer.shutdown();
        return "two more members had their share after " + balanceMs + " ms; " + inbox.byMember;
    }

    /** Aa and BB have the same hash code: the broker lets both pass, the client drops the wrong one. */
    static String tagFilter(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("push_tags");
        String topic = lab.create("push_tags", 4);
        List<String> tags = Arrays.asList("Aa", "BB", "red", "green", "blue");
        for (int i = 0; i < 200; i++) {
            producer.send(new Message(topic, tags.get(i % 5), bytes(tags.get(i % 5) + " " + i)));
        }
        producer.send(new Message(topic, bytes("no tag")));
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = lab.push("push_tags", "tags");
        consumer.subscribe(topic, "Aa || green");
        consumer.registerMessageListener(inbox.listener("tags"));
        consumer.start();
        inbox.awaitEachOnce(80);
        Lab.await("offsets that pass over what was filtered", () -> {
            consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
            return lab.committed(lab.group("push_tags"), topic) >= 195;
        });
        inbox.times.keySet().forEach(body -> check(body.startsWith("Aa") || body.startsWith("green"), "got " + body));
        inbox.awaitEachOnce(80);
        consumer.shutdown();
        producer.shutdown();
        return "";
    }

    /** A pull that waits at the end of the queue is answered when a message arrives, not when its time is up. */
    static String heldPullWakes(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("push_wakes");
        String topic = lab.create("push_wakes", 1);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = lab.push("push_wakes", "wakes");
        consumer.subscribe(topic, "yes");
        consumer.registerMessageListener(inbox.listener("wakes"));
        consumer.start();
        lab.balanced(topic, List.of(consumer));
        producer.send(new Message(topic, "yes", bytes("first")));
        inbox.awaitEachOnce(1);
        List<Long> waitsMs = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            Thread.sleep(100);
            producer.send(new Message(topic, "no", bytes("other " + i)));
            long sent = System.nanoTime();
            producer.send(new Message(topic, "yes", bytes("wake " + i)));
            inbox.awaitEachOnce(2 + i);
            waitsMs.add((System.nanoTime() - sent) / 1_000_000);
        }
        waitsMs.sort(null);
        check(waitsMs.get(5) < 1000, "from send to delivery, ms: " + waitsMs);
        consumer.shutdown();
        producer.shutdown();
        return "from send to delivery, ms: " + waitsMs;
    }

    static String broadcasting(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("broadcasting");
        String topic = lab.create("broadcasting", 4);
        send(producer, topic, 0, 50);
        List<Inbox> inboxes = List.of(new Inbox(), new Inbox());
        List<DefaultMQPushConsumer> members = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer member = lab.push("broadcasting", "broadcasting-" + i);
            Lab.broadcast(member);
            member.subscribe(topic, "*");
            member.registerMessageListener(inboxes.get(i).listener("all"));
            member.start();
            members.add(member);
        }
        for (Inbox inbox : inboxes) {
            inbox.awaitEachOnce(50);
        }
        send(producer, topic, 50, 100);
        for (Inbox inbox : inboxes) {
            inbox.awaitEachOnce(100);
        }
        members.forEach(DefaultMQPushConsumer::shutdown);
        producer.shutdown();
        return "";
    }

    /** Two orderly members lock their queues; a queue that asks for a pause goes on with the same message. */
    static String orderly(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("orderly");
        String topic = lab.create("orderly", 4);
        Map<Integer, List<Integer>> sequences = new ConcurrentHashMap<>();
        AtomicInteger received = new AtomicInteger();
        AtomicInteger pauses = new AtomicInteger();
        MessageListenerOrderly listener = (messages, context) -> {
            MessageExt message = messages.get(0);
            String[] parts = Lab.text(message).split(" ");
            if (parts[1].equals("7") && message.getReconsumeTimes() == 0 && pauses.incrementAndGet() <= 3) {
                context.setSuspendCurrentQueueTimeMillis(50);
                return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
            }
            sequences.computeIfAbsent(Integer.valueOf(parts[0]), k -> new ArrayList<>()).add(Integer.valueOf(parts[1]));
            received.incrementAndGet();
            return ConsumeOrderlyStatus.SUCCESS;
        };
        List<DefaultMQPushConsumer> members = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer member = lab.push("orderly", "orderly-" + i);
            member.subscribe(topic, "*");
            member.registerMessageListener(listener);
            member.start();
            members.add(member);
        }
        lab.balanced(topic, members);
        for (int n = 0; n < 50; n++) {
            for (int key = 0; key < 6; key++) {
                producer.send(new Message(topic, bytes(key + " " + n)),
                    (List<MessageQueue> queues, Message message, Object arg) -> queues.get((Integer) arg % queues.size()), key);
            }
        }
        Lab.await("300 messages in order", () -> received.get() >= 300, () -> "have " + received.get());
        sequences.forEach((key, sequence) -> {
            for (int n = 0; n < 50; n++) {
                equal("sequence of key " + key, n, sequence.get(n));
            }
        });
        equal("received", 300, received.get());
        check(pauses.get() >= 3, "pauses " + pauses);
        members.forEach(DefaultMQPushConsumer::shutdown);
        producer.shutdown();
        return "";
    }

    private static DefaultMQPushConsumer join(Lab lab, String topic, Inbox inbox, String member) throws Exception {
        DefaultMQPushConsumer consumer = lab.push("push_group", member);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.listener(member));
        consumer.start();
        return consumer;
    }

    static void send(DefaultMQProducer producer, String topic, int from, int to) throws Exception {
        List<Message> batch = new ArrayList<>();
        for (int i = from; i < to; i++) {
            batch.add(new Message(topic, bytes("message " + i)));
            if (batch.size() == 10 || i + 1 == to) {
                Sending.accepted(producer.send(batch));
                batch.clear();
            }
        }
    }
}
