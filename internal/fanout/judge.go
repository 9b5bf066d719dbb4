package fanout

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
)

// wants tells whether an event is one for the endpoint, its state aside. It waits until the filter has its turn, and answers
// an error if ctx ends meanwhile.
func (f *Fanout) wants(ctx context.Context, e *endpoint.Endpoint, m *message) (bool, error) {
	if !e.WantsType(m.workspace, m.eventType) {
		return false, nil
	}
	if e.Filter == "" {
		return true, nil
	}
	done, err := f.judge.turn(ctx, e.ID)
	if err != nil {
		return false, err
	}
	defer done()
	ok, err := e.WantsContent(f.judge.view(m))
	if err != nil {
		f.filterFailed(e, m, err)
	}
	return ok, nil
}

// filtered tells whether it is still to be found out whether a delivery's endpoint wants it.
func (f *Fanout) filtered(d *delivery) bool {
	if d.forced != "" {
		return false
	}
	e := f.cfg.Endpoints.Snapshot().Get(d.endpoint)
	if e != nil && e.State.Skipped != nil && d.sequence <= e.State.Skipped.Sequence {
		return true
	}
	if d.event != nil {
		return d.unasked
	}
	return e != nil && e.Filter != ""
}

// judge lets the filters that are not asked by the reader of the log have their turns: few at once, so that processors are
// left for everything else, and next the endpoint whose filter has taken the least time. So a slow filter delays its own
// endpoint. (Start-time fair queueing: Goyal, Vin, Cheng 1996.)
type judge struct {
	mu      sync.Mutex
	free    int                      // turns
	clock   time.Duration            // the start of the turn that began last, in time that filters take
	upTo    map[string]time.Duration // by endpoint, what it has had on that clock; what is not after clock is left out
	waiting turnHeap

	views [keptViews]keptView // decoded, for one event meets many filters
	next  int
	used  time.Time
}

const (
	// keptViews bounds the decoded events that are kept: each can take twenty times the bytes of its event. viewTime is for how
	// long, when nobody asks.
	keptViews = 4
	viewTime  = time.Second
)

type keptView struct {
	event *message
	view  *endpoint.View
}

func newJudge(atOnce int) *judge { return &judge{free: atOnce, upTo: map[string]time.Duration{}} }

// turn waits for an endpoint's turn, which lasts until done is called.
func (j *judge) turn(ctx context.Context, id string) (done func(), err error) {
	j.mu.Lock()
	w := &waitingTurn{endpoint: id, start: max(j.clock, j.upTo[id]), begun: make(chan struct{})}
	heap.Push(&j.waiting, w)
	j.begin()
	j.mu.Unlock()
	select {
	case <-w.begun:
	case <-ctx.Done():
		j.mu.Lock()
		defer j.mu.Unlock()
		select {
		case <-w.begun:
		default:
			w.gone = true
			return nil, ctx.Err()
		}
	}
	began := time.Now()
	return func() { j.end(w, time.Since(began)) }, nil
}

// begin gives the free turns away; mu is held.
func (j *judge) begin() {
	for j.free > 0 && len(j.waiting) > 0 {
		w := j.waiting[0]
		if start := j.upTo[w.endpoint]; start > w.start && !w.gone { // it has had one since it began to wait
			w.start = start
			heap.Fix(&j.waiting, 0)
			continue
		}
		heap.Pop(&j.waiting)
		if !w.gone {
			j.free--
			j.clock = max(j.clock, w.start)
			close(w.begun)
		}
	}
}

func (j *judge) end(w *waitingTurn, took time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.upTo[w.endpoint] = max(w.start, j.upTo[w.endpoint]) + took
	j.free++
	j.begin()
}

// view is an event as filters see it.
func (j *judge) view(m *message) *endpoint.View {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.used = time.Now()
	for _, kept := range j.views {
		if kept.event == m {
			return kept.view
		}
	}
	v := endpoint.NewView(m.workspace, m.data)
	j.add(m, v)
	return v
}

// keep is told of a view that will be asked for.
func (j *judge) keep(m *message, v *endpoint.View) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.used = time.Now()
	j.add(m, v)
}

func (j *judge) add(m *message, v *endpoint.View) {
	j.views[j.next] = keptView{m, v}
	j.next = (j.next + 1) % keptViews
}

// expire lets go of what nobody needs.
func (j *judge) expire(now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if now.Sub(j.used) >= viewTime {
		clear(j.views[:])
	}
	for id, upTo := range j.upTo {
		if upTo <= j.clock || len(j.waiting) == 0 {
			delete(j.upTo, id)
		}
	}
}

type waitingTurn struct {
	endpoint string
	start    time.Duration
	begun    chan struct{} // closed when it begins
	gone     bool          // it is not waited for any more
}

type turnHeap []*waitingTurn

func (h turnHeap) Len() int           { return len(h) }
func (h turnHeap) Less(a, b int) bool { return h[a].start < h[b].start }
func (h turnHeap) Swap(a, b int)      { h[a], h[b] = h[b], h[a] }
func (h *turnHeap) Push(w any)        { *h = append(*h, w.(*waitingTurn)) }
func (h *turnHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return w
}
