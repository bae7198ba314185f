package clients;

import static clients.Lab.bytes;
import static clients.Lab.check;
import static clients.Lab.equal;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Bounds and times of a queue, lookup by key and by id. */
final class Querying {
    private Querying() {
    }

    static String offsetsKeysAndIds(Lab lab) throws Exception {
        DefaultMQProducer producer = lab.producer("queries");
        String topic = lab.create("queries", 1);
        MessageQueue queue = producer.fetchPublishMessageQueues(topic).get(0);
        equal("max offset of a new queue", 0, producer.maxOffset(queue));
        equal("min offset of a new queue", 0, producer.minOffset(queue));

        long before = System.currentTimeMillis();
        List<SendResult> results = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            results.add(Sending.accepted(producer.send(new Message(topic, "T", "order-" + i / 2, bytes("q" + i)), queue)));
            Thread.sleep(5);
        }
        long after = System.currentTimeMillis();
        equal("max offset", 10, producer.maxOffset(queue));
        equal("min offset", 0, producer.minOffset(queue));

        List<MessageExt> stored = lab.readAll(topic, 10);
        equal("earliest store time", stored.get(0).getStoreTimestamp(), producer.earliestMsgStoreTime(queue));
        equal("offset for the time of the fifth", 5, producer.searchOffset(queue, stored.get(5).getStoreTimestamp()));
        equal("offset for a time before all", 0, producer.searchOffset(queue, before - 1000));
        check(producer.searchOffset(queue, after + 60_000) >= 9, "offset for a time after all");

        MessageExt byOffsetId = producer.viewMessage(topic, results.get(3).getOffsetMsgId());
        equal("body by offset id", "q3", Lab.text(byOffsetId));
        Lab.await("index by key", () -> found(producer, topic, "order-4", before, after) == 2);
        Lab.await("lookup by client id", () -> {
            try {
                return Lab.text(producer.viewMessage(topic, results.get(7).getMsgId())).equals("q7");
            } catch (MQClientException notYet) {
                return false;
            }
        });
        equal("messages with a foreign key", 0, found(producer, topic, "order-77", before, after));
        producer.shutdown();
        return "";
    }

    private static int found(DefaultMQProducer producer, String topic, String key, long begin, long end) throws Exception {
        try {
            return producer.queryMessage(topic, key, 32, begin - 5000, end + 5000).getMessageList().size();
        } catch (MQClientException none) {
            return 0;
        }
    }
}
