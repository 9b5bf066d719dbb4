package nex

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// live is a batch as Nex's documentation shows it.
const live = `{"workspace":{"name":"Acme Corp","slug":"acme","business_info":{"name":"Acme Corp","domain":"acme.com"}},
 "insights":[{"type":"opportunity","type_description":"A potential business opportunity",
   "content":"Budget approval expected next quarter","confidence":0.85,"confidence_level":"high",
   "target":{"type":"entity","entity_type":"person","hint":"John Smith","signals":[{"type":"email","value":"john@acme.com"}]},
   "evidence":[{"excerpt":"We should have budget approval by Q2","artifact":{"type":"email","subject":"RE: Proposal"}}]}],
 "operation_id":12345,"insight_count":1,"emitted_at":"2026-02-05T10:30:00Z"}`

var (
	emitted = time.Date(2026, 2, 5, 10, 30, 0, 0, time.UTC)
	created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

func TestParseLiveBatch(t *testing.T) {
	t.Parallel()
	p, err := ParsePayload([]byte(live))
	if err != nil || len(p.Insights) != 1 || len(p.Malformed) != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	in := p.Insights[0]
	if !strings.Contains(live, string(in.Raw)) || !bytes.HasPrefix(in.Raw, []byte(`{"type":"opportunity"`)) || !json.Valid(in.Raw) {
		t.Errorf("raw is not the insight as sent: %s", in.Raw)
	}
	in.Raw = nil
	want := Insight{
		Type: "opportunity", Content: "Budget approval expected next quarter", Time: emitted, TargetKind: "person", TargetName: "John Smith",
		Workspace: json.RawMessage(`{"name":"Acme Corp","slug":"acme","business_info":{"name":"Acme Corp","domain":"acme.com"}}`),
		Batch:     &Batch{OperationID: json.RawMessage("12345"), Index: 0, Count: 1},
	}
	if !reflect.DeepEqual(in, want) {
		t.Errorf("\ngot  %+v\nwant %+v", in, want)
	}
}

func TestParseShapes(t *testing.T) {
	t.Parallel()
	const one = `{"content":"a","type":"risk"}`
	const rest = `{"id":"i1","workspace_id":"w","content":"a","type":"risk","entities":[{"type":"company","name":"Acme"}],"created_at":"2026-01-02T03:04:05Z"}`
	for name, c := range map[string]struct {
		in        string
		ids       []string // of the insights, with their contents: id/content
		malformed int
	}{
		"single":                 {in: one, ids: []string{"/a"}},
		"white space around":     {in: " \n" + one + "\r\n", ids: []string{"/a"}},
		"array":                  {in: "[" + one + "," + rest + "]", ids: []string{"/a", "i1/a"}},
		"empty array":            {in: "[]"},
		"array of batches":       {in: "[" + live + "," + one + "]", ids: []string{"/Budget approval expected next quarter", "/a"}},
		"wrapped":                {in: `{"insight":` + one + `}`, ids: []string{"/a"}},
		"REST data":              {in: `{"data":[` + rest + `]}`, ids: []string{"i1/a"}},
		"REST enriched":          {in: `{"insights":[` + rest + `,` + one + `],"insight_count":2}`, ids: []string{"i1/a", "/a"}},
		"null list":              {in: `{"insights":null,"insight_count":0}`},
		"null data":              {in: `{"data":null}`},
		"empty list":             {in: `{"data":[]}`},
		"one bad in a batch":     {in: `{"insights":[7,` + one + `,{"type":"x"},{"content":""},{"content":5},{"content":"c","type":5},null]}`, ids: []string{"/a"}, malformed: 6},
		"one bad in an array":    {in: `[` + one + `,"x",[1]]`, ids: []string{"/a"}, malformed: 2},
		"null type":              {in: `{"content":"a","type":null}`, ids: []string{"/a"}},
		"no type":                {in: `{"content":"a"}`, ids: []string{"/a"}},
		"insight with data":      {in: `{"content":"a","data":{"x":1}}`, ids: []string{"/a"}},
		"insight with null data": {in: `{"content":"a","data":null}`, ids: []string{"/a"}},
		"number as id":           {in: `{"content":"a","id":12345678901234567890}`, ids: []string{"12345678901234567890/a"}},
		"other id":               {in: `{"content":"a","id":{"x":1}}`, ids: []string{"/a"}},
	} {
		p, err := ParsePayload([]byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var ids []string
		for _, in := range p.Insights {
			ids = append(ids, in.ID+"/"+in.Content)
		}
		if !reflect.DeepEqual(ids, c.ids) || len(p.Malformed) != c.malformed {
			t.Errorf("%s: %q and %d malformed, want %q and %d", name, ids, len(p.Malformed), c.ids, c.malformed)
		}
		for _, bad := range p.Malformed {
			if bad.Reason == "" || !strings.Contains(c.in, string(bad.Raw)) {
				t.Errorf("%s: %q: %q", name, bad.Raw, bad.Reason)
			}
		}
	}
}

func TestParseFails(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"nothing": "", "white space": " \n ", "text": "hello", "number": "7", "null": "null", "string": `"x"`, "true": "true",
		"cut": live[:len(live)/2], "two": `{"content":"a"}{"content":"b"}`, "other object": `{"hello":1}`, "empty object": "{}",
		"list is text": `{"insights":"x"}`, "content is a number": `{"content":7}`, "empty content": `{"content":""}`,
		"wrapped too deep": strings.Repeat(`{"insight":`, 9) + `{"content":"a"}` + strings.Repeat("}", 9),
	} {
		if p, err := ParsePayload([]byte(in)); err == nil || len(p.Insights)+len(p.Malformed) != 0 {
			t.Errorf("%s passes as %+v", name, p)
		}
	}
	deep := strings.Repeat("[", 9) + `{"content":"a"}` + strings.Repeat("]", 9)
	if p, err := ParsePayload([]byte(deep)); err != nil || len(p.Insights) != 0 || len(p.Malformed) != 1 {
		t.Errorf("nested too deep: %+v, %v", p, err)
	}
}

func TestParseTimes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Time{
		`{"content":"a","created_at":"2026-01-02T03:04:05Z"}`:                                                    created,
		`{"content":"a","created_at":"2026-01-02T05:04:05+02:00"}`:                                               created,
		`{"content":"a","created_at":"2026-01-02T03:04:05.25Z"}`:                                                 created.Add(250 * time.Millisecond),
		`{"content":"a","emitted_at":"2026-01-02T03:04:05Z"}`:                                                    created,
		`{"content":"a","timestamp":"2026-01-02T03:04:05Z"}`:                                                     created,
		`{"content":"a","created_at":"yesterday","timestamp":"2026-01-02T03:04:05Z"}`:                            created,
		`{"content":"a","created_at":1767323045}`:                                                                {},
		`{"content":"a","created_at":"0000-01-01T00:00:00Z"}`:                                                    {},
		`{"content":"a","created_at":"0001-01-01T00:00:00+00:01"}`:                                               {},
		`{"content":"a","created_at":"0001-01-01T00:00:00Z"}`:                                                    {},
		`{"content":"a","created_at":"0001-01-01T00:00:00-00:01"}`:                                               time.Time{}.Add(time.Minute),
		`{"content":"a","created_at":"9999-12-31T23:59:59-05:00"}`:                                               {},
		`{"emitted_at":"2026-02-05T10:30:00Z","insights":[{"content":"a","created_at":"0000-01-01T00:00:00Z"}]}`: emitted,
		`{"content":"a"}`: {},
		`{"emitted_at":"2026-02-05T10:30:00Z","insights":[{"content":"a"}]}`:                                     emitted,
		`{"emitted_at":"2026-02-05T10:30:00Z","insights":[{"content":"a","created_at":"2026-01-02T03:04:05Z"}]}`: created,
	} {
		p, err := ParsePayload([]byte(in))
		if err != nil || len(p.Insights) != 1 || !p.Insights[0].Time.Equal(want) || p.Insights[0].Time.Location() != time.UTC {
			t.Errorf("%s: %+v (%v), want %v", in, p.Insights, err, want)
		}
	}
}

