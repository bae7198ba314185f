package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// shares remembers how many members each client knew when it last shared the queues out.
type shares struct {
	sync.Mutex
	members map[string]int
}

func (s *shares) strategy() consumer.Option {
	return consumer.WithStrategy(func(group, client string, queues []*primitive.MessageQueue, clients []string) []*primitive.MessageQueue {
		if len(queues) > 0 && !strings.HasPrefix(queues[0].Topic, "%RETRY%") {
			s.Lock()
			s.members[client] = len(clients)
			s.Unlock()
		}
		return consumer.AllocateByAveragely(group, client, queues, clients)
	})
}

func (s *shares) agreedOn(members int) bool {
	s.Lock()
	defer s.Unlock()
	agreed := 0
	for _, known := range s.members {
		if known == members {
			agreed++
		}
	}
	return agreed >= members
}

// pushGroup has three members share eight queues; when one has left, the others take its queues over.
func pushGroup(l *lab) string {
	p := l.producer("push_group")
	defer p.Shutdown()
	topic := l.create("push_group", 8)
	box := newInbox()
	agreed := &shares{members: map[string]int{}}
	var members []rocketmq.PushConsumer
	for i := 0; i < 3; i++ {
		name := fmt.Sprintf("member-%d", i)
		members = append(members, l.push("push_group", name, "", box.listener(name), agreed.strategy()))
	}
	await("three members to know each other", func() bool { return agreed.agreedOn(3) })
	send(p, topic, 0, 1500)
	box.awaitEachOnce(1500)
	equal("members with messages", 3, len(box.byMember))

	none(members[0].Shutdown())
	await("two members to know that one left", func() bool { return agreed.agreedOn(2) })
	send(p, topic, 1500, 2000)
	await("the messages after one left", func() bool { return box.distinct() == 2000 })
	note := fmt.Sprint(box.byMember)
	for _, member := range members[1:] {
		none(member.Shutdown())
	}
	return note
}

func pushTags(l *lab) string {
	p := l.producer("push_tags")
	defer p.Shutdown()
	topic := l.create("push_tags", 4)
	// Aa and BB have the same hash code: the broker lets both pass, the client drops the wrong one.
	tags := []string{"Aa", "BB", "red", "green", "blue"}
	for i := 0; i < 200; i++ {
		accepted(p.SendSync(context.Background(), primitive.NewMessage(topic, []byte(fmt.Sprintf("%s %d", tags[i%5], i))).WithTag(tags[i%5])))
	}
	box := newInbox()
	c := l.push("push_tags", "tags", "Aa || green", box.listener("tags"))
	box.awaitEachOnce(80)
	for body := range box.times {
		check(strings.HasPrefix(body, "Aa") || strings.HasPrefix(body, "green"), "got %s", body)
	}
	none(c.Shutdown())
	return ""
}

func broadcasting(l *lab) string {
	p := l.producer("broadcasting")
	defer p.Shutdown()
	topic := l.create("broadcasting", 4)
	send(p, topic, 0, 50)
	boxes := []*inbox{newInbox(), newInbox()}
	var members []rocketmq.PushConsumer
	for i, box := range boxes {
		members = append(members, l.push("broadcasting", fmt.Sprintf("broadcasting-%d", i), "", box.listener("all"),
			consumer.WithConsumerModel(consumer.BroadCasting)))
	}
	for _, box := range boxes {
		box.awaitEachOnce(50)
	}
	send(p, topic, 50, 100)
	for _, box := range boxes {
		box.awaitEachOnce(100)
	}
	for _, member := range members {
		none(member.Shutdown())
	}
	return ""
}

// orderly sends six keys to their queues and has a member that locks them take each key in order. One member only: this client
// does not unlock a queue that it hands over, the next owner would wait for the lock to expire.
func orderly(l *lab) string {
	p := l.producer("orderly", producer.WithQueueSelector(producer.NewHashQueueSelector()))
	defer p.Shutdown()
	topic := l.create("orderly", 4)
	var lock sync.Mutex
	sequences := map[string][]int{}
	received := 0
	listen := func(message *primitive.MessageExt) consumer.ConsumeResult {
		var key string
		var n int
		must(fmt.Sscanf(string(message.Body), "%s %d", &key, &n))
		lock.Lock()
		defer lock.Unlock()
		sequences[key] = append(sequences[key], n)
		received++
		return consumer.ConsumeSuccess
	}
	c := l.push("orderly", "orderly", "", listen, consumer.WithConsumerOrder(true))
	for n := 0; n < 50; n++ {
		for key := 0; key < 6; key++ {
			message := primitive.NewMessage(topic, []byte(fmt.Sprintf("key-%d %d", key, n))).WithShardingKey(fmt.Sprintf("key-%d", key))
			accepted(p.SendSync(context.Background(), message))
		}
	}
	await("300 messages in order", func() bool {
		lock.Lock()
		defer lock.Unlock()
		return received >= 300
	}, func() string { return fmt.Sprintf("have %d: %v", received, sequences) })
	for key, sequence := range sequences {
		for n, found := range sequence {
			equal("sequence of "+key, n, found)
		}
	}
	none(c.Shutdown())
	return ""
}

// pullFrom reads one queue from chosen offsets, backwards and forwards.
func pullFrom(l *lab) string {
	p := l.producer("pull_from")
	defer p.Shutdown()
	topic := l.create("pull_from", 1)
	send(p, topic, 0, 100)
	l.withPuller("pull", topic, func(puller rocketmq.PullConsumer) {
		queue := l.queues(topic)[0]
		for _, offset := range []int64{0, 17, 3, 19} {
			pulled := pullOnce(puller, queue, offset, 1)
			equal("status", primitive.PullFound, pulled.Status)
			found := pulled.GetMessageExts()
			equal("messages at an offset", 1, len(found))
			equal("offset", offset, found[0].QueueOffset)
		}
		check(end(puller, queue) >= 20, "end of the queue: %d", end(puller, queue))
	})
	return ""
}
