package stream

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

var (
	emittedAt = time.Date(2026, 2, 5, 10, 30, 0, 0, time.UTC)
	arrivedAt = time.Date(2026, 2, 5, 10, 31, 0, 0, time.UTC)
)

// one is the only insight of a payload.
func one(t testing.TB, payload string) nex.Insight {
	t.Helper()
	p, err := nex.ParsePayload([]byte(payload))
	if err != nil || len(p.Insights) != 1 {
		t.Fatalf("%s: %d insights, %v", payload, len(p.Insights), err)
	}
	return p.Insights[0]
}

func TestNormalizeData(t *testing.T) {
	t.Parallel()
	const batch = `{"workspace":{"slug":"acme"},"operation_id":12345678901234567890,"insights":[`
	for name, c := range map[string]struct{ payload, want string }{
		"single is left as it is": {`{"content":"a", "x" : 1e400}`, `{"content":"a", "x" : 1e400}`},
		"batch around it": {
			batch + `{"content":"a","n":0.10}]}`,
			`{"content":"a","n":0.10,"workspace":{"slug":"acme"},"batch":{"operation_id":12345678901234567890,"index":0,"count":1}}`,
		},
		"its place in the batch": {
			batch + `5,{"content":"a" }]}`,
			`{"content":"a" ,"workspace":{"slug":"acme"},"batch":{"operation_id":12345678901234567890,"index":1,"count":2}}`,
		},
		"a workspace of its own": {
			batch + `{"content":"a","workspace":7}]}`,
			`{"content":"a","workspace":7,"batch":{"operation_id":12345678901234567890,"index":0,"count":1}}`,
		},
		"a batch of its own": {
			batch + `{"content":"a","batch":null}]}`, `{"content":"a","batch":null,"workspace":{"slug":"acme"}}`,
		},
		"keys of its own, escaped": {
			batch + `{"content":"a","w\u006frkspace":7,"b\u0061tch":8}]}`, `{"content":"a","w\u006frkspace":7,"b\u0061tch":8}`,
		},
		"the words within it": {
			batch + `{"content":"a","x":{"workspace":1,"batch":2}}]}`,
			`{"content":"a","x":{"workspace":1,"batch":2},"workspace":{"slug":"acme"},"batch":{"operation_id":12345678901234567890,"index":0,"count":1}}`,
		},
		"no operation id": {
			`{"emitted_at":"2026-02-05T10:30:00Z","insight_count":1,"insights":[{"content":"a"}]}`,
			`{"content":"a","batch":{"index":0,"count":1}}`,
		},
		"REST list": {`{"data":[{"content":"a"}]}`, `{"content":"a"}`},
	} {
		var in nex.Insight
		p, err := nex.ParsePayload([]byte(c.payload))
		if err != nil || len(p.Insights) != 1 {
			t.Fatalf("%s: %v", name, err)
		}
		in = p.Insights[0]
		if got := string(Normalize("acme", in, arrivedAt).Data); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.want)
		}
	}
}

func TestNormalizeEnvelope(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 300)
	for name, c := range map[string]struct {
		payload, kind, subject string
		time                   time.Time
	}{
		"usual":         {`{"emitted_at":"2026-02-05T10:30:00Z","insights":[{"content":"a","type":"risk","target":{"entity_type":"person","hint":"John Smith"}}]}`, "nex.insight.risk", "person/John Smith", emittedAt},
		"type to token": {`{"content":"a","type":"Role Detail.X"}`, "nex.insight.role_detail_x", "", arrivedAt},
		"empty type":    {`{"content":"a","type":""}`, "nex.insight.unknown", "", arrivedAt},
		"no type":       {`{"content":"a"}`, "nex.insight.unknown", "", arrivedAt},
		"only a name":   {`{"content":"a","target":{"hint":"J"}}`, "nex.insight.unknown", "J", arrivedAt},
		"only a kind":   {`{"content":"a","target":{"entity_type":"person"}}`, "nex.insight.unknown", "", arrivedAt},
		"entities":      {`{"content":"a","entities":[{"type":"company","name":"Acme"}]}`, "nex.insight.unknown", "company/Acme", arrivedAt},
		"control chars": {`{"content":"a","target":{"hint":" a\u0000\n\u0085b "}}`, "nex.insight.unknown", "ab", arrivedAt},
		"long name":     {`{"content":"a","target":{"hint":"` + long + `"}}`, "nex.insight.unknown", long[:2*maxSubject], arrivedAt},
	} {
		e := Normalize("acme", one(t, c.payload), arrivedAt)
		if e.Type != c.kind || e.Subject != c.subject || !e.Time.Equal(c.time) || e.Workspace != "acme" || e.Traceparent == "" {
			t.Errorf("%s: %+v", name, e)
		}
		if c.time.Equal(arrivedAt) != e.Emitted.IsZero() {
			t.Errorf("%s: emitted %v", name, e.Emitted)
		}
		var envelope map[string]any
		if err := json.Unmarshal(e.JSON(), &envelope); err != nil || envelope["type"] != c.kind || envelope["specversion"] != "1.0" {
			t.Errorf("%s: %v: %s", name, err, e.JSON())
		}
	}
}

