// Package lease says which replica holds what: names are spread over the replicas by rendezvous hashing, each under a
// lease in a NATS bucket, and what a dead replica held is taken over.
//
// A replica has one session, which it renews; a lease names the session it was taken in and is worth as much as that. So
// 10,000 leases cost one small write every five seconds and not two thousand a second. Who holds what is decided by
// compare-and-set on the lease, never by a clock; clocks only decide when a session that is no longer renewed is over,
// and each replica measures that by its own.
package lease

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// TTL is how long a session lives without being renewed, and renewEvery how often it is.
	TTL        = 15 * time.Second
	renewEvery = TTL / 3
	// backupAfter is how much longer each next replica waits for those before it to take a name that is free.
	backupAfter = 3 * time.Second
	// writers bounds the leases that are being written at once; leaving those that are being handed over.
	writers, maxLeaving = 32, 64
	// handoverTime is how long a name that was given back is waited for to be taken.
	handoverTime = 5 * time.Second
	stepEvery    = 250 * time.Millisecond
	stepPause    = 50 * time.Millisecond // between two steps, however much happens
	writeTimeout = 5 * time.Second

	// Other keys of the bucket are others' and left alone.
	replicaPrefix = "replica."
	namePrefix    = "workspace."
)

// Config of a [Table]. All fields but the times are needed.
type Config struct {
	Bucket jetstream.KeyValue
	// Replica is this replica's name, unique among them and the same after a restart: what it held before is its own again
	// at once. Where two use one name, one of them takes another.
	Replica string
	Logger  *slog.Logger
	// TTL is for tests; 15 s if 0. A session is renewed three times in it.
	TTL time.Duration
}

// Table is this replica's view of who holds what. Build it with [New], start it with [Table.Run]; the other methods are
// safe for concurrent use.
type Table struct {
	cfg     Config
	log     *slog.Logger
	changed chan struct{}
	wake    chan struct{}
	work    sync.WaitGroup

	mu       sync.Mutex
	replica  string
	nonce    string // of our session
	revision uint64 // of our session's entry; 0 = there is none
	until    time.Time
	renewing bool
	nextTry  time.Time
	wroteAt  time.Time // when we last wrote our session
	want     map[string]bool
	digest   string // of want

	synced   bool      // the bucket has been read
	steady   time.Time // since when we see our own renewals without a gap: before, nobody else's silence counts
	lastSeen time.Time // of our own session
	anew     time.Time // when a watch was last begun anew because a renewal of ours was not seen
	sessions map[string]session
	leases   map[string]held
	free     map[string]time.Time // since when a wanted name is seen without a holder
	busy     map[string]bool      // a write waits or is under way
	leaving  map[string]time.Time // given up for another: since when
	shown    map[string]bool      // Held has named it, so that there is work on it, which ends with Done
	ended    map[string]bool      // work on it has ended
	queue    []job
	workers  int
	closed   bool
}

// job is a write that waits for its turn.
type job struct {
	key   string
	write func(context.Context) error
}

type session struct {
	Nonce  string `json:"session"`
	Digest string `json:"workspaces"` // a replica hands over only to one that wants the same names
	// Started and the replica's name, which is the key, are for people who look into the bucket.
	Started time.Time `json:"started"`

	revision uint64
	seen     time.Time
}

type held struct {
	Replica string    `json:"replica"`
	Nonce   string    `json:"session"`
	Since   time.Time `json:"since"`

	revision uint64
}

// New starts nothing.
func New(cfg Config) *Table {
	if cfg.TTL == 0 {
		cfg.TTL = TTL
	}
	return &Table{
		cfg: cfg, log: cfg.Logger.With("component", "lease"),
		changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		replica: keySafe(cfg.Replica), nonce: newNonce(), want: map[string]bool{}, digest: digest(nil),
		sessions: map[string]session{}, leases: map[string]held{}, free: map[string]time.Time{}, busy: map[string]bool{},
		leaving: map[string]time.Time{}, ended: map[string]bool{}, shown: map[string]bool{},
	}
}

func newNonce() string { return strings.ToLower(rand.Text()[:16]) }

