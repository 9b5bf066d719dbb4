package fanout

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// hungryTime is for how long nobody waits for room after a lane had nothing to do while somebody did.
const hungryTime = time.Second

// firstWait is how long the reader of the log may wait for an endpoint's first answer, once in firstEvery over all endpoints. It has read
// a lane full before the first connection stands, and what it does not wait for brings a backlog, where all that comes after goes too.
const firstWait, firstEvery = 50 * time.Millisecond, time.Second

// crowd decides whether to wait for room when as many deliveries wait in all lanes as may. If every lane has enough to do,
// it is this machine that cannot do more, and to wait is cheapest. But if one has nothing to do meanwhile, then many slow
// endpoints fill the room, and what is for them must go to their backlogs: the next event may be for the one that is fast.
type crowd struct {
	waiting atomic.Int32

	mu    sync.Mutex
	stay  context.Context // of those that wait; done = they are to give up
	leave context.CancelFunc
	until time.Time // nobody waits before
	first time.Time // nor for a first answer
}

// awaitFirst waits for the first answer of a lane's endpoint, and tells whether it came.
func (c *crowd) awaitFirst(ctx context.Context, l *lane) bool {
	c.mu.Lock()
	now := time.Now()
	may := !now.Before(c.first)
	if may {
		c.first = now.Add(firstEvery)
	}
	c.mu.Unlock()
	if !may {
		return false
	}
	timer := time.NewTimer(firstWait)
	defer timer.Stop()
	for {
		if tried, _ := l.known(); tried {
			return true
		}
		select {
		case <-l.room:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// enter takes room for one, and tells whether it got it.
func (c *crowd) enter(ctx context.Context, room *semaphore.Weighted) bool {
	if room.TryAcquire(1) {
		return true
	}
	c.mu.Lock()
	if time.Now().Before(c.until) {
		c.mu.Unlock()
		return false
	}
	if c.stay == nil || c.stay.Err() != nil {
		c.stay, c.leave = context.WithCancel(ctx)
	}
	stay := c.stay
	c.waiting.Add(1)
	c.mu.Unlock()
	defer c.waiting.Add(-1)
	return room.Acquire(stay, 1) == nil
}

// hungry hears that a lane has nothing to do.
func (c *crowd) hungry(now time.Time) {
	if c.waiting.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.until) {
		return
	}
	c.until = now.Add(hungryTime)
	c.leave()
}
