package lease

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

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
