package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

var errFull = errors.New("the worker's queue is full")

// message is what a bus hands to the pool.
type message struct {
	topic       string
	partition   int32
	offset      int64
	key         []byte
	value       []byte
	headers     map[string][]byte
	timestamp   time.Time
	aggregateID string
	ctx         context.Context
	done        chan error
	// A flush: the worker closes nothing and handles nothing, it answers.
	mark *sync.WaitGroup
}

// pool is the keyed worker pool.
type pool struct {
	queues  []chan *message
	wait    time.Duration
	running sync.WaitGroup
}

// newPool starts the workers. handle gets the worker's number.
func newPool(workers, slots int, wait time.Duration, handle func(worker int, value []byte) error) *pool {
	p := &pool{queues: make([]chan *message, workers), wait: wait}
	p.running.Add(workers)
	for worker := range p.queues {
		queue := make(chan *message, slots)
		p.queues[worker] = queue
		go func() {
			defer p.running.Done()
			for m := range queue {
				if m.mark != nil {
					m.mark.Done()
					continue
				}
				err := handle(worker, m.value)
				if m.done != nil {
					select {
					case m.done <- err:
					default:
					}
				}
			}
		}()
	}
	return p
}

// submit puts a message into its worker's channel: at once if there is room, else within the time it may wait.
func (p *pool) submit(m *message) error {
	queue := p.queues[fnv1a(m.aggregateID)%uint32(len(p.queues))]
	select {
	case queue <- m:
		return nil
	default:
	}
	timer := time.NewTimer(p.wait)
	defer timer.Stop()
	select {
	case queue <- m:
		return nil
	case <-timer.C:
		return errFull
	case <-m.ctx.Done():
		return m.ctx.Err()
	}
}

// flush returns when everything that was submitted before is handled.
func (p *pool) flush() {
	var mark sync.WaitGroup
	mark.Add(len(p.queues))
	for _, queue := range p.queues {
		queue <- &message{mark: &mark}
	}
	mark.Wait()
}

func (p *pool) stop() {
	for _, queue := range p.queues {
		close(queue)
	}
	p.running.Wait()
}

func fnv1a(text string) uint32 {
	hash := uint32(2166136261)
	for place := 0; place < len(text); place++ {
		hash ^= uint32(text[place])
		hash *= 16777619
	}
	return hash
}
