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
	"encoding/json"
	"errors"
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
// off must assume that others have taken over.
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

// watch follows the bucket until ctx ends, and reads it anew when our own renewals are no longer seen in it.
func (t *Table) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := t.follow(ctx); err != nil && ctx.Err() == nil {
			t.log.Debug("leases cannot be watched, trying on", "error", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (t *Table) follow(ctx context.Context) error {
	w, err := t.cfg.Bucket.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }()
	sessions, leases := map[string]session{}, map[string]held{}
	initial, began := true, time.Now()
	check := time.NewTicker(t.cfg.TTL / 3)
	defer check.Stop()
	for {
		select {
		case entry, ok := <-w.Updates():
			switch {
			case !ok:
				return errors.New("watch ended")
			case entry == nil:
				initial = false
				t.replace(sessions, leases, began)
			case initial:
				apply(entry, sessions, leases)
			default:
				t.see(entry)
			}
		case <-check.C:
			if t.deaf() {
				return errors.New("own renewals are not seen")
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// deaf tells whether we renew and do not see it.
func (t *Table) deaf() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	return t.alive(now) && now.Sub(t.lastSeen) > t.cfg.TTL
}

func apply(entry jetstream.KeyValueEntry, sessions map[string]session, leases map[string]held) {
	gone := entry.Operation() != jetstream.KeyValuePut
	if id, ok := strings.CutPrefix(entry.Key(), replicaPrefix); ok {
		var s session
		if gone || json.Unmarshal(entry.Value(), &s) != nil {
			delete(sessions, id)
			return
		}
		s.revision, s.seen = entry.Revision(), time.Now()
		sessions[id] = s
		return
	}
	if name, ok := strings.CutPrefix(entry.Key(), namePrefix); ok {
		var l held
		if gone || json.Unmarshal(entry.Value(), &l) != nil {
			delete(leases, name)
			return
		}
		l.revision = entry.Revision()
		leases[name] = l
	}
}

// replace takes over a bucket that was read whole, later than began.
func (t *Table) replace(sessions map[string]session, leases map[string]held, began time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sessions, t.leases, t.synced = sessions, leases, true
	t.steady = time.Now()
	own, ok := t.sessions[t.replica]
	t.judgeOwn(own, t.revision > 0 && t.wroteAt.Before(began) && (!ok || own.Nonce != t.nonce), ok)
	signal(t.wake)
	signal(t.changed)
}

// see takes one change.
func (t *Table) see(entry jetstream.KeyValueEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name, isLease := strings.CutPrefix(entry.Key(), namePrefix)
	before := isLease && t.mine(name)
	if isLease && t.leases[name].revision > entry.Revision() {
		return // older than what we wrote ourselves
	}
	apply(entry, t.sessions, t.leases)
	if !isLease {
		if entry.Key() == replicaPrefix+t.replica {
			own, ok := t.sessions[t.replica]
			t.judgeOwn(own, t.revision > 0 && entry.Revision() > t.revision && own.Nonce != t.nonce, ok)
		}
		signal(t.wake)
		return
	}
	if !t.mine(name) {
		delete(t.leaving, name)
	}
	if before != t.mine(name) {
		signal(t.changed)
	}
	signal(t.wake)
}

// judgeOwn looks at what the bucket says of our own session. lost says that it is not there, or, if there is one, that it
// is not ours.
func (t *Table) judgeOwn(own session, lost, another bool) {
	now := time.Now()
	switch {
	case lost:
		t.log.Warn("session was ended by another replica, starting anew", "replica", t.replica, "same_name", another)
		if another {
			t.replica = keySafe(t.cfg.Replica) + "-" + t.nonce[:6]
		}
		t.nonce, t.revision, t.until, t.nextTry = newNonce(), 0, time.Time{}, time.Time{}
		clear(t.leaving)
		clear(t.ended)
		signal(t.changed)
	case own.Nonce == t.nonce:
		if now.Sub(t.lastSeen) > t.cfg.TTL {
			t.steady = now
		}
		t.lastSeen = now
	}
}

// step is what the loop repeats: renew, judge the others, take what is ours to take, and let go of what is others'.
func (t *Table) step(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revision > 0 && !t.until.IsZero() && !now.Before(t.until) {
		t.log.Warn("session could not be renewed in time: nothing is held until it can be", "replica", t.replica)
		t.until = time.Time{}
		signal(t.changed)
	}
	if !t.synced {
		return
	}
	if !t.renewing && !now.Before(t.nextTry) {
		t.renew(now)
	}
	if !t.alive(now) || t.sessions[t.replica].Nonce != t.nonce {
		return
	}
	t.bury(now)
	t.share(now)
}

// renew writes our session, in the background.
func (t *Table) renew(now time.Time) {
	if t.closed {
		return
	}
	t.renewing, t.nextTry = true, now.Add(t.cfg.TTL/3)
	replica, nonce, revision := t.replica, t.nonce, t.revision
	stands, exists := t.sessions[replica]
	started := now
	if exists && stands.Nonce == nonce {
		started = stands.Started
	}
	value, err := json.Marshal(session{Nonce: nonce, Digest: t.digest, Started: started.UTC().Truncate(time.Millisecond)})
	if err != nil {
		panic(err) // texts and a time always encode
	}
	t.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), min(writeTimeout, t.cfg.TTL/3))
		defer cancel()
		key := replicaPrefix + replica
		switch {
		case revision > 0:
			revision, err = t.cfg.Bucket.Update(ctx, key, value, revision)
		case exists: // our own from before a restart, or a namesake's
			revision, err = t.cfg.Bucket.Update(ctx, key, value, stands.revision)
		default:
			revision, err = t.cfg.Bucket.Create(ctx, key, value)
		}
		t.renewed(nonce, now, revision, err)
	})
}

