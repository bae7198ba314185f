package clients;

import static clients.Lab.bytes;
import static clients.Lab.equal;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Two halves around a restart of the broker; the second may run in the same process, with connections that were cut. */
final class Restarting {
    private Restarting() {
    }

    /** 100 messages of which the group has consumed 60. */
    static String before(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("before_restart");
        String topic = lab.create("restart", 4);
        Receiving.send(producer, topic, 0, 60);
        Receiving.Inbox inbox = new Receiving.Inbox();
        DefaultMQPushConsumer consumer = consumer(lab, topic, inbox);
        inbox.awaitEachOnce(60);
        lab.settled(List.of(consumer), topic, 60);
        consumer.shutdown();
        Receiving.send(producer, topic, 60, 100);
        producer.shutdown();
        return "";
    }

    /** The topic has its queues, the messages are there, and the group goes on where it was. */
    static String after(Lab lab) throws Exception {
        String topic = lab.topic("restart");
        List<MessageQueue> queues = new ArrayList<>();
        Lab.await("the broker", () -> {
            try {
                queues.clear();
                queues.addAll(lab.queues(topic));
                return lab.stored(topic) == 100;
            } catch (Exception notYet) {
                return false;
            }
        });
        equal("queues on each broker", 4, queues.stream().filter(q -> q.getBrokerName().equals(queues.get(0).getBrokerName())).count());
        List<MessageExt> all = lab.readAll(topic, 100);
        equal("distinct bodies", 100, all.stream().map(Lab::text).distinct().count());
        equal("committed offsets", 60, lab.committed(lab.group("restart"), topic));
        DefaultMQProducer producer = lab.producer("after_restart");
        for (int i = 100; i < 110; i++) {
            Sending.accepted(producer.send(new Message(topic, bytes("message " + i))));
        }
        producer.shutdown();
        Receiving.Inbox inbox = new Receiving.Inbox();
        DefaultMQPushConsumer consumer = consumer(lab, topic, inbox);
        inbox.awaitEachOnce(50);
        consumer.shutdown();
        return "";
    }

    private static DefaultMQPushConsumer consumer(Lab lab, String topic, Receiving.Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = lab.push("restart", "restart");
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox.listener("restart"));
        consumer.start();
        return consumer;
    }
}
