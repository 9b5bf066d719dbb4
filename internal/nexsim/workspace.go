package nexsim

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// replayMax is how many of the newest insights a connecting stream gets again.
const replayMax = 20

// workspace is one customer: what was emitted, and the streams that are open. One lock covers both, so that an insight is
// in a connecting stream's replay or comes live, never both and never neither.
type workspace struct {
	sim  *Sim
	id   string
	info WorkspaceInfo
	wire atomic.Pointer[Wire]

	mu         sync.Mutex
	rand       *rand.Rand // decides all contents
	duplicates float64    // share of generated insights that repeat a text
	log        []*Insight // oldest first, at most Options.Remember; an insight in it is never changed
	total      int        // insights ever emitted
	conns      []*conn
	stallNew   bool
	closed     bool
	tooSlow    int
	changed    chan struct{} // closed when conns changes; nil while nobody waits

	counts requestCounts
}

func newWorkspace(s *Sim, cfg Workspace) *workspace {
	name := orDefault(cfg.Name, displayName(cfg.Slug))
	w := &workspace{
		sim: s, id: digits("workspace", cfg.Slug),
		info: WorkspaceInfo{Name: name, Slug: cfg.Slug, BusinessInfo: BusinessInfo{Name: name, Domain: cfg.Slug + ".example"}},
		rand: rand.New(rand.NewPCG(s.opts.Seed, hash("contents", cfg.Slug))),
	}
	w.wire.Store(&Wire{})
	return w
}

// emitGenerated emits a batch of n insights; 0 draws a number.
func (w *workspace) emitGenerated(n int) Batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.send(w.generate(n), nil)
}

func (w *workspace) emit(insights []Insight) Batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.send(insights, nil)
}

// generate needs the lock.
func (w *workspace) generate(n int) []Insight {
	if n <= 0 {
		n = w.sim.gen.batchSize(w.rand)
	}
	insights := make([]Insight, n)
	for i := range insights {
		insights[i] = w.sim.gen.insight(w.rand)
		if w.duplicates > 0 && len(w.log) > 0 && w.rand.Float64() < w.duplicates {
			again := w.log[len(w.log)-1-w.rand.IntN(min(len(w.log), 100))]
			insights[i].Type, insights[i].TypeDescription = again.Type, again.TypeDescription
			insights[i].Content, insights[i].Target = again.Content, again.Target
		}
	}
	return insights
}

// send records the insights and gives the batch to the open streams, as one step. cut, if not nil, makes another frame of
// the live event. It needs the lock.
func (w *workspace) send(insights []Insight, cut func(frame) frame) Batch {
	live := Batch{
		Workspace: w.info, Insights: make([]Insight, len(insights)), OperationID: longNumber(w.rand),
		InsightCount: len(insights), EmittedAt: w.sim.Now(),
	}
	known := live
	known.Insights = make([]Insight, len(insights))
	for i, in := range insights {
		live.Insights[i], known.Insights[i] = in, in
		if in.ID == "" {
			known.Insights[i].ID = w.nextID()
			if w.sim.opts.LiveIDs {
				live.Insights[i].ID = known.Insights[i].ID
			}
		}
		if in.CreatedAt.IsZero() {
			known.Insights[i].CreatedAt = live.EmittedAt
		}
		w.record(known.Insights[i])
		if j := w.sim.journal; j != nil {
			if err := j.write(Record{w.info.Slug, known.Insights[i]}); err != nil {
				w.sim.log.Error("journal cannot be written, the next start will not know this insight", "error", err)
			}
		}
	}
	if len(w.conns) > 0 {
		f := frame{wire: encodeEvent(eventBatch, mustJSON(live), w.wire.Load().eol())}
		if cut != nil {
			f = cut(f)
		}
		w.push(f)
	}
	return known
}

// nextID is unique in the workspace, and the same for the same seed. It needs the lock.
func (w *workspace) nextID() string {
	return digits("insight", w.id, strconv.FormatUint(w.sim.opts.Seed, 10), strconv.Itoa(w.total))
}

