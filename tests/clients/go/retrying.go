package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

type delivery struct {
	at      time.Time
	message *primitive.MessageExt
}

// deliveries keeps what a listener saw, by body.
type deliveries struct {
	sync.Mutex
	seen map[string][]delivery
}

func (d *deliveries) add(message *primitive.MessageExt) {
	d.Lock()
	defer d.Unlock()
	d.seen[string(message.Body)] = append(d.seen[string(message.Body)], delivery{time.Now(), message})
}

func (d *deliveries) of(body string) []delivery {
	d.Lock()
	defer d.Unlock()
	return d.seen[body]
}

// retry fails a message once: it comes again after ten seconds (level 3).
func retry(l *lab) string {
	p := l.producer("retry")
	defer p.Shutdown()
	topic := l.create("retry", 2)
	box := &deliveries{seen: map[string][]delivery{}}
	c := l.push("retry", "retry", "", func(message *primitive.MessageExt) consumer.ConsumeResult {
		box.add(message)
		if string(message.Body) == "once" && message.ReconsumeTimes == 0 {
			return consumer.ConsumeRetryLater
		}
		return consumer.ConsumeSuccess
	})
	message := primitive.NewMessage(topic, []byte("once")).WithTag("T").WithKeys([]string{"key-once"})
	message.WithProperty("größe", "bleibt")
	sent := accepted(p.SendSync(context.Background(), message))
	accepted(p.SendSync(context.Background(), primitive.NewMessage(topic, []byte("fine"))))
	await("the retry", func() bool { return len(box.of("once")) == 2 })
	first, second := box.of("once")[0], box.of("once")[1]
	waited := second.at.Sub(first.at)
	// The client finds the queues of a retry topic that is new at one of its own rounds, every 20 and 30 s.
	check(waited > 9*time.Second && waited < 50*time.Second, "retried after %s", waited)
	equal("reconsume times", int32(1), second.message.ReconsumeTimes)
	equal("id over the retry", sent.MsgID, second.message.MsgId)
	equal("tags over the retry", "T", second.message.GetTags())
	equal("property over the retry", "bleibt", second.message.GetProperty("größe"))
	equal("deliveries of the good one", 1, len(box.of("fine")))
	none(c.Shutdown())
	return fmt.Sprintf("retried after %s", waited)
}

func delay(l *lab) string {
	p := l.producer("delay")
	defer p.Shutdown()
	topic := l.create("delay", 2)
	box := &deliveries{seen: map[string][]delivery{}}
	c := l.push("delay", "delay", "", func(message *primitive.MessageExt) consumer.ConsumeResult {
		box.add(message)
		return consumer.ConsumeSuccess
	})
	start := time.Now()
	accepted(p.SendSync(context.Background(), primitive.NewMessage(topic, []byte("delayed")).WithDelayTimeLevel(2)))
	await("the delayed message", func() bool { return len(box.of("delayed")) == 1 })
	waited := box.of("delayed")[0].at.Sub(start)
	check(waited > 4900*time.Millisecond && waited < 15*time.Second, "level 2 came after %s", waited)
	none(c.Shutdown())
	return fmt.Sprintf("level 2 after %s", waited)
}