func TestParseTargets(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]string{
		`{"content":"a","target":{"entity_type":"person","hint":"J"}}`:                               {"person", "J"},
		`{"content":"a","target":{"hint":"J"}}`:                                                      {"", "J"},
		`{"content":"a","target":"J"}`:                                                               {},
		`{"content":"a","target":null,"entities":[{"type":"company","name":"A"},{"name":"B"}]}`:      {"company", "A"},
		`{"content":"a","target":{"entity_type":"person","hint":"J"},"entities":[{"name":"other"}]}`: {"person", "J"},
		`{"content":"a","entities":[]}`:                                                              {},
		`{"content":"a","entities":["A"]}`:                                                           {},
		`{"content":"a","entities":{"name":"A"}}`:                                                    {},
	} {
		p, err := ParsePayload([]byte(in))
		if err != nil || len(p.Insights) != 1 {
			t.Fatalf("%s: %v", in, err)
		}
		if got := [2]string{p.Insights[0].TargetKind, p.Insights[0].TargetName}; got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// What Nex sends is passed on as it is: no float64 in between, no key lost, no space changed.
func TestParseKeepsBytes(t *testing.T) {
	t.Parallel()
	const odd = `{ "z":1e400, "a" : 12345678901234567890.10, "content":"\u00e4\ud83d\ude00 <&>", "unknown":{"b":[ ]}, "z":2 }`
	p, err := ParsePayload([]byte(`{"insights":[` + odd + `]}`))
	if err != nil || len(p.Insights) != 1 {
		t.Fatal(err)
	}
	if got := string(p.Insights[0].Raw); got != odd {
		t.Errorf("\ngot  %s\nwant %s", got, odd)
	}
}

// An insight lives on in queues; it must not keep the frame of 4 MiB alive in which it came.
func TestInsightsHaveMemoryOfTheirOwn(t *testing.T) {
	t.Parallel()
	frame := []byte(`{"workspace":{"a":1},"operation_id":77,"insights":[{"content":"abc"},5]}`)
	p, err := ParsePayload(frame)
	if err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprintf("%s %s %s %s", p.Insights[0].Raw, p.Insights[0].Workspace, p.Insights[0].Batch.OperationID, p.Malformed[0].Raw)
	for i := range frame {
		frame[i] = '#'
	}
	after := fmt.Sprintf("%s %s %s %s", p.Insights[0].Raw, p.Insights[0].Workspace, p.Insights[0].Batch.OperationID, p.Malformed[0].Raw)
	if before != after {
		t.Errorf("changed with the frame: %s", after)
	}
}

func FuzzParsePayload(f *testing.F) {
	for _, s := range []string{live, `[{"content":"a"}]`, `{"data":[{"content":"a","id":7}]}`, `{"insight":{"content":"a"}}`, `{"insights":[1,{}]}`, "null",
		`{"content":"a","created_at":"0000-01-01T00:00:00Z"}`, `{"content":"a","created_at":"9999-12-31T23:59:59-05:00"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		given := bytes.Clone(in)
		p, err := ParsePayload(in)
		if !bytes.Equal(in, given) {
			t.Fatal("the input was changed")
		}
		if err != nil && len(p.Insights)+len(p.Malformed) > 0 {
			t.Fatal("an error and insights")
		}
		for _, i := range p.Insights {
			var o map[string]json.RawMessage
			if json.Unmarshal(i.Raw, &o) != nil || !bytes.Contains(in, i.Raw) {
				t.Fatalf("raw is no object of the input: %q", i.Raw)
			}
			if _, err := i.Time.MarshalJSON(); err != nil || i.Content == "" || i.Time.Location() != time.UTC {
				t.Fatalf("%+v", i)
			}
			if i.Batch != nil && (i.Batch.Index < 0 || i.Batch.Index >= i.Batch.Count) {
				t.Fatalf("%+v", i.Batch)
			}
		}
		for _, m := range p.Malformed {
			if m.Reason == "" || !bytes.Contains(in, m.Raw) {
				t.Fatalf("%+v", m)
			}
		}
	})
}

func BenchmarkParsePayload(b *testing.B) {
	b.SetBytes(int64(len(live)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePayload([]byte(live)); err != nil {
			b.Fatal(err)
		}
	}
}
