package main

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// patience is long enough for a machine that runs everything at once; nothing here waits for it to pass.
const patience = 60 * time.Second

// lab is what all scenarios share: names, clients with patient timeouts, reading a topic back.
type lab struct {
	namesrv string
	brokers []string
	prefix  string
	// Clients are found in tables of the library while they start and stop.
	starting sync.Mutex
}

func newLab(namesrv string, brokers []string, prefix string) *lab {
	return &lab{namesrv: namesrv, brokers: brokers, prefix: prefix}
}

func (l *lab) topic(name string) string { return l.prefix + "_" + name }

func (l *lab) group(name string) string { return l.prefix + "_" + name + "_group" }

func (l *lab) resolver() primitive.NsResolver {
	return primitive.NewPassthroughResolver([]string{l.namesrv})
}

func (l *lab) producer(name string, options ...producer.Option) rocketmq.Producer {
	options = append([]producer.Option{
		producer.WithNsResolver(l.resolver()),
		producer.WithGroupName(l.group("producer_" + name)),
		producer.WithInstanceName("producer_" + name),
		producer.WithSendMsgTimeout(patience),
		producer.WithRetry(0),
	}, options...)
	l.starting.Lock()
	defer l.starting.Unlock()
	made := must(rocketmq.NewProducer(options...))
	none(made.Start())
	return made
}

// push starts a push consumer that hands single messages to listen.
func (l *lab) push(name, instance, tags string, listen func(*primitive.MessageExt) consumer.ConsumeResult, options ...consumer.Option) rocketmq.PushConsumer {
	options = append([]consumer.Option{
		consumer.WithNsResolver(l.resolver()),
		consumer.WithGroupName(l.group(name)),
		consumer.WithInstance(instance),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithConsumeMessageBatchMaxSize(1),
	}, options...)
	l.starting.Lock()
	defer l.starting.Unlock()
	made := must(rocketmq.NewPushConsumer(options...))
	selector := consumer.MessageSelector{}
	if tags != "" {
		selector = consumer.MessageSelector{Type: consumer.TAG, Expression: tags}
	}
	none(made.Subscribe(l.topic(name), selector, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		result := consumer.ConsumeSuccess
		for _, message := range messages {
			result = listen(message)
		}
		return result, nil
	}))
	none(made.Start())
	return made
}

// create makes the topic with this many queues on every broker and waits for its route.
func (l *lab) create(name string, queues int) string {
	topic := l.topic(name)
	tool := l.admin()
	for _, broker := range l.brokers {
		none(tool.CreateTopic(context.Background(), admin.WithTopicCreate(topic), admin.WithBrokerAddrCreate(broker),
			admin.WithReadQueueNums(queues), admin.WithWriteQueueNums(queues)))
	}
	l.queues(topic)
	return topic
}

func (l *lab) admin() admin.Admin {
	l.starting.Lock()
	defer l.starting.Unlock()
	return must(admin.NewAdmin(admin.WithResolver(l.resolver())))
}

// queues waits until the name server knows the topic.
func (l *lab) queues(topic string) []*primitive.MessageQueue {
	tool := l.admin()
	var queues []*primitive.MessageQueue
	await("a route of "+topic, func() bool {
		var err error
		queues, err = tool.FetchPublishMessageQueues(context.Background(), topic)
		return err == nil && len(queues) > 0
	})
	sort.Slice(queues, func(a, b int) bool {
		if queues[a].BrokerName != queues[b].BrokerName {
			return queues[a].BrokerName < queues[b].BrokerName
		}
		return queues[a].QueueId < queues[b].QueueId
	})
	return queues
}

