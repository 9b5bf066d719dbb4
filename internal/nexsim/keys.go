package nexsim

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// key is an API key that the simulator accepts. It is never changed; other scopes make another key.
type key struct {
	token           string
	id              string // as the connect comment tells it
	workspace       *workspace
	mayReadInsights bool
}

// keyring holds all keys, and what each may still request under the rate limit.
type keyring struct {
	mu       sync.RWMutex
	keys     map[string]*key
	limit    RateLimit
	limiters map[string]*rate.Limiter // by token, made at the first request under the limit
}

func newKeyring(limit RateLimit) keyring {
	return keyring{keys: make(map[string]*key), limit: limit, limiters: make(map[string]*rate.Limiter)}
}

func (r *keyring) find(token string) *key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys[token]
}

func (r *keyring) set(w *workspace, k Key) error {
	if k.Token == "" {
		return fmt.Errorf("key: the token is empty")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.keys[k.Token]; known != nil && known.workspace != w {
		return fmt.Errorf("key: its token belongs to workspace %q", known.workspace.info.Slug)
	}
	r.keys[k.Token] = &key{
		token: k.Token, id: digits("token", k.Token), workspace: w, mayReadInsights: slices.Contains(k.Scopes, ScopeInsights),
	}
	return nil
}

func (r *keyring) remove(token string) *key {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.keys[token]
	delete(r.keys, token)
	delete(r.limiters, token)
	return k
}

func (r *keyring) setLimit(l RateLimit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = l
	clear(r.limiters)
}

// allow counts a request against the limit. If it is refused, wait tells for how long, or is 0 if that is kept secret.
func (r *keyring) allow(token string) (wait time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.limit.PerSecond == 0 {
		return 0, true
	}
	l := r.limiters[token]
	if l == nil {
		l = rate.NewLimiter(rate.Limit(r.limit.PerSecond), max(1, r.limit.Burst))
		r.limiters[token] = l
	}
	res := l.Reserve()
	wait = res.Delay()
	if wait == 0 {
		return 0, true
	}
	res.Cancel()
	if !r.limit.RetryAfter {
		wait = 0
	}
	return wait, false
}

// SetKey adds a key to a workspace or changes its scopes; open streams are not touched. A token can belong to one
// workspace only.
func (s *Sim) SetKey(slug string, k Key) error {
	w, err := s.find(slug)
	if err != nil {
		return err
	}
	return s.keys.set(w, k)
}

// RevokeKey removes a key and ends its streams; it reports whether there was one.
func (s *Sim) RevokeKey(token string) bool {
	k := s.keys.remove(token)
	if k == nil {
		return false
	}
	k.workspace.drop(ended, func(c *conn) bool { return c.token == token })
	return true
}

// SetLimit sets the rate limit of each key; the zero RateLimit ends it. Every key begins with a full burst.
func (s *Sim) SetLimit(l RateLimit) error {
	if !l.valid() {
		return fmt.Errorf("limit %v per second, burst %d: must not be negative", l.PerSecond, l.Burst)
	}
	s.keys.setLimit(l)
	return nil
}
