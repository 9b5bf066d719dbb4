package fanout_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
)

// publishOf stores an insight of a workspace about a subject whose text names both.
func (b *bundle) publishOf(workspace, subject, id string) {
	b.t.Helper()
	e := &event.Event{
		Workspace: workspace, ID: id, Type: "nex.insight.risk", Subject: subject, Time: time.Now(),
		Data: json.RawMessage(fmt.Sprintf(`{"content":"secret of %s and %s"}`, workspace, subject)), Traceparent: event.NewTraceparent(),
	}
	if _, err := b.bus.Publish(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
}

// stored is everything that the streams hold, but for the relay's own news.
func (b *bundle) stored() (all []string) {
	b.t.Helper()
	for _, name := range []string{bus.StreamNex, bus.StreamRetry, bus.StreamDead, bus.StreamAttempts} {
		s, err := b.bus.JetStream().Stream(b.t.Context(), name)
		if err != nil {
			b.t.Fatal(err)
		}
		state := s.CachedInfo().State
		for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
			if m, err := s.GetMsg(b.t.Context(), seq); err == nil && !strings.Contains(m.Subject, ".relay.endpoint.") {
				all = append(all, fmt.Sprintf("%s %s", m.Subject, m.Data))
			}
		}
	}
	return all
}

// What is erased is nowhere any more, whatever became of it; what stays is delivered, and nothing else is.
func TestErase(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, subject string
		gone          func(id string) bool // of the ids <workspace>-<subject>-<n>
		want          fanout.Erased
	}{
		// Each endpoint has 12 events: 2 workspaces, 2 subjects, 3 each.
		{"a workspace", "", func(id string) bool { return strings.HasPrefix(id, "acme-") }, fanout.Erased{Events: 6, Attempts: 18, Retries: 6, DeadLetters: 6}},
		{"a subject", "person/john", func(id string) bool { return strings.HasPrefix(id, "acme-person/john-") }, fanout.Erased{Events: 3, Attempts: 9, Retries: 3, DeadLetters: 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Hour}, RetryAfterMax: time.Hour})
			fails := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusBadRequest) })
			well := newReceiver(t, nil)
			b.create(&endpoint.Endpoint{ID: "fails", URL: fails.URL})
			b.create(&endpoint.Endpoint{ID: "well", URL: well.URL})
			b.create(&endpoint.Endpoint{ID: "dies", URL: fails.URL, Filter: `event.subject startsWith "person"`})
			var stays []string
			for n := range 3 {
				for _, workspace := range []string{"acme", "globex"} {
					for _, subject := range []string{"person/john", "person/jane"} {
						id := fmt.Sprintf("%s-%s-%d", workspace, subject, n)
						b.publishOf(workspace, subject, id)
						if !tt.gone(id) {
							stays = append(stays, id)
						}
					}
				}
			}
			well.await(t, 12)
			fails.await(t, 24)
			b.read()
			for _, id := range []string{"fails", "dies"} {
				eventually(t, "they wait", func() bool { return b.undelivered(id, 12).Waiting == 12 })
			}
			b.die("dies")
			eventually(t, "all attempts are recorded", func() bool {
				s, err := b.bus.JetStream().Stream(t.Context(), bus.StreamAttempts)
				return err == nil && s.CachedInfo().State.Msgs == 36
			})
			for _, dry := range []bool{true, false} {
				got, err := b.relay.Erase(t.Context(), fanout.Erasure{Workspace: "acme", Subject: tt.subject, DryRun: dry, Overwrite: true})
				if err != nil || got != tt.want {
					t.Fatalf("dry=%t: %+v, %v; want %+v", dry, got, err, tt.want)
				}
			}
			for _, text := range b.stored() {
				for n := range 3 {
					for _, subject := range []string{"person/john", "person/jane"} {
						if id := fmt.Sprintf("acme-%s-%d", subject, n); tt.gone(id) && strings.Contains(text, id) {
							t.Errorf("%s is still in %s", id, text)
						}
					}
				}
			}
			if got, err := b.relay.Erase(t.Context(), fanout.Erasure{Workspace: "acme", Subject: tt.subject}); err != nil || got != (fanout.Erased{}) {
				t.Errorf("once more: %+v, %v", got, err)
			}
			b.undelivered("fails", len(stays))
			// What waits goes on, from where it stands now.
			if err := b.registry.Change(t.Context(), "fails", func(e *endpoint.Endpoint) (bool, error) {
				e.URL = well.URL
				return true, nil
			}); err != nil {
				t.Fatal(err)
			}
			b.hurry("fails")
			if got := sorted(well.await(t, len(stays))); !slices.Equal(got, sorted(stays)) {
				t.Errorf("got %v, want %v", got, stays)
			}
			b.undelivered("fails", 0)
		})
	}
}