func (t *Table) renewed(nonce string, sent time.Time, revision uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renewing = false
	switch {
	case nonce != t.nonce: // started anew meanwhile
	case err != nil:
		t.nextTry = time.Now().Add(t.cfg.TTL / 15)
		t.log.Debug("session could not be renewed", "error", err)
		if errors.Is(err, jetstream.ErrKeyExists) {
			// The entry is another than we thought: an answer of ours got lost, or it was ended. The watch tells which.
			if own := t.sessions[t.replica]; own.Nonce == t.nonce {
				t.revision = max(t.revision, own.revision)
			}
		}
	default:
		was := t.until.IsZero()
		t.revision, t.until, t.wroteAt = revision, sent.Add(t.cfg.TTL), time.Now()
		if was {
			signal(t.changed)
		}
		signal(t.wake)
	}
}

// bury ends the sessions of others that are no longer renewed. What they held is free when the bucket says so.
func (t *Table) bury(now time.Time) {
	for id, s := range t.sessions {
		seen := s.seen
		if t.steady.After(seen) {
			seen = t.steady
		}
		if id == t.replica || now.Sub(seen) <= t.cfg.TTL {
			continue
		}
		t.start(replicaPrefix+id, func(ctx context.Context) error {
			err := t.cfg.Bucket.Delete(ctx, replicaPrefix+id, jetstream.LastRevision(s.revision))
			if err == nil {
				t.log.Info("replica no longer renews its session, what it held is taken over", "gone", id)
			}
			return err
		})
	}
}

// share takes free names that are ours, and gives up names that are another's.
func (t *Table) share(now time.Time) {
	all := slices.Sorted(maps.Keys(t.sessions))
	same := slices.DeleteFunc(slices.Clone(all), func(id string) bool { return t.sessions[id].Digest != t.digest })
	for n, since := range t.leaving {
		if now.Sub(since) > handoverTime && !t.mine(n) {
			delete(t.leaving, n)
		}
	}
	for n, ended := range t.ended {
		if ended {
			t.giveBack(n)
		}
	}
	for n := range t.want {
		l, taken := t.leases[n]
		switch {
		case taken && l.Nonce == t.nonce:
			delete(t.free, n)
			_, going := t.leaving[n]
			if going || len(t.leaving) >= maxLeaving || t.sessions[t.replica].Digest != t.digest {
				continue
			}
			if first(n, same) != t.replica {
				t.leaving[n] = now
				t.ended[n] = !t.shown[n]
				signal(t.changed)
			}
		case taken && t.valid(l):
			delete(t.free, n)
		default:
			t.take(n, l.revision, all, now)
		}
	}
	for n := range t.leases {
		if t.mine(n) && !t.want[n] {
			t.ended[n] = !t.shown[n]
			signal(t.changed) // who works on it ends, and says so with Done
		}
	}
}

// take takes a name that is free, if it is our turn.
func (t *Table) take(name string, revision uint64, replicas []string, now time.Time) {
	since, seen := t.free[name]
	if !seen {
		since = now
		t.free[name] = now
	}
	place := slices.Index(rank(name, replicas), t.replica)
	if now.Sub(since) < time.Duration(place)*backupAfter {
		return
	}
	nonce := t.nonce
	l := held{Replica: t.replica, Nonce: nonce, Since: now.UTC().Truncate(time.Millisecond)}
	value, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	t.start(namePrefix+name, func(ctx context.Context) error {
		var err error
		if revision > 0 {
			l.revision, err = t.cfg.Bucket.Update(ctx, namePrefix+name, value, revision)
		} else {
			l.revision, err = t.cfg.Bucket.Create(ctx, namePrefix+name, value)
		}
		if err == nil {
			t.taken(name, l)
		}
		return err
	})
}

// taken notes a lease at once; the watch will say the same.
func (t *Table) taken(name string, l held) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leases[name].revision < l.revision {
		t.leases[name] = l
	}
	delete(t.leaving, name)
	delete(t.free, name)
	delete(t.ended, name)
	signal(t.changed)
}

// start has a write made in the background, one at a time for each key; mu is held.
func (t *Table) start(key string, write func(context.Context) error) {
	if t.busy[key] || t.closed {
		return
	}
	t.busy[key] = true
	t.queue = append(t.queue, job{key, write})
	if t.workers < writers {
		t.workers++
		t.work.Go(t.writeQueue)
	}
}

// writeQueue makes the writes that wait, until there are none.
func (t *Table) writeQueue() {
	for {
		j, ok := t.next()
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
		if err := j.write(ctx); err != nil {
			t.log.Debug("lease could not be written", "key", j.key, "error", err)
		}
		cancel()
		t.finished(j)
	}
}

func (t *Table) next() (job, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.workers--
		return job{}, false
	}
	j := t.queue[0]
	t.queue = t.queue[1:]
	return j, true
}

func (t *Table) finished(j job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, j.key)
	signal(t.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
