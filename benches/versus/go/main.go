// The keyed pool of Go services, for comparison: a goroutine and a buffered channel a worker, a message goes to the
// worker that FNV-1a of its key names. It reads commands from standard input and sleeps between them:
//
//	load N...                              then 8 bytes for each record of each producer
//	run MODE WORKERS SLOTS HANDLER WARM RATE   answers with one JSON line; RATE 0 is as fast as it goes
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

const keys = 10_000

// item is a record to come: the key's number in the upper half (with the top bit: it blocks), its place in the
// key's sequence in the lower.
type item uint64

func (i item) key() int      { return int(i>>32) & 0x7fffffff }
func (i item) place() uint32 { return uint32(i) }

type answer struct {
	Rate       float64 `json:"rate"`
	Disordered uint64  `json:"disordered"`
	Lost       uint64  `json:"lost"`
	P50        uint64  `json:"p50"`
	P99        uint64  `json:"p99"`
	P999       uint64  `json:"p999"`
	Max        uint64  `json:"max"`
	Error      string  `json:"error,omitempty"`
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	var streams [][]item
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		switch {
		case len(words) > 1 && words[0] == "load":
			streams, err = read(in, words[1:])
			if err != nil {
				fmt.Fprintln(os.Stderr, "load:", err)
				os.Exit(1)
			}
		case len(words) == 7 && words[0] == "run":
			_ = out.Encode(run(words[1:], streams))
		default:
			_ = out.Encode(answer{Error: "unknown command: " + strings.TrimSpace(line)})
		}
	}
}

func read(in io.Reader, lengths []string) ([][]item, error) {
	streams := make([][]item, len(lengths))
	for producer, text := range lengths {
		var count int
		if _, err := fmt.Sscan(text, &count); err != nil {
			return nil, err
		}
		streams[producer] = make([]item, count)
		if err := binary.Read(in, binary.LittleEndian, streams[producer]); err != nil {
			return nil, err
		}
	}
	return streams, nil
}

func run(words []string, streams [][]item) answer {
	var workers, slots, warm int
	var rate float64
	for place, value := range map[int]any{1: &workers, 2: &slots, 4: &warm, 5: &rate} {
		if _, err := fmt.Sscan(words[place], value); err != nil {
			return answer{Error: err.Error()}
		}
	}
	r := newRound(words[0], words[3], workers, slots)
	// The garbage of the round before is not this one's.
	runtime.GC()

	var producers sync.WaitGroup
	each := func(part func(producer int, stream []item)) {
		producers.Add(len(streams) - 1)
		for producer := 1; producer < len(streams); producer++ {
			go func() {
				defer producers.Done()
				part(producer, streams[producer])
			}()
		}
		part(0, streams[0])
		producers.Wait()
	}
	timed := 0
	for _, stream := range streams {
		timed += len(stream) - warm
	}
	each(func(_ int, stream []item) { r.sendAll(stream[:warm]) })
	r.pool.flush()
	begin := time.Now()
	if rate > 0 {
		r.sendPaced(streams[0][warm:], rate)
	} else {
		each(func(_ int, stream []item) { r.sendAll(stream[warm:]) })
	}
	r.pool.flush()
	elapsed := time.Since(begin)
	r.pool.stop()
	return r.judge(streams, float64(timed)/elapsed.Seconds())
}
