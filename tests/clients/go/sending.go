package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const umlauts = "Größe ∑ 消息 🚀"

// sendSync creates the topic by its first message.
func sendSync(l *lab) string {
	p := l.producer("sync")
	defer p.Shutdown()
	topic := l.topic("sync")
	results := map[string]*primitive.SendResult{}
	for i := 0; i < 20; i++ {
		body := fmt.Sprintf("body %d %s", i, umlauts)
		message := primitive.NewMessage(topic, []byte(body)).
			WithTag(fmt.Sprintf("tag-%d", i%3)).
			WithKeys([]string{fmt.Sprintf("key-%d", i), "common-key"})
		message.WithProperty("größe", umlauts+fmt.Sprint(i))
		results[body] = accepted(p.SendSync(context.Background(), message))
		check(results[body].MsgID != "", "no id in %v", results[body])
	}
	for _, message := range l.readAll(topic, 20) {
		result := results[string(message.Body)]
		check(result != nil, "unknown body %s", message.Body)
		var i int
		must(fmt.Sscanf(string(message.Body), "body %d", &i))
		equal("queue", result.MessageQueue.QueueId, message.Queue.QueueId)
		equal("broker", result.MessageQueue.BrokerName, message.Queue.BrokerName)
		equal("offset", result.QueueOffset, message.QueueOffset)
		equal("tags", fmt.Sprintf("tag-%d", i%3), message.GetTags())
		equal("keys", fmt.Sprintf("key-%d common-key", i), strings.TrimSpace(message.GetKeys()))
		equal("property", umlauts+fmt.Sprint(i), message.GetProperty("größe"))
		equal("id", result.MsgID, message.MsgId)
		check(strings.HasPrefix(message.BornHost, "127.0.0.1:"), "born host %s", message.BornHost)
	}
	return fmt.Sprintf("20 messages over %d queues", len(l.queues(topic)))
}

func sendAsync(l *lab) string {
	const count = 200
	p := l.producer("async")
	defer p.Shutdown()
	topic := l.create("async", 4)
	var answered sync.WaitGroup
	var lock sync.Mutex
	places := map[string]bool{}
	answered.Add(count)
	for i := 0; i < count; i++ {
		none(p.SendAsync(context.Background(), func(_ context.Context, result *primitive.SendResult, err error) {
			defer answered.Done()
			if err == nil {
				lock.Lock()
				defer lock.Unlock()
				places[fmt.Sprintf("%s@%d", result.MessageQueue, result.QueueOffset)] = true
			}
		}, primitive.NewMessage(topic, []byte(fmt.Sprintf("async %d", i))).WithTag("A")))
	}
	answered.Wait()
	equal("accepted at distinct places", count, len(places))
	equal("distinct bodies", count, distinctBodies(l.readAll(topic, count)))
	return ""
}

func sendOneway(l *lab) string {
	p := l.producer("oneway")
	defer p.Shutdown()
	topic := l.create("oneway", 4)
	for i := 0; i < 100; i++ {
		none(p.SendOneWay(context.Background(), primitive.NewMessage(topic, []byte(fmt.Sprintf("oneway %d", i)))))
	}
	equal("distinct bodies", 100, distinctBodies(l.readAll(topic, 100)))
	return ""
}

func sendBatch(l *lab) string {
	p := l.producer("batch")
	defer p.Shutdown()
	topic := l.create("batch", 2)
	for round := 0; round < 3; round++ {
		var messages []*primitive.Message
		for i := 0; i < 30; i++ {
			message := primitive.NewMessage(topic, []byte(fmt.Sprintf("batch %d %d", round, i))).WithTag(fmt.Sprintf("tag-%d", i%2))
			message.WithProperty("n", umlauts+fmt.Sprint(i))
			messages = append(messages, message)
		}
		result := accepted(p.SendSync(context.Background(), messages...))
		equal("offset ids", 30, len(strings.Split(result.OffsetMsgID, ",")))
	}
	all := l.readAll(topic, 90)
	equal("distinct bodies", 90, distinctBodies(all))
	last := map[string]int{}
	for _, message := range all {
		var round, i int
		must(fmt.Sscanf(string(message.Body), "batch %d %d", &round, &i))
		equal("property", umlauts+fmt.Sprint(i), message.GetProperty("n"))
		equal("tags", fmt.Sprintf("tag-%d", i%2), message.GetTags())
		place := fmt.Sprintf("%s of round %d", message.Queue, round)
		equal("order in "+place, last[place], i)
		last[place] = i + 1
	}
	return ""
}

func sendLargestBody(l *lab) string {
	p := l.producer("largest", producer.WithCompressMsgBodyOverHowmuch(1<<30))
	defer p.Shutdown()
	packing := l.producer("largest_compressed", producer.WithCompressMsgBodyOverHowmuch(1024))
	defer packing.Shutdown()
	topic := l.create("largest", 1)
	noise := make([]byte, 4<<20)
	rand.New(rand.NewSource(7)).Read(noise)
	even := bytes.Repeat([]byte("x"), 4<<20)
	queue := l.queues(topic)[0]
	accepted(p.SendSync(context.Background(), primitive.NewMessage(topic, noise)))
	accepted(packing.SendSync(context.Background(), primitive.NewMessage(topic, even)))
	_, err := p.SendSync(context.Background(), primitive.NewMessage(topic, append(noise, 0)))
	check(err != nil, "a body over 4 MiB was accepted in %s", queue)
	accepted(p.SendSync(context.Background(), primitive.NewMessage(topic, []byte("small"))))
	sizes := map[int]bool{}
	for _, message := range l.readAll(topic, 3) {
		sizes[len(message.Body)] = true
		check(len(message.Body) == 5 || bytes.Equal(message.Body, noise) || bytes.Equal(message.Body, even), "a large body differs")
	}
	equal("distinct sizes", 2, len(sizes))
	return ""
}

func distinctBodies(messages []*primitive.MessageExt) int {
	bodies := map[string]bool{}
	for _, message := range messages {
		bodies[string(message.Body)] = true
	}
	return len(bodies)
}
