package fanout_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// stubborn retries every second for a while.
var stubborn = fanout.Policy{Schedule: slices.Repeat([]time.Duration{time.Second}, 30)}

// failing is a receiver that fails until it is told to stop: it refuses all that it has noted by then, also what it has not answered yet.
func failing(t testing.TB) (r *receiver, heal func()) {
	var refused atomic.Int64
	refused.Store(math.MaxInt64)
	r = newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if int64(n) <= refused.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	return r, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		refused.Store(int64(len(r.got)))
	}
}

// hasAll waits until every id has come after the first skip attempts.
func (r *receiver) hasAll(t testing.TB, ids []string, skip int) {
	t.Helper()
	eventually(t, "everything has come", func() bool {
		got := sorted(r.all()[skip:])
		return slices.Equal(slices.Compact(got), sorted(ids))
	})
}

func TestOrderIsSwitchedOffOverARestart(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r, heal := failing(t)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	ids := b.publish("x", 5)
	r.await(t, 1)
	b.read()
	eventually(t, "it is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Ordered != nil })
	b.stop()
	tried := len(r.all())
	heal()
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.start()
	r.hasAll(t, ids, tried)
	eventually(t, "the consumer is removed", func() bool {
		_, err := b.bus.JetStream().Consumer(t.Context(), bus.StreamNex, "relay-ordered-crm")
		return err != nil
	})
}

func TestOrderIsSwitchedOffWhilePaused(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r, heal := failing(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	ids := b.publish("x", 3)
	r.await(t, 1)
	b.enable("crm", false, "")
	eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
	ids = append(ids, b.publish("y", 3)...)
	b.read()
	err := b.registry.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) {
		e.Ordered = false
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the order is ended", func() bool { return !b.registry.Snapshot().Get("crm").State.InOrder })
	ids = append(ids, b.publish("z", 3)...)
	b.read()
	tried := len(r.all())
	heal()
	b.enable("crm", true, "")
	r.hasAll(t, ids, tried)
}

func TestOrderIsSwitchedOnOverARestart(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	ids := b.publish("a", 2)
	r.await(t, 2)
	b.read()
	b.stop()
	ids = append(ids, b.publish("b", 3)...) // stored, not read
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	b.start()
	ids = append(ids, b.publish("c", 3)...)
	r.hasAll(t, ids, 0)
	if got := r.all(); !slices.Equal(got[2:], ids[2:]) {
		t.Errorf("not in order: %v", got)
	}
}

// What is read while an endpoint is ordered comes, also if it no longer is before anybody who follows the endpoints has looked.
func TestOrderedForAMoment(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	ids := b.publish("a", 2)
	r.await(t, 2)
	b.read()
	b.stop()
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	ids = append(ids, b.publish("b", 3)...)
	f, closeF := b.fanout(nil) // it follows nothing
	t.Cleanup(closeF)
	c, err := b.bus.JetStream().Consumer(t.Context(), bus.StreamNex, bus.ConsumerFanout)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m, err := c.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		f.HandleEvent(t.Context(), m)
	}
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.read()
	b.start()
	r.hasAll(t, append(ids, b.publish("c", 3)...), 0)
}

func TestNewOrderedEndpointBeginsAtTheEnd(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	f, closeF := b.fanout(nil)
	t.Cleanup(closeF)
	make := func() {
		t.Helper()
		e := &endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true}
		var err error
		if e.Since, e.SinceTime, err = f.EndOfLog(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := f.PrepareOrdered(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		b.create(e)
	}
	b.publish("before", 3)
	b.read()
	make()
	b.publish("a", 1)
	r.await(t, 1)
	b.enable("crm", false, "")
	eventually(t, "the place is noted", func() bool { return b.registry.Snapshot().Get("crm").State.Position > 0 })
	b.publish("old", 3)
	b.read()
	if err := b.registry.Delete(t.Context(), "crm"); err != nil {
		t.Fatal(err)
	}
	if err := f.Forget(t.Context(), "crm"); err != nil {
		t.Fatal(err)
	}
	make() // another with its id
	b.publish("c", 2)
	r.await(t, 2)
	if got := r.all(); !slices.Equal(got, []string{"a-0", "c-0", "c-1"}) {
		t.Errorf("%v", got)
	}
}

// Who asks twice for one ordered endpoint, and is told so, does not move the place of the one that exists.
func TestPreparedTwice(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r, heal := failing(t)
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true})
	ids := b.publish("x", 3)
	r.await(t, 1)
	e := &endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true}
	var err error
	if e.Since, e.SinceTime, err = b.relay.EndOfLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.relay.PrepareOrdered(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	tried := len(r.all())
	heal()
	r.hasAll(t, ids, tried)
}

