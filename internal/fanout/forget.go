package fanout

import (
	"context"
	"slices"
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
	revision uint64 // that has been heard of; of one goroutine
	all      atomic.Pointer[map[string][]bus.Erasure]
}

// hearErasures asks again and again, until ctx ends.
func (f *Fanout) hearErasures(ctx context.Context) {
	f.every(ctx, hearErasuresEvery, func() { f.HearErasures(ctx) })
}

// HearErasures is the step that hearErasures repeats.
func (f *Fanout) HearErasures(ctx context.Context) {
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
