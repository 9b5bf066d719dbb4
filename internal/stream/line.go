package stream

import (
	"context"
	"sync"
	"time"
)

const (
	// pipelineDepth is how many events of one stream may wait for its publisher.
	pipelineDepth = 32
	// lineLinger is how long a line's goroutine waits for more.
	lineLinger = time.Second
)

// line is what waits for a publisher. The goroutine that works on it lives no longer than there is something, and a moment more:
// thousands of streams have nothing to publish for minutes, and each would keep its stack.
type line struct {
	work func(group []item) // is given all that waits, in order
	room chan struct{}      // a place for each that waits

	mu      sync.Mutex
	waits   []item
	working bool          // somebody will look at waits once more
	come    chan struct{} // tells it that it can stop lingering
	ended   bool
	workers sync.WaitGroup
}

func newLine(work func(group []item)) *line {
	return &line{work: work, room: make(chan struct{}, pipelineDepth), come: make(chan struct{}, 1)}
}

// put blocks while there is no room.
func (l *line) put(ctx context.Context, it item) error {
	select {
	case l.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = append(l.waits, it)
	if l.working {
		signal(l.come)
		return nil
	}
	l.working = true
	l.workers.Go(l.run)
	return nil
}

// end returns when all is done that was put in before; nothing is put in any more.
func (l *line) end() {
	l.mu.Lock()
	l.ended = true
	signal(l.come)
	l.mu.Unlock()
	l.workers.Wait()
}

func (l *line) run() {
	linger := time.NewTimer(lineLinger)
	defer linger.Stop()
	for late := false; ; {
		group, over := l.take(late)
		switch {
		case over:
			return
		case group != nil:
			l.work(group)
			continue
		}
		linger.Reset(lineLinger)
		select {
		case <-l.come:
			late = false
		case <-linger.C:
			late = true
		}
	}
}

// take is what waits. Where nothing does and nothing is waited for any more, it is over.
func (l *line) take(late bool) (group []item, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	group, l.waits = l.waits, nil
	for range group {
		<-l.room
	}
	if group == nil && (late || l.ended) {
		l.working = false
		return nil, true
	}
	return group, false
}
