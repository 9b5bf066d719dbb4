package endpoint_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

// accepts tells whether a receiver that holds one secret takes what an endpoint sends at a time.
func accepts(e *endpoint.Endpoint, at time.Time, secret webhook.Secret) bool {
	header, body := http.Header{}, []byte("body")
	webhook.SetHeaders(header, "evt_1", at, body, e.Signing(at)...)
	v := webhook.Verifier{Secrets: []webhook.Secret{secret}, Now: func() time.Time { return at }}
	return v.Verify(header, body) == nil
}

func TestRotationOverTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	after := func(d time.Duration) time.Time { return now.Add(d) }
	const h = time.Hour
	a, b, c := webhook.GenerateSecret(), webhook.GenerateSecret(), webhook.GenerateSecret()
	k, l := webhook.GenerateSigningKey(), webhook.GenerateSigningKey()
	one := func(s ...webhook.Secret) []webhook.Secret { return s }
	for _, tt := range []struct {
		name   string
		turn   func(e *endpoint.Endpoint)
		at     time.Time
		signs  []webhook.Secret
		silent []webhook.Secret
		keys   int
	}{
		{"untouched", func(*endpoint.Endpoint) {}, after(1000 * h), one(a, k), one(b, c, l), 1},
		{"overlap", func(e *endpoint.Endpoint) { e.Rotate(one(b), now, after(24*h)) }, after(24*h - 1), one(a, b, k), one(c), 1},
		{"overlap over", func(e *endpoint.Endpoint) { e.Rotate(one(b), now, after(24*h)) }, after(24 * h), one(b, k), one(a), 1},
		{"at once", func(e *endpoint.Endpoint) { e.Rotate(one(b), now, now) }, now, one(b, k), one(a), 1},
		{"until long ago", func(e *endpoint.Endpoint) { e.Rotate(one(b), now, after(-h)) }, now, one(b, k), one(a), 1},
		{"the other scheme", func(e *endpoint.Endpoint) { e.Rotate(one(l), now, after(h)) }, after(h / 2), one(a, k, l), one(b), 2},
		{"the other scheme, over", func(e *endpoint.Endpoint) { e.Rotate(one(l), now, after(h)) }, after(h), one(a, l), one(k), 2},
		{"both schemes", func(e *endpoint.Endpoint) { e.Rotate(one(b, l), now, after(h)) }, after(h), one(b, l), one(a, k), 2},
		{"nothing new", func(e *endpoint.Endpoint) { e.Rotate(nil, now, after(h)) }, after(2 * h), one(a, k), one(b), 1},
		{"twice within the overlap", func(e *endpoint.Endpoint) {
			e.Rotate(one(b), now, after(24*h))
			e.Rotate(one(c), after(h), after(25*h))
		}, after(2 * h), one(a, b, c, k), nil, 1},
		{"twice, the first over", func(e *endpoint.Endpoint) {
			e.Rotate(one(b), now, after(24*h))
			e.Rotate(one(c), after(h), after(25*h))
		}, after(24 * h), one(b, c, k), one(a), 1},
		{"the second at once, the first signs on", func(e *endpoint.Endpoint) {
			e.Rotate(one(b), now, after(24*h))
			e.Rotate(one(c), after(h), after(h))
		}, after(2 * h), one(a, c, k), one(b), 1},
		{"all of one scheme revoked", func(e *endpoint.Endpoint) {
			e.Rotate(one(b, l), now, after(24*h))
			e.Revoke(one(c), after(h))
		}, after(h), one(c, k, l), one(a, b), 2},
		{"a key that ran out is forgotten at the next turn", func(e *endpoint.Endpoint) {
			e.Rotate(one(l), now, after(h))
			e.Rotate(one(b), after(2*h), after(3*h))
		}, after(2 * h), one(a, b, l), one(k), 1},
	} {
		e := &endpoint.Endpoint{Secrets: one(a, k)}
		before := e.Signing(now)
		tt.turn(e)
		for _, s := range tt.signs {
			if !accepts(e, tt.at, s) {
				t.Errorf("%s: %s does not sign", tt.name, s.Scheme())
			}
		}
		for _, s := range tt.silent {
			if accepts(e, tt.at, s) {
				t.Errorf("%s: a %s signs that must not", tt.name, s.Scheme())
			}
		}
		if n := len(e.PublicKeys()); n != tt.keys {
			t.Errorf("%s: %d public keys, want %d", tt.name, n, tt.keys)
		}
		if len(before) != 2 || !before[0].Equal(a) || !before[1].Equal(k) {
			t.Errorf("%s: what an attempt holds was changed under it", tt.name)
		}
	}
}

func TestRetiredSecretsAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first := webhook.GenerateSecret()
	e := &endpoint.Endpoint{Secrets: []webhook.Secret{first}}
	for range 20 {
		e.Rotate([]webhook.Secret{webhook.GenerateSecret()}, now, now.Add(time.Hour))
	}
	if n := len(e.Signing(now)); n != 9 {
		t.Errorf("%d secrets sign: one and eight retired are the most", n)
	}
	if accepts(e, now, first) {
		t.Error("the oldest was kept, a later one dropped")
	}
}