// readAll reads count messages of the topic, queue by queue in order of offsets, and checks that the offsets are dense.
func (l *lab) readAll(topic string, count int) []*primitive.MessageExt {
	var all []*primitive.MessageExt
	l.withPuller("read", topic, func(puller rocketmq.PullConsumer) {
		queues := l.queues(topic)
		await(fmt.Sprintf("%d messages in %s", count, topic), func() bool {
			stored := int64(0)
			for _, queue := range queues {
				stored += end(puller, queue)
			}
			return stored >= int64(count)
		})
		for _, queue := range queues {
			next := int64(0)
			for last := end(puller, queue); next < last; {
				for _, message := range pullOnce(puller, queue, next, 32).GetMessageExts() {
					equal("queue offset in "+queue.String(), next, message.QueueOffset)
					next++
					all = append(all, message)
				}
			}
		}
	})
	equal("messages in "+topic, count, len(all))
	return all
}

// withPuller lends a pull consumer of a group of its own.
func (l *lab) withPuller(name, topic string, use func(rocketmq.PullConsumer)) {
	l.queues(topic)
	puller := l.puller(name+"_"+topic, topic)
	defer func() { _ = puller.Shutdown() }()
	use(puller)
}

func (l *lab) puller(name, topic string) rocketmq.PullConsumer {
	l.starting.Lock()
	defer l.starting.Unlock()
	puller := must(rocketmq.NewPullConsumer(consumer.WithNsResolver(l.resolver()), consumer.WithGroupName(l.group(name)),
		consumer.WithInstance(name), consumer.WithConsumerPullTimeout(time.Second)))
	none(puller.Subscribe(topic, consumer.MessageSelector{}))
	none(puller.Start())
	return puller
}

func pullOnce(puller rocketmq.PullConsumer, queue *primitive.MessageQueue, offset int64, most int) *primitive.PullResult {
	asked := *queue
	return must(puller.PullFrom(context.Background(), &asked, offset, most))
}

// end is the maximum offset of the queue: the answer to a pull from far beyond names it, at once.
func end(puller rocketmq.PullConsumer, queue *primitive.MessageQueue) int64 {
	return pullOnce(puller, queue, 1<<40, 1).MaxOffset
}

// inbox counts how often each body was delivered, and to which member.
type inbox struct {
	sync.Mutex
	times    map[string]int
	byMember map[string]int
}

func newInbox() *inbox { return &inbox{times: map[string]int{}, byMember: map[string]int{}} }

func (i *inbox) listener(member string) func(*primitive.MessageExt) consumer.ConsumeResult {
	return func(message *primitive.MessageExt) consumer.ConsumeResult {
		i.Lock()
		defer i.Unlock()
		i.times[string(message.Body)]++
		i.byMember[member]++
		return consumer.ConsumeSuccess
	}
}

func (i *inbox) distinct() int {
	i.Lock()
	defer i.Unlock()
	return len(i.times)
}

func (i *inbox) awaitEachOnce(count int) {
	await(fmt.Sprintf("%d distinct messages", count), func() bool { return i.distinct() >= count }, func() string {
		return fmt.Sprintf("have %d", i.distinct())
	})
	i.Lock()
	defer i.Unlock()
	equal("distinct messages", count, len(i.times))
	for body, times := range i.times {
		equal("deliveries of "+body, 1, times)
	}
}

func send(to rocketmq.Producer, topic string, first, end int) {
	for at := first; at < end; at += 10 {
		var batch []*primitive.Message
		for i := at; i < at+10 && i < end; i++ {
			batch = append(batch, primitive.NewMessage(topic, []byte(fmt.Sprintf("message %d", i))))
		}
		accepted(to.SendSync(context.Background(), batch...))
	}
}

func accepted(result *primitive.SendResult, err error) *primitive.SendResult {
	none(err)
	equal("status of "+result.String(), primitive.SendOK, result.Status)
	check(result.OffsetMsgID != "", "no id in %v", result)
	return result
}

func await(what string, condition func() bool, state ...func() string) {
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			for _, s := range state {
				what += ", " + s()
			}
			panic("waited too long for " + what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func check(holds bool, format string, arguments ...any) {
	if !holds {
		panic(fmt.Sprintf(format, arguments...))
	}
}

func equal[T comparable](what string, wanted, found T) {
	check(wanted == found, "%s: wanted %v, found %v", what, wanted, found)
}

func must[T any](value T, err error) T {
	none(err)
	return value
}

func none(err error) {
	if err != nil {
		panic(err)
	}
}
