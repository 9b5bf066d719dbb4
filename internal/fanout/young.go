package fanout

import (
	"context"
	"sync"
	"time"
)

const (
	// maxYoung is how many attempts may be under way that have begun less than youngFor ago, where new workers are started. Lanes
	// bound what one endpoint has in flight, and ten thousand of them would still dial as many receivers at once as there are events:
	// more connections than are kept for the next attempt, and than a process may have. What is older does not count, so that
	// receivers which are slow hold up nobody: 10,240 attempts a second begin however long they take.
	maxYoung = 1024
	youngFor = 100 * time.Millisecond
)

// young is the attempts that have just begun.
type young struct{ room chan struct{} }

func newYoung(n int) *young { return &young{room: make(chan struct{}, n)} }

// enter waits for room, youngFor at most, and answers nil if ctx ends first.
func (y *young) enter(ctx context.Context) *newborn {
	select {
	case y.room <- struct{}{}:
		return y.begin()
	case <-ctx.Done():
		return nil
	}
}

// try is enter without waiting.
func (y *young) try() *newborn {
	select {
	case y.room <- struct{}{}:
		return y.begin()
	default:
		return nil
	}
}

func (y *young) begin() *newborn {
	n := &newborn{young: y}
	n.timer = time.AfterFunc(youngFor, n.leave)
	return n
}

// newborn is one of them until it ends or is no longer young, whichever comes first.
type newborn struct {
	young *young
	timer *time.Timer
	once  sync.Once
}

func (n *newborn) leave() { n.once.Do(func() { <-n.young.room }) }

// end is leave where the attempt has ended; n may be nil.
func (n *newborn) end() {
	if n != nil {
		n.timer.Stop()
		n.leave()
	}
}