// die makes dead letters of all that waits for an endpoint.
func (b *bundle) die(id string) {
	b.t.Helper()
	b.eachRetry(id, func(ref map[string]any, data []byte) {
		sequence := uint64(ref["sequence"].(float64))
		m, err := b.bus.Get(b.t.Context(), sequence)
		if err != nil {
			b.t.Fatal(err)
		}
		letter, err := json.Marshal(fanout.DeadLetter{EventID: ref["id"].(string), Sequence: sequence, Endpoint: id, Event: m.Data})
		if err != nil {
			b.t.Fatal(err)
		}
		if _, err := b.bus.JetStream().Publish(b.t.Context(), bus.DeadSubject(id, "4xx"), letter); err != nil {
			b.t.Fatal(err)
		}
	})
	if err := b.bus.PurgeRetry(b.t.Context(), id, 0); err != nil {
		b.t.Fatal(err)
	}
}

// hurry lets all that waits for an endpoint be due.
func (b *bundle) hurry(id string) {
	b.t.Helper()
	var due [][]byte
	b.eachRetry(id, func(ref map[string]any, _ []byte) {
		one, err := json.Marshal(ref)
		if err != nil {
			b.t.Fatal(err)
		}
		due = append(due, one)
	})
	if err := b.bus.PurgeRetry(b.t.Context(), id, 0); err != nil {
		b.t.Fatal(err)
	}
	for _, one := range due {
		if _, err := b.bus.JetStream().Publish(b.t.Context(), bus.RetryDueSubject(id, 1), one); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bundle) eachRetry(id string, do func(ref map[string]any, data []byte)) {
	b.t.Helper()
	_, err := b.bus.ReadRetry(b.t.Context(), id, func(data []byte) error {
		var refs []map[string]any
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(&refs); err != nil {
			return err
		}
		for _, ref := range refs {
			do(ref, data)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// What is on its way while it is erased is not stored again, and not sent any more: in flight at a receiver that fails then, waiting for
// its rate, given again by its owner, in strict order.
func TestEraseOnTheWay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		endpoint endpoint.Endpoint
		inFlight int
	}{
		{"in flight", endpoint.Endpoint{}, 5},
		{"at its rate", endpoint.Endpoint{RateLimit: 1. / 60}, 1},
		{"one at a time", endpoint.Endpoint{MaxInFlight: 1}, 1},
		{"ordered", endpoint.Endpoint{Ordered: true}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, fanout.Policy{Schedule: []time.Duration{0}, RetryAfterMax: time.Hour}) // what fails is a dead letter
			hang := make(chan struct{})
			begun := make(chan struct{}, 100)
			r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
				begun <- struct{}{}
				<-hang
				w.WriteHeader(http.StatusBadRequest)
			})
			e := tt.endpoint
			e.ID, e.URL = "crm", r.URL
			b.create(&e)
			for n := range 5 {
				b.publishOf("acme", "person/john", fmt.Sprintf("acme-%d", n))
			}
			for range tt.inFlight {
				<-begun
			}
			if _, err := b.relay.Erase(t.Context(), fanout.Erasure{Workspace: "acme", Subject: "person/john"}); err != nil {
				close(hang)
				t.Fatal(err)
			}
			b.publishOf("acme", "person/jane", "acme-new")
			close(hang)
			b.publishOf("globex", "person/john", "globex-new")
			eventually(t, "what is new has come, or waits for its turn", func() bool {
				got := r.all()
				return slices.Contains(got, "globex-new") || e.RateLimit > 0
			})
			eventually(t, "nothing of the old is on its way", func() bool {
				u, err := b.relay.Undelivered(t.Context(), b.registry.Snapshot().Get("crm"))
				return err == nil && u.Count() == 0 || e.RateLimit > 0 && u.Count() <= 2
			})
			if n := len(r.all()); n > tt.inFlight+2 {
				t.Errorf("%d attempts were made, %d of them before it was erased", n, tt.inFlight)
			}
			for _, text := range b.stored() {
				for n := range 5 {
					if id := fmt.Sprintf("acme-%d", n); strings.Contains(text, `"`+id+`"`) {
						t.Errorf("%s is still in %s", id, text)
					}
				}
			}
		})
	}
}

// An event that is dated far ahead does not have everything refused until then.
func TestEraseOfWhatIsDatedAhead(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	now := time.Now()
	for i, at := range []time.Time{now, now.Add(time.Minute), now.AddDate(70, 0, 0)} {
		e := &event.Event{
			Workspace: "acme", ID: fmt.Sprint("x-", i), Type: "nex.insight.risk", Time: at, Emitted: at, Fingerprint: fmt.Sprint("f-", i),
			Data: json.RawMessage(`{}`), Traceparent: event.NewTraceparent(),
		}
		if _, err := b.bus.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := b.relay.Erase(t.Context(), fanout.Erasure{Workspace: "acme"}); err != nil || got.Events != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	list, err := b.bus.Erasures(t.Context(), "acme")
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if e := list[0]; !e.Until.Equal(now.Add(time.Minute)) || !e.Covers("", now.AddDate(70, 0, 0), "f-2") || e.Covers("", now.Add(time.Hour), "other") {
		t.Errorf("%+v", e)
	}
}
