package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// round is one round: how messages are made, what their handler does, and what it saw.
type round struct {
	mode    string
	pool    *pool
	ids     []string
	reused  [2][]message
	base    time.Time
	last    []uint32
	workers []tally
}

// tally is a worker's own count, a cache line for each.
type tally struct {
	handled    uint64
	disordered uint64
	latency    []uint64
	most       uint64
	_          [64]byte
}

var names = sync.OnceValue(func() []string {
	ids := make([]string, keys)
	for key := range ids {
		ids[key] = fmt.Sprintf("order-%06d", key)
	}
	return ids
})

func newRound(mode, handler string, workers, slots int) *round {
	r := &round{
		mode:    mode,
		ids:     names(),
		base:    time.Now(),
		last:    make([]uint32, keys),
		workers: make([]tally, workers),
	}
	if mode == "reused" {
		for parity := range r.reused {
			r.reused[parity] = make([]message, keys)
			for key := range r.reused[parity] {
				value := make([]byte, 64)
				fill(value, item(uint64(key)<<32|uint64(parity)), 0)
				r.reused[parity][key] = message{aggregateID: r.ids[key], value: value, ctx: context.Background()}
			}
		}
	}
	turns := turnsOfMicrosecond()
	r.pool = newPool(workers, slots, 500*time.Millisecond, func(worker int, value []byte) error {
		blocks := r.see(&r.workers[worker], value)
		switch {
		case handler == "1us":
			churn(turns)
		case handler == "block" && blocks:
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	return r
}

// fill writes a payload of 64 bytes.
func fill(value []byte, i item, stamp uint64) {
	for place := range value {
		value[place] = 7
	}
	binary.LittleEndian.PutUint64(value, uint64(i))
	binary.LittleEndian.PutUint64(value[8:], stamp)
}

var sink atomic.Uint64

// see reads the whole payload and checks that it is its key's next. Reused messages say only whether the place is
// odd; that and the count convict a swap of neighbours and a loss.
func (r *round) see(t *tally, value []byte) bool {
	var sum uint64
	for place := 0; place+8 <= len(value); place += 8 {
		sum += binary.LittleEndian.Uint64(value[place:])
	}
	if sum == 1 {
		sink.Store(sum)
	}
	i := item(binary.LittleEndian.Uint64(value))
	if stamp := binary.LittleEndian.Uint64(value[8:]); stamp != 0 {
		t.add(uint64(time.Since(r.base)) - stamp)
	}
	key, place := i.key(), i.place()
	next := r.last[key] + 1
	if r.mode == "reused" {
		if next&1 != place {
			t.disordered++
		}
		place = next
	} else if next != place {
		t.disordered++
	}
	r.last[key] = place
	t.handled++
	return i>>63 != 0
}

func (r *round) sendAll(stream []item) {
	for _, i := range stream {
		r.send(i, 0)
	}
}

// sendPaced sends each at its time, whether or not the one before is through.
func (r *round) sendPaced(stream []item, rate float64) {
	begin := time.Since(r.base) + 200*time.Microsecond
	for sent, i := range stream {
		due := begin + time.Duration(float64(sent)*1e9/rate)
		for time.Since(r.base) < due {
		}
		r.send(i, uint64(due))
	}
}

func (r *round) send(i item, stamp uint64) {
	var m *message
	key := i.key()
	switch r.mode {
	case "reused":
		m = &r.reused[i.place()&1][key]
	case "new":
		m = &message{aggregateID: r.ids[key], ctx: context.Background(), value: make([]byte, 64)}
		fill(m.value, i, stamp)
	default:
		id := r.ids[key]
		m = &message{
			topic:       "orders",
			offset:      int64(i.place()),
			key:         []byte(id),
			value:       make([]byte, 64),
			headers:     map[string][]byte{"X-Aggregate-ID": nil},
			timestamp:   time.Now(),
			aggregateID: id,
			ctx:         context.Background(),
			done:        make(chan error, 1),
		}
		fill(m.value, i, stamp)
	}
	// A full worker waits 500 ms; here it is asked again, so that nothing is lost.
	for r.pool.submit(m) != nil {
	}
	if r.mode == "wait" {
		<-m.done
	}
}

func (r *round) judge(streams [][]item, rate float64) answer {
	a := answer{Rate: rate}
	var handled, sent uint64
	latency := make([]uint64, buckets)
	for worker := range r.workers {
		t := &r.workers[worker]
		handled += t.handled
		a.Disordered += t.disordered
		a.Max = max(a.Max, t.most)
		for bucket, count := range t.latency {
			latency[bucket] += count
		}
	}
	places := make([]uint32, keys)
	for _, stream := range streams {
		sent += uint64(len(stream))
		for _, i := range stream {
			places[i.key()] = i.place()
		}
	}
	if handled != sent {
		a.Lost = max(handled, sent) - min(handled, sent)
	}
	for key, place := range places {
		if r.last[key] != place {
			a.Lost = max(a.Lost, 1)
		}
	}
	a.P50, a.P99, a.P999 = quantile(latency, 0.5, a.Max), quantile(latency, 0.99, a.Max), quantile(latency, 0.999, a.Max)
	return a
}

// The same buckets as on the other side: 128 for each power of two.
const (
	fine    = 7
	powers  = 40
	buckets = (powers + 1) << fine
)

func (t *tally) add(nanos uint64) {
	if t.latency == nil {
		t.latency = make([]uint64, buckets)
	}
	power := min(max(63-bits.LeadingZeros64(nanos|1), fine), fine+powers-1)
	shift := power - fine
	t.latency[uint64(shift)<<fine+min(nanos>>shift, 2<<fine-1)]++
	t.most = max(t.most, nanos)
}

func quantile(latency []uint64, part float64, most uint64) uint64 {
	var all, seen uint64
	for _, count := range latency {
		all += count
	}
	if all == 0 {
		return 0
	}
	wanted := uint64(float64(all) * part)
	for bucket, count := range latency {
		seen += count
		if seen > wanted {
			b := uint64(bucket)
			if b < 2<<fine {
				return b
			}
			shift := b>>fine - 1
			return min((b-shift<<fine+1)<<shift-1, most)
		}
	}
	return most
}

var work atomic.Uint64

func churn(turns uint64) {
	value := work.Load() | 1
	for turn := uint64(0); turn < turns; turn++ {
		value = value*0x9e3779b97f4a7c15 ^ turn
	}
	if value == 1 {
		work.Store(value)
	}
}

// turnsOfMicrosecond is how many turns of churn take a microsecond, by the fastest of many tries.
var turnsOfMicrosecond = sync.OnceValue(func() uint64 {
	const sample = 20_000
	best := time.Second
	for range 200 {
		begin := time.Now()
		churn(sample)
		best = min(best, time.Since(begin))
	}
	return uint64(sample * 1_000 / max(best.Nanoseconds(), 1))
})