// What a lost endpoint has left, its consumer, does not hold up the next one of its name.
func TestOrderedPassesByWhatIsOlder(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	e := &endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true}
	if err := b.relay.PrepareOrdered(t.Context(), e); err != nil { // and never made
		t.Fatal(err)
	}
	b.publish("old", 300)
	b.read()
	var err error
	if e.Since, e.SinceTime, err = b.relay.EndOfLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.relay.PrepareOrdered(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	b.create(e)
	r.hasAll(t, b.publish("new", 3), 0)
	c, err := b.bus.JetStream().Consumer(t.Context(), bus.StreamNex, bus.OrderedPrefix+"crm")
	if err != nil || c.CachedInfo().Config.OptStartSeq != e.Since+1 {
		t.Errorf("it begins at %d of %d: %v", c.CachedInfo().Config.OptStartSeq, e.Since, err)
	}
}

// What waits for an endpoint that this replica does not know (a file that is older, a key that is missing) is kept.
func TestUnknownEndpointLosesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r, heal := failing(t)
	e := &endpoint.Endpoint{ID: "crm", URL: r.URL}
	b.endpoints(e)
	ids := b.publish("x", 3)
	r.await(t, 3)
	b.read()
	b.endpoints()
	eventually(t, "what was due is kept", func() bool {
		backlog, _, err := b.bus.RetryPending(t.Context())
		return err == nil && backlog["crm"] == 3
	})
	tried := len(r.all())
	heal()
	b.endpoints(e)
	r.hasAll(t, ids, tried)
}

// file applies a config file, as the relay does.
func (b *bundle) file(list ...*endpoint.Endpoint) {
	b.t.Helper()
	for _, e := range list {
		e.Enabled = true
	}
	b.fileAsIs(list...)
}

// fileAsIs may hold endpoints that are not enabled.
func (b *bundle) fileAsIs(list ...*endpoint.Endpoint) {
	b.t.Helper()
	for _, e := range list {
		e.Secrets = []webhook.Secret{b.secret}
	}
	if err := b.relay.ApplyFile(b.t.Context(), list); err != nil {
		b.t.Fatal(err)
	}
}

// startWith is a start of the relay with a config file: it is applied before anything is read.
func (b *bundle) startWith(list ...*endpoint.Endpoint) {
	b.t.Helper()
	for _, e := range list {
		e.Enabled = true
	}
	b.startWithAsIs(list...)
}

func (b *bundle) startWithAsIs(list ...*endpoint.Endpoint) {
	b.t.Helper()
	f, closeF := b.fanout(nil)
	defer closeF()
	running := b.relay
	b.relay = f
	b.fileAsIs(list...)
	b.relay = running
	b.start()
}

// An endpoint that is taken out of the file and put back goes on where it stood, ordered or not, also if nobody saw it go.
func TestOutOfTheFileAndBack(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("ordered=%t,restart=%t", ordered, restart), func(t *testing.T) {
				t.Parallel()
				b := setup(t, quick)
				r, other := newReceiver(t, nil), newReceiver(t, nil)
				stays := func() *endpoint.Endpoint { return &endpoint.Endpoint{ID: "other", URL: other.URL} }
				goes := func(mode endpoint.Mode) *endpoint.Endpoint {
					return &endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: ordered, Resume: mode}
				}
				apply := b.file
				if restart {
					apply = func(list ...*endpoint.Endpoint) {
						b.stop()
						b.startWith(list...)
					}
				}
				b.file(stays(), goes(""))
				want := b.publish("before", 3)
				r.await(t, 3)
				b.settled() // what is cut off at the other one by a restart would come to it twice
				for _, mode := range []endpoint.Mode{endpoint.ModeAll, endpoint.ModeSkip} {
					apply(stays())
					tried := len(r.all())
					while := b.publish("while-"+string(mode), 20)
					b.settled()
					if got := r.all(); len(got) != tried {
						t.Fatalf("%v came while it was not in the file", got[tried:])
					}
					apply(stays(), goes(mode))
					eventually(t, "it goes on", func() bool { return b.registry.Snapshot().Get("crm").State.Position == 0 })
					if mode == endpoint.ModeAll {
						want = append(want, while...)
					}
					want = append(want, b.publish("after-"+string(mode), 3)...)
					r.hasAll(t, want, 0)
					b.settled()
				}
				if got := r.all(); ordered && !slices.Equal(slices.Compact(got), want) {
					t.Errorf("not in order: %v", got)
				}
				other.await(t, 3+2*23)
				b.settled()
				if n := len(other.all()); n != 3+2*23 {
					t.Errorf("%d webhooks to the one that stayed, of %d events", n, 3+2*23)
				}
			})
		}
	}
}

// An endpoint may be taken out of the file before the first event of all was acknowledged.
func TestOutOfTheFileAtTheFirstEvent(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	b.stop()
	r := newReceiver(t, nil)
	e := func() *endpoint.Endpoint { return &endpoint.Endpoint{ID: "crm", URL: r.URL} }
	b.file(e())
	b.file()
	ids := b.publish("x", 3)
	b.start()
	b.read()
	b.file(e())
	r.hasAll(t, ids, 0)
}

