// Plays scenarios against a broker with the Go client. Arguments: name server address, broker addresses (comma separated),
// prefix of all topics and groups. Each line on standard input starts one scenario, beside those that still run; the answer is
// one JSON line on standard output: {"scenario":…,"ok":…,"ms":…,"note":…}. The program ends when the input has ended and all
// scenarios have answered.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var scenarios = map[string]func(*lab) string{
	"send_sync":         sendSync,
	"send_async":        sendAsync,
	"send_oneway":       sendOneway,
	"send_batch":        sendBatch,
	"send_largest_body": sendLargestBody,
	"push_group":        pushGroup,
	"push_tags":         pushTags,
	"broadcasting":      broadcasting,
	"orderly":           orderly,
	"pull_from":         pullFrom,
	"retry":             retry,
	"delay":             delay,
	"before_restart":    beforeRestart,
	"after_restart":     afterRestart,
}

type answer struct {
	Scenario string `json:"scenario"`
	OK       bool   `json:"ok"`
	Ms       int64  `json:"ms"`
	Note     string `json:"note"`
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: clients NAMESRV BROKER[,BROKER…] PREFIX")
		os.Exit(2)
	}
	rlog.SetLogLevel("error")
	shared := newLab(os.Args[1], strings.Split(os.Args[2], ","), os.Args[3])
	var running sync.WaitGroup
	var out sync.Mutex
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		name := strings.TrimSpace(lines.Text())
		running.Add(1)
		go func() {
			defer running.Done()
			line, _ := json.Marshal(play(shared, name))
			out.Lock()
			defer out.Unlock()
			fmt.Println(string(line))
		}()
	}
	running.Wait()
}

func play(shared *lab, name string) (result answer) {
	start := time.Now()
	result.Scenario = name
	defer func() {
		if failure := recover(); failure != nil {
			result.OK = false
			result.Note = fmt.Sprintf("%v\n%s", failure, debug.Stack())
		}
		result.Ms = time.Since(start).Milliseconds()
	}()
	scenario, known := scenarios[name]
	if !known {
		panic("no such scenario")
	}
	result.Note = scenario(shared)
	result.OK = true
	return result
}
