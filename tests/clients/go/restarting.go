package main

import (
	"fmt"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
)

// beforeRestart leaves 100 messages of which the group has consumed 60.
func beforeRestart(l *lab) string {
	p := l.producer("before_restart")
	defer p.Shutdown()
	topic := l.create("restart", 4)
	send(p, topic, 0, 60)
	box := newInbox()
	c := restartConsumer(l, box)
	box.awaitEachOnce(60)
	await("the client to count what its listener took", func() bool { return c.GetOffsetDiffMap()[topic] == 0 })
	none(c.Shutdown())
	send(p, topic, 60, 100)
	return ""
}

// afterRestart finds the topic and its messages, sends more, and goes on at the offsets of the group.
func afterRestart(l *lab) string {
	topic := l.topic("restart")
	queues := l.queues(topic)
	equal("queues", 4*len(l.brokers), len(queues))
	equal("distinct bodies", 100, distinctBodies(l.readAll(topic, 100)))
	p := l.producer("after_restart")
	defer p.Shutdown()
	send(p, topic, 100, 110)
	box := newInbox()
	c := restartConsumer(l, box)
	box.awaitEachOnce(50)
	none(c.Shutdown())
	return fmt.Sprintf("%d queues", len(queues))
}

func restartConsumer(l *lab, box *inbox) rocketmq.PushConsumer {
	return l.push("restart", "restart", "", box.listener("restart"))
}
