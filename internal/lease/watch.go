package lease

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

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
	check := time.NewTicker(t.cfg.TTL / 15)
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
			if t.deaf(initial) {
				return errors.New("own renewals are not seen")
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// deafAfter is how long a renewal that was stored may take to be seen.
const deafAfter = 3 * time.Second

// deaf tells whether we renew and do not see it. The client finds after 10 s or more that a watch has not outlived its connection or
// its server, and until then nobody's silence counts.
func (t *Table) deaf(initial bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if !t.alive(now) {
		return false
	}
	if !initial && t.sessions[t.replica].revision < t.revision && now.Sub(t.wroteAt) > deafAfter && now.Sub(t.anew) > 2*t.cfg.TTL {
		t.anew = now // not again soon: a server that is slow is one thing, a watch that is dead another
		return true
	}
	return now.Sub(t.lastSeen) > t.cfg.TTL
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
