package lease_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/lease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ttl is short, and long enough for a machine under load that stands still for some seconds: whose session is not renewed for so long has
// lost it, and what it held goes to others.
const ttl = 12 * time.Second

func startNATS(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(2 * time.Minute) {
		t.Fatal("nats-server does not start")
	}
	return s
}

// wire passes connections on and can be cut, so that a replica is alone.
type wire struct {
	to   string
	mu   sync.Mutex
	cut  bool
	open map[net.Conn]bool
}

// Dial makes it a dialer of nats.go.
func (w *wire) Dial(network, _ string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, fmt.Errorf("cut off")
	}
	c, err := net.Dial(network, w.to)
	if err == nil {
		w.open[c] = true
	}
	return c, err
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for c := range w.open {
			_ = c.Close()
			delete(w.open, c)
		}
	}
}

type replica struct {
	t *testing.T
	*lease.Table
	wire *wire
	stop func()

	mu    sync.Mutex
	doing map[string]bool
}

// holds is what the replica's worker works on. [lease.Table.Held] is for the worker alone.
func (r *replica) holds() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.doing)
}

// start runs a replica whose worker ends its work as soon as it is told to.
func start(t *testing.T, s *server.Server, name string, want []string) *replica {
	t.Helper()
	return launch(t, s, name, want, false)
}

// launch runs one that is idle: it never asks what it holds.
func launch(t *testing.T, s *server.Server, name string, want []string, idle bool) *replica {
	t.Helper()
	r := &replica{t: t, wire: &wire{to: s.Addr().String(), open: map[net.Conn]bool{}}}
	nc, err := nats.Connect(s.ClientURL(), nats.SetCustomDialer(r.wire), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "RELAY_LEASES"})
	if err != nil {
		t.Fatal(err)
	}
	r.Table = lease.New(lease.Config{Bucket: kv, Replica: name, Logger: slog.New(slog.DiscardHandler), TTL: ttl})
	r.Want(want)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var run sync.WaitGroup
	run.Go(func() { _ = r.Run(ctx) })
	if !idle {
		run.Go(func() { r.work(ctx) })
	}
	var once sync.Once
	r.stop = func() { once.Do(func() { cancel(); run.Wait(); nc.Close() }) }
	t.Cleanup(r.stop)
	return r
}

// work says of each name that is no longer held that it has ended.
func (r *replica) work(ctx context.Context) {
	for {
		select {
		case <-r.Changed():
		case <-ctx.Done():
			return
		}
		held := r.Held()
		for n := range r.holds() {
			if !held[n] {
				r.Done(n)
			}
		}
		r.mu.Lock()
		r.doing = held
		r.mu.Unlock()
	}
}

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("ws-%d", i)
	}
	return out
}

// eventually asks again and again, for what has no other sign; state is what it is instead.
func eventually(t *testing.T, ok func() (reached bool, state string)) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; <-time.After(10 * time.Millisecond) {
		reached, state := ok()
		if reached {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(state)
		}
	}
}

// settled waits until every name is held by exactly one of the replicas, and each holds at least least.
func settled(t *testing.T, want []string, least int, replicas ...*replica) {
	t.Helper()
	eventually(t, func() (bool, string) {
		count := map[string]int{}
		shares := []int{}
		for _, r := range replicas {
			held := r.holds()
			shares = append(shares, len(held))
			for n := range held {
				count[n]++
			}
		}
		twice := slices.ContainsFunc(slices.Collect(maps.Values(count)), func(n int) bool { return n > 1 })
		return len(count) == len(want) && !twice && slices.Min(shares) >= least,
			fmt.Sprintf("not settled: %d of %d held, shares %v, some twice: %v", len(count), len(want), shares, twice)
	})
}

// shared waits until a and b hold what each is the first for, which stays so, and answers what a holds.
func shared(t *testing.T, want []string, a, b *replica) map[string]bool {
	t.Helper()
	ofA, ofB := map[string]bool{}, map[string]bool{}
	eventually(t, func() (bool, string) {
		clear(ofA)
		clear(ofB)
		for _, n := range want {
			if lease.First(n, []string{a.Replica(), b.Replica()}) == a.Replica() {
				ofA[n] = true
			} else {
				ofB[n] = true
			}
		}
		return maps.Equal(a.holds(), ofA) && maps.Equal(b.holds(), ofB),
			fmt.Sprintf("not shared: %v and %v, not %v and %v", a.holds(), b.holds(), ofA, ofB)
	})
	return ofA
}