// What is under way when an endpoint is taken out of the file, or was read just then, is not lost.
func TestOutOfTheFileUnderFlow(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	e := func() *endpoint.Endpoint { return &endpoint.Endpoint{ID: "crm", URL: r.URL} }
	b.file(e())
	flow := make(chan []string)
	go func() {
		var ids []string
		for i := range 40 {
			ids = append(ids, b.publish(fmt.Sprintf("x%d", i), 25)...)
		}
		flow <- ids
	}()
	var ids []string
	for in := false; ids == nil; in = !in {
		if in {
			b.file(e())
		} else {
			b.file()
		}
		select {
		case ids = <-flow:
		case <-time.After(10 * time.Millisecond):
		}
	}
	b.file(e())
	r.hasAll(t, ids, 0)
}

// killed is a context that ends at a place, wherever the processor was meanwhile: who begins to wait on it finds it ended once so holds.
type killed struct {
	context.Context
	end context.CancelFunc
	so  func() bool
}

func (k *killed) Done() <-chan struct{} {
	if k.so() {
		k.end()
	}
	return k.Context.Done()
}

// A relay that is killed, or has no NATS, while it notes who is no longer in the file goes on from what it had noted before.
func TestOutOfTheFileInterrupted(t *testing.T) {
	t.Parallel()
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprintf("back=%t", back), func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			r, other := newReceiver(t, nil), newReceiver(t, nil)
			list := func() (list []*endpoint.Endpoint) {
				for i := range 100 {
					list = append(list, &endpoint.Endpoint{ID: fmt.Sprintf("a%02d", i), URL: other.URL, Workspaces: []string{"beta"}})
				}
				return append(list, &endpoint.Endpoint{ID: "crm", URL: r.URL})
			}
			b.file(list()...)
			b.publish("before", 3)
			r.await(t, 3)
			b.read()
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			if err := b.relay.ApplyFile(&killed{ctx, kill, func() bool { return b.registry.State("a50").Position > 0 }}, nil); err == nil {
				t.Fatal("it was not interrupted")
			}
			if e := b.registry.Snapshot().Get("crm"); e != nil {
				t.Fatal("it was interrupted too early")
			}
			ids := b.publish("while", 3)
			b.read()
			if !back {
				b.file()
			}
			b.file(list()...)
			r.hasAll(t, ids, 3)
		})
	}
}

// An ordered endpoint that is out of the file for more than a day keeps its place, whatever else waits for it.
func TestOrderedOutOfTheFileForLong(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	e := func() *endpoint.Endpoint { return &endpoint.Endpoint{ID: "crm", URL: r.URL, Ordered: true} }
	b.file(e())
	b.publish("before", 3)
	r.await(t, 3)
	b.read()
	b.file()
	ids := b.publish("while", 3)
	b.read()
	f, closeF := b.fanout(nil)
	t.Cleanup(closeF)
	for _, at := range []time.Duration{0, 25 * time.Hour} {
		f.JudgeStranger(t.Context(), "crm", time.Now().Add(at))
	}
	b.file(e())
	r.hasAll(t, ids, 3)
}

// One that is made ordered while it is not active goes on from its place, as it would have without.
func TestOrderIsSwitchedOnWhileNotActive(t *testing.T) {
	t.Parallel()
	type settings struct{ out, enabled, ordered bool } // out of the file
	for name, steps := range map[string][]settings{
		"with enabling":   {{}, {enabled: true, ordered: true}},
		"before enabling": {{}, {ordered: true}, {enabled: true, ordered: true}},
		"out of the file": {{out: true}, {enabled: true, ordered: true}},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,restart=%t", name, restart), func(t *testing.T) {
				t.Parallel()
				b := setup(t, quick)
				r := newReceiver(t, nil)
				b.file(&endpoint.Endpoint{ID: "crm", URL: r.URL})
				ids := b.publish("before", 3)
				r.await(t, 3)
				b.read()
				for i, step := range steps {
					var list []*endpoint.Endpoint
					if !step.out {
						list = append(list, &endpoint.Endpoint{ID: "crm", URL: r.URL, Enabled: step.enabled, Ordered: step.ordered})
					}
					if restart {
						b.stop()
						b.startWithAsIs(list...)
					} else {
						b.fileAsIs(list...)
					}
					if !step.enabled {
						eventually(t, "its place is noted", func() bool { return b.registry.State("crm").Position > 0 })
					}
					ids = append(ids, b.publish(fmt.Sprintf("step-%d", i), 4)...)
					b.read()
				}
				r.hasAll(t, ids, 0)
				if got := slices.Compact(r.all()); !slices.Equal(got[3:], ids[3:]) {
					t.Errorf("not in order: %v", got)
				}
			})
		}
	}
}
