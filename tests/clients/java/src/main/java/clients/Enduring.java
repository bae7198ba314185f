package clients;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Senders and members of a group that go on whatever becomes of the broker, with the client's own timeouts. Arguments: name server, topic,
 * group, senders, members. On standard output, a line each: what was acknowledged, {@code A broker queue offset sender number}, what was sent
 * without a good answer, {@code F sender number}, and what was consumed, {@code C broker queue offset sender number}. A line on standard input
 * ends the sending; the program ends with {@code E} when the group has consumed all that was acknowledged, or with {@code M} and
 * how much is missing.
 */
public final class Enduring {
    private static final long PATIENCE_MS = 120_000;
    private static final int[] BODY_BYTES = {256, 100, 1024, 12, 512, 3000, 64, 20_000};

    private final AtomicBoolean sending = new AtomicBoolean(true);
    private final Set<Long> unconsumed = ConcurrentHashMap.newKeySet();
    private final Set<Long> consumed = ConcurrentHashMap.newKeySet();

    private Enduring() {
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 5) {
            System.err.println("usage: clients.Enduring NAMESRV TOPIC GROUP SENDERS MEMBERS");
            System.exit(2);
        }
        new Enduring().run(args[0], args[1], args[2], Integer.parseInt(args[3]), Integer.parseInt(args[4]));
        System.exit(0);
    }

    private void run(String namesrv, String topic, String group, int senders, int members) throws Exception {
        for (int member = 0; member < members; member++) {
            join(namesrv, topic, group, "member-" + member);
        }
        DefaultMQProducer producer = new DefaultMQProducer(group + "_producer");
        producer.setNamesrvAddr(namesrv);
        producer.setPollNameServerInterval(1_000);
        // Each message once: what is sent again may be there twice.
        producer.setRetryTimesWhenSendFailed(0);
        // Bodies stay as they are, for whoever reads the log.
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        producer.start();
        List<Thread> threads = new ArrayList<>();
        for (int sender = 0; sender < senders; sender++) {
            int number = sender;
            Thread thread = new Thread(() -> send(producer, topic, number));
            thread.start();
            threads.add(thread);
        }
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).readLine();
        sending.set(false);
        for (Thread thread : threads) {
            thread.join();
        }
        long deadline = System.nanoTime() + PATIENCE_MS * 1_000_000;
        unconsumed.removeAll(consumed);
        while (!unconsumed.isEmpty() && System.nanoTime() < deadline) {
            Thread.sleep(20);
            unconsumed.removeAll(consumed);
        }
        say(unconsumed.isEmpty() ? "E" : "M " + unconsumed.size());
    }

    private void join(String namesrv, String topic, String group, String name) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(namesrv);
        consumer.setInstanceName(name);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setPollNameServerInterval(1_000);
        consumer.setHeartbeatBrokerInterval(1_000);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((List<MessageExt> messages, org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext context) -> {
            for (MessageExt message : messages) {
                consumed(message);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    private void consumed(MessageExt message) {
        ByteBuffer body = ByteBuffer.wrap(message.getBody());
        int sender = body.getInt();
        int number = body.getInt();
        say("C " + message.getBrokerName() + " " + message.getQueueId() + " " + message.getQueueOffset() + " " + sender + " " + number);
        consumed.add(id(sender, number));
    }

    private void send(DefaultMQProducer producer, String topic, int sender) {
        for (int number = 0; sending.get(); number++) {
            byte[] body = body(sender, number, BODY_BYTES[number % BODY_BYTES.length]);
            try {
                SendResult result = producer.send(new Message(topic, body));
                if (result.getSendStatus() != SendStatus.SEND_OK) {
                    throw new IllegalStateException(result.toString());
                }
                unconsumed.add(id(sender, number));
                say("A " + result.getMessageQueue().getBrokerName() + " " + result.getMessageQueue().getQueueId() + " "
                    + result.getQueueOffset() + " " + sender + " " + number);
            } catch (Exception notAcknowledged) {
                say("F " + sender + " " + number);
                pause();
            }
        }
    }

    /** Not to try a broker that is away thousands of times. */
    private static void pause() {
        try {
            Thread.sleep(10);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private static long id(int sender, int number) {
        return (long) sender << 32 | number;
    }

    /** As {@code Id::body} in tests/system/support/load.rs. */
    private static byte[] body(int sender, int number, int bytes) {
        ByteBuffer body = ByteBuffer.allocate(bytes + 8);
        body.putInt(sender).putInt(number).putInt(bytes);
        long state = id(sender, number) * 2 + 1;
        while (body.position() < bytes) {
            state = state * 6_364_136_223_846_793_005L + 1_442_695_040_888_963_407L;
            body.putLong(state ^ state >>> 29);
        }
        byte[] exact = new byte[bytes];
        body.flip();
        body.get(exact);
        return exact;
    }

    private static void say(String line) {
        synchronized (System.out) {
            System.out.println(line);
        }
    }
}