func TestShares(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	want := names(60)
	a := start(t, s, "a", want)
	settled(t, want, 60, a)
	b := start(t, s, "b", want)
	settled(t, want, 10, a, b)
	c := start(t, s, "c", want)
	settled(t, want, 5, a, b, c)
	eventually(t, func() (bool, string) { // each hears by itself of what another has taken
		h := a.Holder("ws-1")
		return h != "" && h == b.Holder("ws-1") && h == c.Holder("ws-1"), fmt.Sprintf("they do not agree on who holds it: %q", h)
	})
	b.stop() // in order
	settled(t, want, 10, a, c)
	c.wire.set(true) // dies, as far as the others see
	settled(t, want, 60, a)
	if len(c.Held()) != 0 || c.Alive() {
		t.Errorf("cut off, and believes to hold %d", len(c.Held()))
	}
	c.wire.set(false)
	settled(t, want, 10, a, c)
}

// The bucket holds other things of the workspaces too, see stream.begun and stream.checkpointPrefix.
func TestOtherKeysAreLeftAlone(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "RELAY_LEASES"})
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) {
		t.Helper()
		if _, err := kv.Create(t.Context(), key, []byte(`{"at":"2026-02-05T10:30:00Z","session":"x","replica":"x"}`)); err != nil {
			t.Fatal(err)
		}
	}
	put("begun.ws-0")
	a := start(t, s, "a", names(2))
	settled(t, names(2), 2, a)
	put("begun.ws-1")
	b := start(t, s, "b", names(2))
	settled(t, names(2), 0, a, b)
	a.stop()
	b.stop()
	for _, n := range names(2) {
		if _, err := kv.Get(t.Context(), "begun."+n); err != nil {
			t.Errorf("begun.%s: %v", n, err)
		}
	}
}

func TestOneNameAfterAnother(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	a := start(t, s, "a", names(3))
	settled(t, names(3), 3, a)
	a.Want(names(5))
	settled(t, names(5), 5, a)
	a.Want(names(2))
	settled(t, names(2), 2, a)
	b := start(t, s, "b", names(4)) // with another configuration: what nobody holds is taken, nothing is handed over
	settled(t, names(4), 2, a, b)
	if len(a.holds()) != 2 {
		t.Errorf("a handed over to one that wants other names: %v", a.holds())
	}
	a.Want(names(4)) // as the reload reaches it
	settled(t, names(4), 0, a, b)
}

func TestRestartUnderTheSameName(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	want := names(30) // so many that a name which is found by chance gets some of them
	a := start(t, s, "a", want)
	settled(t, want, 30, a)
	a.wire.set(true) // killed: it cannot say goodbye
	began := time.Now()
	again := start(t, s, "a", want)
	settled(t, want, 30, again)
	if took := time.Since(began); took > ttl {
		t.Errorf("what it held before was its own again after %v only", took)
	}
	// The first was not dead after all: two live under one name until one takes another.
	a.wire.set(false)
	settled(t, want, 1, a, again)
	if a.Replica() == again.Replica() {
		t.Error("both are called", a.Replica())
	}
}

// A name can be taken and given up again before anybody has asked for it: nobody works on it, so nobody says that the work
// has ended.
func TestHandoverOfWhatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	want := names(20)
	a := launch(t, s, "a", want, true)
	eventually(t, func() (bool, string) {
		return a.Holder("ws-19") != "" && a.Holder("ws-0") != "", "not all are held"
	})
	b := start(t, s, "b", want)
	eventually(t, func() (bool, string) { return len(b.holds()) >= 3, "nothing is handed over" })
}

func TestNATSAway(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	want := names(20)
	a, b := start(t, s, "a", want), start(t, s, "b", want)
	before := shared(t, want, a, b)
	a.wire.set(true)
	b.wire.set(true)
	for a.Alive() || b.Alive() {
		<-time.After(10 * time.Millisecond)
	}
	if len(a.Held())+len(b.Held()) != 0 {
		t.Error("something is held without NATS")
	}
	a.wire.set(false)
	b.wire.set(false)
	settled(t, want, 3, a, b)
	if !maps.Equal(a.holds(), before) {
		t.Error("an outage of NATS moved names from one to the other")
	}
}