// record keeps an insight whole for REST, and later what Emitted needs of it.
func (w *workspace) record(in Insight) {
	w.total++
	w.log = append(w.log, &in)
	if i := len(w.log) - 1 - w.sim.opts.History; i >= 0 {
		old := w.log[i]
		w.log[i] = &Insight{ID: old.ID, Type: old.Type, Content: old.Content, CreatedAt: old.CreatedAt}
	}
	if excess := len(w.log) - w.sim.opts.Remember; excess > 0 {
		clear(w.log[:excess])
		w.log = w.log[excess:]
	}
}

func (w *workspace) emitted() []Insight {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]Insight, len(w.log))
	for i, in := range w.log {
		all[i] = *in
	}
	return all
}

// newest returns up to n of the newest insights that still are whole, oldest first. It needs the lock.
func (w *workspace) newest(n int) []*Insight {
	return slices.Clone(w.log[max(0, len(w.log)-min(n, w.sim.opts.History)):])
}

// between returns the insights with from <= created_at < to, newest first, at most limit.
func (w *workspace) between(from, to time.Time, limit int) []*Insight {
	w.mu.Lock()
	all := w.newest(w.sim.opts.History)
	w.mu.Unlock()
	found := slices.DeleteFunc(all, func(in *Insight) bool { return in.CreatedAt.Before(from) || !in.CreatedAt.Before(to) })
	slices.Reverse(found)
	// The order of emission is the order of time, unless the clock jumped or times were given.
	slices.SortStableFunc(found, func(a, b *Insight) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return found[:min(limit, len(found))]
}

// join opens a stream: its queue begins with the connect comment and the replay, and gets every event emitted from here on.
func (w *workspace) join(k *key, deadline func(time.Time) error) (*conn, bool) {
	c := newConn(k.token, w.sim.opts.Buffer, deadline)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, false
	}
	wire, sh := w.wire.Load(), w.sim.shapes.Load()
	first := wire.greeting(w.id, k.id)
	for _, data := range replayPayloads(w.info, w.newest(replayMax), sh.replay, sh.replayTime, w.sim.opts.LiveIDs) {
		first = append(first, encodeEvent(eventReplay, data, wire.eol())...)
	}
	c.push(frame{wire: first}) // as one, which fits whatever its size
	c.stall(w.stallNew)
	w.conns = append(w.conns, c)
	w.connsChanged()
	return c, true
}

func (w *workspace) leave(c *conn) {
	c.leave()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(func(other *conn) bool { return other == c })
}

// broadcast gives a frame to all open streams.
func (w *workspace) broadcast(f frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.push(f)
}

// push gives a frame to the open streams. One whose buffer is full is cut off: nobody else waits for it. A frame that ends
// the streams lets them write what waits before it. push needs the lock.
func (w *workspace) push(f frame) {
	w.remove(func(c *conn) bool {
		if !c.push(f) {
			w.tooSlow++
			w.sim.log.Warn("stream cut off: its reader is too slow", "workspace", w.info.Slug)
			c.end(aborted)
			return true
		}
		if f.then != lives {
			c.finish()
		}
		return f.then != lives
	})
}

// drop ends the streams that match and returns how many.
func (w *workspace) drop(how ending, match func(*conn) bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.remove(func(c *conn) bool {
		if match(c) {
			c.end(how)
			return true
		}
		return false
	})
}

// remove takes out the streams for which done is true and returns how many. It needs the lock.
func (w *workspace) remove(done func(*conn) bool) int {
	before := len(w.conns)
	w.conns = slices.DeleteFunc(w.conns, done)
	if len(w.conns) != before {
		w.connsChanged()
	}
	return before - len(w.conns)
}

func anyConn(*conn) bool { return true }

func (w *workspace) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.drop(ended, anyConn)
}

// connsChanged needs the lock.
func (w *workspace) connsChanged() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

func (w *workspace) waitConnected(ctx context.Context, n int) error {
	for {
		w.mu.Lock()
		if len(w.conns) == n {
			w.mu.Unlock()
			return nil
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *workspace) state() WorkspaceState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return WorkspaceState{
		Slug: w.info.Slug, WorkspaceID: w.id, Connections: len(w.conns), TooSlow: w.tooSlow, Emitted: w.total,
		Requests: w.counts.read(),
	}
}