// keySafe makes a text one token of a bucket's key.
func keySafe(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, s)
}

func digest(names []string) string {
	h := sha256.New()
	for _, n := range slices.Sorted(slices.Values(names)) {
		_, _ = h.Write([]byte(n + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Want says which names are to be held, by this replica or another.
func (t *Table) Want(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.want = make(map[string]bool, len(names))
	for _, n := range names {
		t.want[n] = true
	}
	if d := digest(names); d != t.digest {
		t.digest, t.nextTry = d, time.Time{} // the others should know soon
	}
	maps.DeleteFunc(t.free, func(n string, _ time.Time) bool { return !t.want[n] })
	signal(t.wake)
}

// Changed has a value when [Table.Held] may have changed.
func (t *Table) Changed() <-chan struct{} { return t.changed }

// Held is what this replica holds now. It is nothing when the session could not be renewed in time: a replica that is cut
// off must assume that others have taken over. It is for the one who works on the names: what it has named is given back
// only after [Table.Done].
func (t *Table) Held() map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]bool{}
	if !t.alive(time.Now()) {
		return out
	}
	for n := range t.want {
		if _, going := t.leaving[n]; !going && t.mine(n) {
			out[n], t.shown[n] = true, true
		}
	}
	return out
}

// Holder is the replica that holds a name, empty if none does.
func (t *Table) Holder(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l, ok := t.leases[name]; ok && t.valid(l) {
		return l.Replica
	}
	return ""
}

// Replica is the name under which this replica holds.
func (t *Table) Replica() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.replica
}

// Replicas is how many replicas have a session now, this one among them; 1 where none is known.
func (t *Table) Replicas() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(1, len(t.sessions))
}

// Alive tells whether this replica has a session: whether it may hold anything.
func (t *Table) Alive() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.alive(time.Now())
}

// Done says that work on a name has ended that is no longer in [Table.Held]: it is given back now.
func (t *Table) Done(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[name] = true
	delete(t.shown, name)
	t.giveBack(name)
}

// giveBack ends the lease of a name whose work has ended, unless it is to be held again.
func (t *Table) giveBack(name string) {
	_, going := t.leaving[name]
	l := t.leases[name]
	if !t.mine(name) || !going && t.want[name] {
		delete(t.ended, name)
		return
	}
	t.start(namePrefix+name, func(ctx context.Context) error {
		return t.cfg.Bucket.Delete(ctx, namePrefix+name, jetstream.LastRevision(l.revision))
	})
}

func (t *Table) alive(now time.Time) bool { return t.revision > 0 && now.Before(t.until) }

func (t *Table) mine(name string) bool {
	l, ok := t.leases[name]
	return ok && l.Nonce == t.nonce
}

// valid tells whether a lease's session lives.
func (t *Table) valid(l held) bool {
	if l.Nonce == t.nonce {
		return t.revision > 0
	}
	return t.sessions[l.Replica].Nonce == l.Nonce
}

// Run takes part until ctx ends, then ends the session: what it held is free at once.
func (t *Table) Run(ctx context.Context) error {
	watching, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	t.work.Go(func() { t.watch(watching) })
	ticker := time.NewTicker(min(stepEvery, t.cfg.TTL/20))
	defer ticker.Stop()
	for ctx.Err() == nil {
		t.step(time.Now())
		select {
		case <-time.After(min(stepPause, t.cfg.TTL/100)):
		case <-ctx.Done():
		}
		select {
		case <-ticker.C:
		case <-t.wake:
		case <-ctx.Done():
		}
	}
	stopWatch()
	t.close()
	t.work.Wait()
	t.leave()
	return nil
}

// close lets no write start any more.
func (t *Table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed, t.queue = true, nil
}

// leave ends the session.
func (t *Table) leave() {
	t.mu.Lock()
	replica, revision := t.replica, t.revision
	t.revision = 0
	t.mu.Unlock()
	if revision == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := t.cfg.Bucket.Delete(ctx, replicaPrefix+replica, jetstream.LastRevision(revision)); err != nil {
		t.log.Debug("session could not be ended, it runs out", "error", err)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