// Two replicas, a week apart, make the same identity of the same insight.
func TestNormalizeIdentity(t *testing.T) {
	t.Parallel()
	const live = `{"emitted_at":"2026-02-05T10:30:00Z","operation_id":1,"insights":[{"content":"a","type":"risk"}]}`
	first := Normalize("acme", one(t, live), arrivedAt)
	again := Normalize("acme", one(t, live), arrivedAt.Add(7*24*time.Hour))
	if first.ID == "" || first.ID != again.ID || first.Fingerprint != again.Fingerprint {
		t.Errorf("%q %q", first.ID, again.ID)
	}
	if e := Normalize("acme", one(t, `{"id":"ins_7","content":"a","type":"risk"}`), arrivedAt); e.ID != "ins_7" || e.Fingerprint != first.Fingerprint {
		t.Errorf("with Nex's id: %q, fingerprint equal: %v", e.ID, e.Fingerprint == first.Fingerprint)
	}
	for name, e := range map[string]*event.Event{
		"another workspace": Normalize("beta", one(t, live), arrivedAt),
		"another type":      Normalize("acme", one(t, strings.Replace(live, "risk", "activity", 1)), arrivedAt),
		"another content":   Normalize("acme", one(t, strings.Replace(live, `"a"`, `"b"`, 1)), arrivedAt),
	} {
		if e.ID == first.ID || e.Fingerprint == first.Fingerprint {
			t.Errorf("%s is the same insight", name)
		}
	}
	if e := Normalize("acme", one(t, strings.Replace(live, "10:30:00", "11:30:00", 1)), arrivedAt); e.ID == first.ID {
		t.Error("the same text an hour later has the same id")
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{
		`{"content":"a"}`, `{"workspace":{"a":1},"operation_id":1,"insights":[{"content":"a","batch":1,"workspace":2}]}`,
		`{"workspace":{},"insights":[{"content":"a","\u0062atch":1}],"operation_id":null}`, `[{"content":"a","id":7,"type":"A.b c","target":{"hint":"x\u0000"}}]`,
		`{"content":"a","created_at":"0000-01-01T00:00:00Z"}`, `{"content":"a","created_at":"0001-01-01T01:10:00Z"}`,
		`{"content":"a","created_at":"9999-12-31T23:59:59-05:00"}`,
	} {
		f.Add([]byte(s))
	}
	ids := newIdentities(10*time.Minute, bus.Recent{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := nex.ParsePayload(payload)
		if err != nil {
			return
		}
		for _, in := range p.Insights {
			e := Normalize("acme", in, arrivedAt)
			var sent, kept map[string]json.RawMessage
			if err := json.Unmarshal(in.Raw, &sent); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(e.Data, &kept); err != nil {
				t.Fatalf("%s: %v", e.Data, err)
			}
			for k, v := range sent {
				if string(kept[k]) != string(v) {
					t.Fatalf("%q: %s became %s", k, v, kept[k])
				}
			}
			if workspace, kind, ok := event.SplitSubject(e.NATSSubject()); !ok || workspace != "acme" || kind != e.Type {
				t.Fatalf("subject %q", e.NATSSubject())
			}
			if e.ID == "" || !json.Valid(e.JSON()) || !utf8.ValidString(e.Subject) || len([]rune(e.Subject)) > maxSubject {
				t.Fatalf("%+v", e)
			}
			for _, at := range []time.Time{e.Time, e.Emitted, ids.lookFrom(e.Emitted)} {
				if _, err := at.MarshalJSON(); err != nil {
					t.Fatal(err)
				}
			}
			again := Normalize("acme", in, arrivedAt)
			again.Traceparent = e.Traceparent
			if !reflect.DeepEqual(e, again) {
				t.Fatalf("\n%+v\n%+v", e, again)
			}
		}
	})
}

func BenchmarkNormalize(b *testing.B) {
	in := one(b, `{"workspace":{"slug":"acme"},"operation_id":1,"emitted_at":"2026-02-05T10:30:00Z","insights":[{"type":"risk","content":"`+
		strings.Repeat("x", 1000)+`","target":{"entity_type":"person","hint":"John Smith"}}]}`)
	b.ReportAllocs()
	for b.Loop() {
		Normalize("acme", in, arrivedAt)
	}
}
