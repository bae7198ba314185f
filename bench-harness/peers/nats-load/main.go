// Sends to a JetStream stream and measures the acknowledgements, as `ringmq-bench` does: so many requests under way over one
// connection, or open loop at a rate with latency from the intended time. Prints the `result` line of a peer's `load`.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/nats-io/nats.go"
)

// A place for one message under way; its number is the end of the reply's subject.
type load struct {
	conn     *nats.Conn
	body     []byte
	inbox    string
	free     chan int
	intended []time.Time
	lock     sync.Mutex
	latency  *hdrhistogram.Histogram
	refused  string
}

func main() {
	addr := flag.String("addr", "127.0.0.1:4222", "server")
	size := flag.Int("size", 1024, "bytes of a body")
	inFlight := flag.Int("in-flight", 64, "messages under way")
	seconds := flag.Float64("seconds", 10, "how long to send")
	rate := flag.Float64("rate", 0, "messages per second; 0 is as fast as acknowledgements come")
	flag.Parse()

	conn, err := nats.Connect("nats://" + *addr)
	must(err)
	stream, err := conn.JetStream()
	must(err)
	if _, err := stream.StreamInfo("bench"); err != nil {
		_, err = stream.AddStream(&nats.StreamConfig{Name: "bench", Subjects: []string{"bench"}, Storage: nats.FileStorage})
		must(err)
	}
	l := &load{
		conn: conn, body: bytes.Repeat([]byte{'x'}, *size), inbox: nats.NewInbox(), free: make(chan int, *inFlight),
		intended: make([]time.Time, *inFlight), latency: hdrhistogram.New(1, 3_600_000_000, 3),
	}
	for place := 0; place < *inFlight; place++ {
		l.free <- place
	}
	_, err = conn.Subscribe(l.inbox+".*", l.acknowledged)
	must(err)
	start := time.Now()
	end := start.Add(time.Duration(*seconds * float64(time.Second)))
	if *rate > 0 {
		l.open(start, end, *rate)
	} else {
		for time.Now().Before(end) {
			l.send(<-l.free, time.Now())
		}
	}
	// Every message has its answer when all places are free again.
	for place := 0; place < *inFlight; place++ {
		select {
		case <-l.free:
		case <-time.After(30 * time.Second):
			log.Fatal("nats-load: no acknowledgement for 30 s")
		}
	}
	took := time.Since(start).Seconds()
	if l.refused != "" {
		log.Fatalf("nats-load: refused: %s", l.refused)
	}
	at := func(percentile float64) int64 { return l.latency.ValueAtQuantile(percentile) }
	fmt.Printf("result messages=%d seconds=%.3f p50_us=%d p99_us=%d p999_us=%d max_us=%d\n",
		l.latency.TotalCount(), took, at(50), at(99), at(99.9), l.latency.Max())
}

// Sends at fixed times. The sleep is coarse: what is due is sent together, each counted from its own time.
func (l *load) open(start, end time.Time, rate float64) {
	for index := 0; ; index++ {
		due := start.Add(time.Duration(float64(index) / rate * float64(time.Second)))
		if !due.Before(end) {
			return
		}
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		l.send(<-l.free, due)
	}
}

func (l *load) send(place int, intended time.Time) {
	l.intended[place] = intended
	must(l.conn.PublishRequest("bench", l.inbox+"."+strconv.Itoa(place), l.body))
}

func (l *load) acknowledged(message *nats.Msg) {
	place, err := strconv.Atoi(message.Subject[strings.LastIndexByte(message.Subject, '.')+1:])
	must(err)
	l.lock.Lock()
	if bytes.Contains(message.Data, []byte(`"error"`)) || !bytes.Contains(message.Data, []byte(`"seq"`)) {
		l.refused = string(message.Data)
	} else {
		must(l.latency.RecordValue(max(1, time.Since(l.intended[place]).Microseconds())))
	}
	l.lock.Unlock()
	l.free <- place
}

func must(err error) {
	if err != nil {
		log.Fatalf("nats-load: %v", err)
	}
}
