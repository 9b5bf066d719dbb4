package fanout

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nex-crm/relay/internal/bus"
)

// What is on its way while it is erased must not be stored again, and not be sent any more. So each replica asks every second what was
// erased; whoever erases notes it first and removes it a while later (eraseRest).

// hearErasuresEvery is how often it is asked whether there is a new erasure.
const hearErasuresEvery = time.Second

// forgotten is what was erased, by workspace.
type forgotten struct {
	mu       sync.Mutex
	revision uint64       // that has been heard of
	asked    atomic.Int64 // when it was last asked, Unix nanoseconds
	all      atomic.Pointer[map[string][]bus.Erasure]
}

// hearErasures asks again and again, until ctx ends.
func (f *Fanout) hearErasures(ctx context.Context) {
	f.every(ctx, hearErasuresEvery, func() { f.HearErasures(ctx) })
}

// HearErasures is the step that hearErasures repeats.
func (f *Fanout) HearErasures(ctx context.Context) {
	f.forgotten.mu.Lock()
	defer f.forgotten.mu.Unlock()
	f.hear(ctx)
}

// hearLate asks if nobody has for a while: this process may have stood still, and others have erased meanwhile. While NATS is away
// nobody can.
func (f *Fanout) hearLate() {
	late := func() bool {
		last := f.forgotten.asked.Load()
		return last != 0 && time.Since(time.Unix(0, last)) > 2*hearErasuresEvery
	}
	if !late() || !f.cfg.Bus.Connected() {
		return
	}
	f.forgotten.mu.Lock()
	defer f.forgotten.mu.Unlock()
	if late() {
		f.hear(f.storeCtx)
	}
}

// hear is the step; mu is held.
func (f *Fanout) hear(ctx context.Context) {
	defer func() { f.forgotten.asked.Store(time.Now().UnixNano()) }()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	workspaces, revision, err := f.cfg.Bus.Erased(ctx)
	if err != nil || revision == f.forgotten.revision {
		return // NATS is away; whoever erases needs it too
	}
	all := make(map[string][]bus.Erasure, len(workspaces))
	for _, w := range workspaces {
		list, err := f.cfg.Bus.Erasures(ctx, w)
		if err != nil {
			return
		}
		all[w] = list
	}
	f.forgotten.all.Store(&all)
	f.forgotten.revision = revision
	for w := range all {
		f.forgetFilterErrors(w) // they may quote what is gone
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.lanes {
		l.lookUp()
	}
}

// erasures are those of a workspace.
func (f *Fanout) erasures(workspace string) []bus.Erasure {
	all := f.forgotten.all.Load()
	if all == nil {
		return nil
	}
	return (*all)[workspace]
}

// erased tells whether the event of a delivery was erased.
func (f *Fanout) erased(d *delivery) bool {
	f.hearLate()
	switch {
	case d.event == nil:
		return false // it has to be read first
	case d.inline != nil: // when the log took it is not known
		return f.erasedEvent(d.event, time.Time{})
	}
	return f.erasedEvent(d.event, d.event.stored)
}

func (f *Fanout) erasedEvent(ev *message, stored time.Time) bool {
	list := f.erasures(ev.workspace)
	if len(list) == 0 {
		return false
	}
	_, subject := eventTarget(bus.Stored{Data: ev.data})
	return slices.ContainsFunc(list, func(e bus.Erasure) bool { return e.Took(ev.sequence, stored) && e.About(subject) })
}

// erasedUnread tells whether the event of a delivery, which the log holds no more, was erased.
func (f *Fanout) erasedUnread(d *delivery) bool {
	return slices.ContainsFunc(f.erasures(d.workspace), func(e bus.Erasure) bool {
		return e.Took(d.sequence, time.Time{}) && (e.Subject == "" || e.Removed(d.sequence))
	})
}
