package endpoint_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nex-crm/relay/internal/endpoint"
)

const riskEvent = `{"specversion":"1.0","id":"evt_1","source":"/nex/workspaces/acme","type":"nex.insight.risk","subject":"person/John Smith",
"time":"2026-02-05T10:30:00Z","datacontenttype":"application/json","data":{"type":"risk","content":"Budget at risk","confidence":0.85,
"confidence_level":"high","urgent":true,"count":3,"large":9007199254740993,"none":null,"empty":"",
"target":{"type":"entity","hint":"Acme Corp","signals":[{"type":"email","value":"john@acme.com"}]},
"evidence":[{"excerpt":"a","artifact":{"type":"call"}},{"excerpt":"b","artifact":{"type":"email"}}],
"tags":["red","blue"],"numbers":[1,2,3.5],"batch":{"operation_id":12345,"index":0,"count":1}}}`

func TestFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		source string
		want   bool
		err    string // a part of the run-time error; it is no match then
	}{
		{`event.data.confidence >= 0.8`, true, ""},
		{`0.9 <= event.data.confidence`, false, ""},
		{`event.type == "nex.insight.risk" && event.data.target.hint contains "Acme"`, true, ""},
		{`any(event.data.evidence, .artifact.type == "email")`, true, ""},
		{`all(event.data.evidence, {.artifact.type == "email"})`, false, ""},
		{`any(event.data.evidence, # != nil && .artifact.type startsWith "e")`, true, ""},
		{`count(event.data.evidence, .artifact.type == "email") == 1`, true, ""},
		{`event.data.evidence | any(.artifact.type == "email")`, true, ""},
		{`event.data.evidence[0].artifact.type == "call"`, true, ""},
		{`event.data["target"]["hint"] == 'Acme Corp'`, true, ""},
		{`event.workspace == "acme" and event.subject endsWith "Smith"`, true, ""},
		{`event.id == "evt_1" && event.source == "/nex/workspaces/acme" && event.specversion == "1.0" && event.datacontenttype == "application/json"`, true, ""},
		{`event.time >= date("2026-02-05T10:30:00Z") && event.time < date("2026-02-06")`, true, ""},
		{`event.time - date("2026-02-05T10:00:00Z") > duration("20m")`, true, ""},
		{`event.data.count == 3 && event.data.count == 3.0 && event.data.batch.operation_id in [1, 12345]`, true, ""},
		{`event.data.large == 9007199254740992`, true, ""}, // a number of JSON is a float64
		{`event.data.urgent`, true, ""},
		{`!event.data.urgent || not event.data.urgent`, false, ""},
		{`event.data.x == nil && event.data.none == nil`, true, ""},
		{`event.data.a?.b == nil`, true, ""},
		{`(event.data.a?.b ?? "none") == "none"`, true, ""},
		{`(event.data.score ?? 0) > 0.5`, false, ""},
		{`event.data.confidence_level in ["high", "very_high"]`, true, ""},
		{`event.data.confidence_level not in ["low"]`, true, ""},
		{`"red" in event.data.tags`, true, ""},
		{`lower(event.data.target.hint) contains "acme"`, true, ""},
		{`event.data.content matches "(?i)budget.*risk$"`, true, ""},
		{`len(event.data.evidence) > 1 && len(event.data.content) < 100`, true, ""},
		{`sum(event.data.numbers) == 6.5 && max(event.data.numbers) == 3.5`, true, ""},
		{`float(event.data.count) + float(event.data.confidence) > 3.8`, true, ""},
		{`event.data.count * 2 - 1 == 5`, true, ""},
		{`type(event.data.content) == "string" ? event.data.content != "" : false`, true, ""},
		{`event.data.none contains "x"`, false, ""},
		// The library rewrites these.
		{`len(filter(event.data.evidence, .artifact.type == "email")) == 1`, true, ""},
		{`first(filter(event.data.evidence, .artifact.type == "email")).excerpt == "b"`, true, ""},
		{`last(map(event.data.evidence, .excerpt)) == "b"`, true, ""},
		{`"email" in map(event.data.evidence, .artifact.type)`, true, ""},
		{`sum(map(filter(event.data.numbers, # > 1), # * 2)) == 11`, true, ""},
		{`any(event.data.numbers, # == 7) || any(event.data.numbers, # == 2)`, true, ""},
		{`count(event.data.numbers, # > 1) > 1 && !(count(event.data.numbers, # > 1) >= 3)`, true, ""},
		{`all(event.data.numbers, # > 0) && all(event.data.numbers, # < 4)`, true, ""},
		{`!any(event.data.numbers, # > 3.5) && none(event.data.numbers, # < 1) && one(event.data.numbers, # == 2)`, true, ""},
		{`find(event.data.evidence, .artifact.type == "email")?.excerpt == "b"`, true, ""},
		{`find(event.data.evidence, .artifact.type == "fax")?.excerpt == nil`, true, ""},
		{`any([event.data.count, 4], # == 3)`, true, ""},
		{`event.data.count in [1 + 2, 5]`, true, ""},
		{`event.data.confidence == 1.7 / 2`, true, ""},
		{`if event.data.urgent { event.data.count == 3 } else { false }`, true, ""},

		{`event.data.score > 0.5`, false, "line 1, column 18: invalid operation: <nil> > float64"},
		{`event.data.a.b == 1`, false, "cannot fetch b from <nil>"},
		{`event.data.content > 3`, false, "string > int"},
		{`event.data.count contains "3"`, false, "float64"},
		{`event.data.content`, false, "bool(string)"},
		{`event.data.content && true`, false, "string"},
		{`any(event.data.content, # == "B")`, false, "a string is no list"},
		{`any(event.data.nothing, # == 1)`, false, "nil is no list"},
		{`any(event.data.target, # == 1)`, false, "an object is no list"},
		{`event.data.evidence[7].artifact == nil`, false, "index out of range"},
		{`event.data.count / 0 == 1`, false, ""}, // infinity
		{`int(event.data.content) == 1`, false, "invalid"},
		{`event.data.confidence_level in ["low"] || event.data.count in ["low"]`, false, "not assignable"},
	} {
		f, err := endpoint.CompileFilter(tt.source)
		if err != nil {
			t.Errorf("%s: %v", tt.source, err)
			continue
		}
		got, err := f.Match(endpoint.NewView("acme", []byte(riskEvent)))
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v %v, want %v %q", tt.source, got, err, tt.want, tt.err)
		}
		// The index and the machine agree.
		if byIndex := len(matchAll(t, []byte(riskEvent), tt.source)) == 1; byIndex != tt.want {
			t.Errorf("%s: the snapshot says %v", tt.source, byIndex)
		}
	}
}

// What docs/filters.md shows can be copied.
func TestDocumentedFilters(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/filters.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		source, ok := strings.CutPrefix(line, "    ")
		if !ok || strings.HasPrefix(source, "filter: ") {
			continue
		}
		n++
		if _, err := endpoint.CompileFilter(source); err != nil {
			t.Errorf("%s%v", source, err)
		}
	}
	if n < 5 {
		t.Errorf("only %d filters found", n)
	}
}

func TestFilterIsRefused(t *testing.T) {
	t.Parallel()
	ands := func(part string, n int) string { return strings.Join(slices.Repeat([]string{part}, n), " && ") }
	for source, want := range map[string]string{
		"":      "line 1, column 1: is empty",
		" \n\t": "is empty",
		`event.data.text == "` + strings.Repeat("x", endpoint.MaxFilter) + `"`: "bytes, at most 4096",
		"event.data.x == \"\xff\"":                         "not valid UTF-8",
		`event.typ == "x"`:                                 "line 1, column 7: event has no field typ: did you mean event.type?",
		"event.type == \"x\" &&\n  event.datum.x == 1":     "line 2, column 9: event has no field datum; its fields are id,",
		`event["typ"] == "x"`:                              "event has no field typ",
		`event[event.id] == "x"`:                           "a field of event is named",
		`type == "x"`:                                      "line 1, column",
		`data.confidence > 1`:                              "line 1, column 1: data is not known: everything begins with event",
		`event == nil`:                                     "event by itself is no value",
		`$env.event.type == "x"`:                           "$env is not known",
		`event.data.x = 1`:                                 "line 1, column 14",
		`event.data.x ==`:                                  "unexpected token EOF",
		`event.data.x == "a`:                               "line 1, column",
		`event.type`:                                       "expected bool",
		`event.type > 3`:                                   "line 1, column 12: invalid operation: >",
		`event.type && true`:                               "mismatched types",
		`event.time > "2026-01-31"`:                        `write date(`,
		`event.time.Hour() == 3`:                           "methods cannot be called",
		`event.time.wall == 3`:                             "has no field wall",
		`event.type.x == 3`:                                "has no field x",
		`let x = event.data.a; x == 1`:                     "let is not allowed",
		`event.data.a[1:] == "x"`:                          "a slice [a:b] is not allowed",
		`{"a": 1}.a == 1`:                                  "an object { } is not allowed",
		`true; false`:                                      "a sequence with ; is not allowed",
		`b"x" == b"x"`:                                     "a byte string is not allowed",
		`event.data.x in 1..1000000000`:                    "a range is not allowed",
		`repeat("x", 1000000000) == ""`:                    "repeat is not allowed in a filter; there are all, any",
		`now() > event.time`:                               "now is not allowed",
		`toJSON(event.data) contains "x"`:                  "toJSON is not allowed",
		`string(event.data) contains "x"`:                  "string is not allowed",
		`reduce(event.data.a, #acc + #) == 1`:              "reduce is not allowed",
		`sort(event.data.a) == nil`:                        "sort is not allowed",
		`foo(event.data.a)`:                                "foo is no function here",
		`trim(event.data.a, event.data.b) == ""`:           "trim takes one text",
		`date(event.data.a, event.data.b) > event.time`:    "date takes one text",
		`any([1, 2], # == 1)`:                              "any loops over literals",
		`list(event.data.a) == nil`:                        "list is no function here",
		`any(event.data.a, any(.b, # == 1))`:               "line 1, column 19: any stands inside another loop",
		`any(event.data.a, .b | any(# == 1))`:              "any stands inside another loop",
		`any(event.data.a, .b == event.data.c)`:            "inside a loop only the element is known",
		`any(event.data.a, date(.b) > date("2026-01-01"))`: "date is not allowed inside a loop",
		`any(event.data.a, {let x = .b; x == 1})`:          "let is not allowed",
		`any(event.data.a, #acc == 1)`:                     "#acc",
		`event.data.a + event.data.b == "x"`:               "line 1, column 14: + adds numbers only",
		`any(event.data.a, .b + .b == "xx")`:               "+ adds numbers only",
		`event.type + event.type == "x"`:                   "+ adds numbers only",
		`event.data.a matches event.data.b`:                "line 1, column 33: a regular expression is a literal",
		`event.data.a matches "("`:                         "missing closing",
		`event.data.a matches "[ab]{900}"`:                 "too large",
		ands(`event.data.a == 1`, 40):                      "has more than 100 operations",
		ands(`lower(event.data.a) != ""`, 9):               "may read the whole event",
		ands(`event.data.a matches "a{30}"`, 4):            "too large",
		strings.Repeat("(", 4000):                          "line 1, column",
		strings.Repeat("!", 4000) + "true":                 "has more than 100 operations",
		strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + " == nil": "has more than 100 operations",
		"\"\u00e4\u00f6\" == \"x\" && event.typ == \"\"":                  "line 1, column 22",
	} {
		f, err := endpoint.CompileFilter(source)
		var fe *endpoint.FilterError
		if f != nil || !errors.As(err, &fe) || fe.Line < 1 || fe.Column < 1 || !strings.Contains(err.Error(), want) || len(err.Error()) > 800 {
			t.Errorf("%.100s: %v, want %q", source, err, want)
		}
	}
	e := valid("crm")
	e.Filter = `event.typ == "x"`
	var fe *endpoint.FieldError
	if err := e.Validate(endpoint.Limits{}); !errors.As(err, &fe) || fe.Field != "filter" || !strings.Contains(fe.Message, "column 7") {
		t.Errorf("validation: %v", err)
	}
	e.Filter = `event.type == "x"`
	if err := e.Validate(endpoint.Limits{}); err != nil {
		t.Errorf("validation: %v", err)
	}
}

func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// hostileEvents are what a filter must outlive, each with what comes of event.type == "nex.insight.risk": an error or not.
var hostileEvents = map[string]struct {
	data string
	err  string
}{
	"nothing":            {"", "unexpected end"},
	"no JSON":            {"nex", "invalid character"},
	"null":               {"null", "no JSON object"},
	"a list":             {`[{"type":"nex.insight.risk"}]`, "no JSON object"},
	"cut off":            {`{"type":"nex.insight.risk","data":{`, "unexpected end"},
	"two":                {`{"type":"nex.insight.risk"}{}`, "invalid character"},
	"no type":            {`{}`, ""},
	"type of a number":   {`{"type":1}`, "type is a number, not a string"},
	"time of nonsense":   {`{"type":"nex.insight.risk","time":"yesterday"}`, "RFC 3339"},
	"deep":               {`{"type":"nex.insight.risk","data":` + nested(9000) + `}`, ""},
	"too deep":           {`{"type":"nex.insight.risk","data":` + nested(20000) + `}`, "max depth"},
	"too deep an object": {`{"type":"nex.insight.risk","data":` + strings.Repeat(`{"a":`, 20000) + `1` + strings.Repeat("}", 20000) + `}`, "max depth"},
	"a huge number":      {`{"type":"nex.insight.risk","data":{"confidence":1e999}}`, ""},
	"a long number":      {`{"type":"nex.insight.risk","data":{"confidence":` + strings.Repeat("9", 100000) + `}}`, ""},
	"duplicate keys":     {`{"type":"x","type":"nex.insight.risk","data":{"confidence":0,"confidence":1}}`, ""},
	"keys of other case": {`{"type":"nex.insight.risk","TYPE":"x","Data":1}`, ""},
	"invalid UTF-8":      {"{\"type\":\"nex.insight.risk\",\"data\":{\"target\":{\"hint\":\"\xff\xfe\"}}}", ""},
	"lone surrogate":     {`{"type":"nex.insight.risk","data":{"target":{"hint":"\ud800"}}}`, ""},
	"many values":        {`{"type":"nex.insight.risk","data":[` + strings.Repeat("1,", 200_000) + `1]}`, "values, at most"},
	"too large":          {`{"type":"nex.insight.risk","data":"` + strings.Repeat("x", 5<<20) + `"}`, "bytes, at most"},
}

func TestHostileEvents(t *testing.T) {
	t.Parallel()
	sources := []string{
		`event.type == "nex.insight.risk"`, `event.data.confidence >= 0.8`, `event.data.confidence == nil`, `event.data.target.hint contains "x"`,
		`any(event.data, # == 1)`, `event.data == event.data`, `event.data.target.hint matches "^.$"`, `event.data in event.data`,
	}
	set := newFilterSet(t, sources)
	for name, tt := range hostileEvents {
		f, err := endpoint.CompileFilter(sources[0])
		if err != nil {
			t.Fatal(err)
		}
		ok, err := f.Match(endpoint.NewView("acme", []byte(tt.data)))
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v %v, want %q", name, ok, err, tt.err)
		}
		if want := tt.err == "" && name != "no type"; ok != want {
			t.Errorf("%s: %v", name, ok)
		}
		set.agree(t, []byte(tt.data))
	}
	for source, data := range map[string]string{
		`event.data.confidence == nil`:                 hostileEvents["a huge number"].data,
		`event.data.confidence == 1`:                   hostileEvents["duplicate keys"].data,
		"event.data.target.hint == \"\uFFFD\uFFFD\"":   hostileEvents["invalid UTF-8"].data,
		"event.data.target.hint == \"\uFFFD\"":         hostileEvents["lone surrogate"].data,
		`event.data == nil && event.subject == ""`:     hostileEvents["keys of other case"].data,
		`event.time < date("1970-01-01")`:              `{}`,
		`event.data.x > 1e300 && event.data.y == -0.0`: `{"data":{"x":1e308,"y":0}}`,
	} {
		if got := matchAll(t, []byte(data), source); len(got) != 1 {
			t.Errorf("%s does not match %.80s", source, data)
		}
	}
}

// snapshotOf has an endpoint for each filter, named by its number, over every insight.
func snapshotOf(list ...*endpoint.Endpoint) *endpoint.Snapshot {
	r := endpoint.NewRegistry(nil, endpoint.Sealer{}, slog.New(slog.DiscardHandler))
	r.SetConfig(list)
	return r.Snapshot()
}

func withFilters(sources ...string) []*endpoint.Endpoint {
	var list []*endpoint.Endpoint
	for i, source := range sources {
		list = append(list, &endpoint.Endpoint{ID: fmt.Sprintf("%05d", i), Enabled: true, Filter: source})
	}
	return list
}

func ids(list []*endpoint.Endpoint) []string {
	var ids []string
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	return ids
}

func matchAll(t testing.TB, data []byte, sources ...string) []string {
	t.Helper()
	return ids(snapshotOf(withFilters(sources...)...).Match(nil, "acme", "nex.insight.risk", endpoint.NewView("acme", data), nil))
}

// filterSet is filters, each alone and all in a snapshot.
type filterSet struct {
	alone    []*endpoint.Filter
	snapshot *endpoint.Snapshot
}

func newFilterSet(t testing.TB, sources []string) filterSet {
	t.Helper()
	s := filterSet{snapshot: snapshotOf(withFilters(sources...)...)}
	for _, source := range sources {
		f, err := endpoint.CompileFilter(source)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		s.alone = append(s.alone, f)
	}
	return s
}

// agree compares what the snapshot finds with the evaluation of each filter, and tells how many match.
func (s filterSet) agree(t testing.TB, data []byte) int {
	t.Helper()
	told := map[string]int{}
	found := ids(s.snapshot.Match(nil, "acme", "nex.insight.risk", endpoint.NewView("acme", data), func(e *endpoint.Endpoint, err error) {
		if told[e.ID]++; err == nil {
			t.Errorf("%s failed with no error", e.Filter)
		}
	}))
	if len(slices.Compact(slices.Clone(found))) != len(found) {
		t.Errorf("found twice: %v", found)
	}
	view := endpoint.NewView("acme", data)
	for i, f := range s.alone {
		want, err := f.Match(view)
		id := fmt.Sprintf("%05d", i)
		if _, got := slices.BinarySearch(found, id); got != want {
			t.Errorf("%s over %.300s: %v by the snapshot, %v alone (%v)", f.Source(), data, got, want, err)
		}
		if n := told[id]; n > 1 || n == 1 && err == nil {
			t.Errorf("%s over %.300s: heard %d times that it failed; alone: %v", f.Source(), data, n, err)
		}
	}
	return len(found)
}

// generator makes filters and events over few names and values, so that they meet.
type generator struct{ *rand.Rand }

func (g generator) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g generator) literal() string {
	return g.pick(`"a"`, `"b"`, `""`, `"é"`, `"\u0000"`, `"ab"`, `0`, `1`, `-1`, `1.0`, `0.5`, `-0.0`, `1e300`, `9007199254740993`, `9007199254740992`, `true`, `false`, `nil`)
}

func (g generator) number() string {
	return g.pick(`0`, `1`, `-1`, `0.5`, `-0.5`, `1.0`, `2`, `1e300`, `-1e300`, `9007199254740993`, `-9007199254740993`)
}

func (g generator) path() string {
	return g.pick(`event.data.a`, `event.data.b`, `event.data.a.b`, `event.data.a?.b`, `event.data?.a.b`, `event.data?.a?.b`, `(event.data.a?.b).c`, `(event.data.a)?.b`, `event.data["a"]`,
		`event.data.a["b"]`, `event.data`, `event.type`, `event?.type`, `event.subject`, `event.workspace`, `event.data.l`, `event.data.l[0]`)
}

func (g generator) literals(of func() string) string {
	var list []string
	for range g.IntN(4) {
		list = append(list, of())
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func (g generator) leaf() string {
	p := g.path()
	if g.IntN(8) == 0 {
		p = "lower(" + p + ")"
	}
	switch g.IntN(16) {
	case 0, 1:
		return p + g.pick(" == ", " != ") + g.literal()
	case 2:
		return g.literal() + g.pick(" == ", " != ") + p
	case 3, 4:
		return p + g.pick(" < ", " <= ", " > ", " >= ") + g.number()
	case 5:
		return g.number() + g.pick(" < ", " <= ", " > ", " >= ") + p
	case 6:
		return p + " in " + g.literals(g.literal)
	case 7:
		return p + " in " + g.literals(func() string { return g.pick(`"a"`, `"b"`, `""`, `"ab"`) })
	case 8:
		return p + g.pick(" contains ", " startsWith ", " endsWith ") + g.pick(`"a"`, `""`, `"abcd"`, `"bcda"`, `"abcdab"`, `"éé"`, `"aéaé"`)
	case 9:
		return g.pick("", "!", "not ") + p
	case 10:
		return `any(event.data.l, # == ` + g.literal() + ")"
	case 11:
		return p + " == " + g.literal() + " || " + p + g.pick(" == ", " in [1, 2] || "+p+" == ") + g.literal()
	case 12:
		return "(" + p + " == " + g.literal() + g.pick(" || ", " or ") + g.path() + " == " + g.literal() + ")"
	case 13:
		return "(" + p + g.pick(" in [1, 2] || ", ` in ["a", "ab"] || `) + p + " == " + g.literal() + ")"
	case 14:
		return p + g.pick(" < ", " >= ") + `"a"`
	default:
		return "(" + p + " ?? " + g.literal() + ") == " + g.literal()
	}
}

func (g generator) filter(depth int) string {
	switch g.IntN(5) {
	case 0, 1:
		if depth > 0 {
			return g.filter(depth-1) + " && " + g.filter(depth-1)
		}
	case 2:
		if depth > 0 {
			return "(" + g.filter(depth-1) + g.pick(" || ", " && ") + g.filter(depth-1) + ")"
		}
	case 3:
		if depth > 0 && g.IntN(3) == 0 {
			return "!(" + g.filter(depth-1) + ")"
		}
	}
	return g.leaf()
}

// filters are n that compile.
func (g generator) filters(n int) []string {
	var list []string
	for len(list) < n {
		source := g.filter(2)
		if _, err := endpoint.CompileFilter(source); err == nil {
			list = append(list, source)
		}
	}
	return list
}

func (g generator) value(depth int) string {
	if depth > 0 && g.IntN(2) == 0 {
		return `{"a":` + g.value(depth-1) + `,"b":` + g.value(depth-1) + `}`
	}
	return g.pick(`"a"`, `"b"`, `""`, `"ab"`, `"abcdabcdabcd"`, `"ABCDA"`, `"xéaéaéé"`, `"é"`, `"\u0000"`, `0`, `-0.0`, `1`, `1.0`, `-1`, `0.5`, `-0.5`, `1e300`, `-1e300`, `1e999`, `9007199254740993`, `9007199254740992`,
		`true`, `false`, `null`, `[]`, `["a",1]`, `{}`)
}

func (g generator) event() []byte {
	if g.IntN(20) == 0 {
		return []byte(`{"type":"nex.insight.risk","data":` + g.value(1) + `}`)
	}
	return []byte(`{"type":"nex.insight.risk","subject":` + g.pick(`""`, `"a"`) + `,"data":{"a":` + g.value(2) + `,"b":` + g.value(1) +
		`,"t":"` + g.text(g.IntN(30)) + `","l":` + g.pick(`[]`, `["a"]`, `[1,"b",null]`, `"a"`, `null`) + `}}`)
}

// text is made of few letters, so that one is often in another.
func (g generator) text(n int) string {
	var b strings.Builder
	for range n {
		b.WriteString(g.pick("a", "b", "é"))
	}
	return b.String()
}

// search looks for a text in one place: enough of them are looked for all at once.
func (g generator) search() string {
	return g.pick("event.data.t", "event.data.t", "lower(event.data.t)") + g.pick(" contains ", " contains ", " startsWith ", " endsWith ") + `"` + g.text(g.IntN(9)) + `"` +
		g.pick("", "", ` && event.data.a >= 0`, ` && event.data.b != "a"`, ` && any(event.data.l, # == "a")`)
}

// The index finds what the evaluation of every filter finds.
func TestIndexIsTheExpression(t *testing.T) {
	t.Parallel()
	g := generator{rand.New(rand.NewPCG(1, 2))}
	matched := 0
	for range 8 {
		sources := g.filters(1 + g.IntN(400))
		for range g.IntN(300) {
			sources = append(sources, g.search())
		}
		set := newFilterSet(t, sources)
		for range 60 {
			matched += set.agree(t, g.event())
		}
	}
	if matched < 5_000 {
		t.Errorf("only %d matches in all: this proves little", matched)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		g := generator{rand.New(rand.NewPCG(a, b))}
		sources := g.filters(20)
		for range 40 {
			sources = append(sources, g.search())
		}
		set := newFilterSet(t, sources)
		for range 10 {
			set.agree(t, g.event())
		}
	})
}

func FuzzCompileFilter(f *testing.F) {
	for _, source := range []string{`event.data.a >= 1 && any(event.data.l, .x matches "a+")`, `event.data?.a["b"] in ["x", 1] || !event.data.c`, "\x00", `event.typ`} {
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		_, err := endpoint.CompileFilter(source)
		if err != nil {
			var fe *endpoint.FilterError
			if !errors.As(err, &fe) || fe.Line < 1 || fe.Column < 1 {
				t.Errorf("%q: %#v", source, err)
			}
			return
		}
		set := newFilterSet(t, []string{source})
		set.agree(t, []byte(riskEvent))
		set.agree(t, []byte(`{}`))
	})
}

func FuzzMatch(f *testing.F) {
	for _, tt := range hostileEvents {
		if len(tt.data) < 200 {
			f.Add([]byte(tt.data))
		}
	}
	f.Add([]byte(riskEvent))
	sources := []string{
		`event.type == "nex.insight.risk"`, `event.data.confidence >= 0.8`, `event.data.confidence < 0`, `event.data == event.data`, `any(event.data.evidence, .artifact.type == "email")`,
		`event.data.target?.hint contains "A"`, `len(event.data.tags) > 1`, `event.data.content matches "x|Budget"`, `event.time > date("2026-01-01")`,
		`event.data.confidence == nil`, `event.data.urgent`, `event.data.batch.operation_id in [0, 12345, "x", true]`, `max(event.data.numbers) > 1`,
	}
	set := newFilterSet(f, sources)
	f.Fuzz(func(t *testing.T, data []byte) { set.agree(t, data) })
}

// Endpoints are met over several subjects, some switched off, some whose filter does not compile.
func TestMatchWithFilters(t *testing.T) {
	t.Parallel()
	const high, call = `event.data.confidence >= 0.8`, `event.data.evidence[0].artifact.type == "call"`
	make := func(id, filter string, events, workspaces []string) *endpoint.Endpoint {
		return &endpoint.Endpoint{ID: id, Filter: filter, Events: events, Workspaces: workspaces, Enabled: true}
	}
	off := make("off", high, nil, nil)
	off.Enabled = false
	many := []string{"nex.insight.*", "nex.insight.risk", "nex.insight.risk", "nex.>"}
	s := snapshotOf(off,
		make("all", "", nil, nil),
		make("all-twice", "", many, []string{"acme", "beta"}),
		make("high", high, nil, nil),
		make("high-twice", high, many, nil),
		make("call-twice", call, many, []string{"acme"}),
		make("beta", high, nil, []string{"beta"}),
		make("low", `event.data.confidence < 0.5`, many, nil),
		make("broken", `event.typ == "x"`, many, nil),
		make("fails", `event.data.evidence[9] == 1`, many, nil),
	)
	told := map[string]int{}
	view := endpoint.NewView("acme", []byte(riskEvent))
	for range 2 {
		found := s.Match(nil, "acme", "nex.insight.risk", view, func(e *endpoint.Endpoint, err error) { told[e.ID]++ })
		if got, want := strings.Join(ids(found), " "), "all all-twice call-twice high high-twice"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if len(told) != 2 || told["broken"] != 2 || told["fails"] != 2 {
		t.Errorf("failed heard %v, want broken and fails, once each time", told)
	}
	if got, want := strings.Join(ids(s.Match(nil, "beta", "nex.insight.risk", nil, nil)), " "), "all all-twice beta broken fails high high-twice low"; got != want {
		t.Errorf("without a view: %s, want %s", got, want)
	}
	if got := ids(s.Match(nil, "acme", "nex.relay.gap_filled", endpoint.NewView("acme", []byte("no JSON")), nil)); len(got) != 1 || got[0] != "all-twice" {
		t.Errorf("an event that cannot be read: %v", got)
	}
}

// An event that meets no endpoint with a filter is not decoded.
func TestMatchWithoutFiltersReadsNothing(t *testing.T) {
	t.Parallel()
	s := snapshotOf(&endpoint.Endpoint{ID: "all", Enabled: true}, &endpoint.Endpoint{ID: "news", Enabled: true, Events: []string{"nex.relay.>"}, Filter: `event.id == ""`})
	s.Match(nil, "acme", "nex.insight.risk", endpoint.NewView("acme", []byte("no JSON")), func(e *endpoint.Endpoint, err error) { t.Errorf("%s: %v", e.ID, err) })
}

// Many events are matched at once; a snapshot's memory for one is not another's.
func TestMatchConcurrently(t *testing.T) {
	t.Parallel()
	sources := []string{`event.data.n == 1`, `event.data.n >= 2`, `any(event.data.l, # == 1)`, `event.data.n * 2 == 2`}
	list := withFilters(sources...)
	for _, e := range list {
		e.Events = []string{"nex.insight.*", "nex.insight.risk"}
	}
	s := snapshotOf(list...)
	var all sync.WaitGroup
	for i := range 8 {
		data, want := fmt.Appendf(nil, `{"data":{"n":%d,"l":[%d]}}`, i%4, i%4), []string{"", "00000 00002 00003", "00001", "00001"}[i%4]
		all.Go(func() {
			for range 200 {
				if got := strings.Join(ids(s.Match(nil, "acme", "nex.insight.risk", endpoint.NewView("acme", data), nil)), " "); got != want {
					t.Errorf("%s: %s, want %s", data, got, want)
				}
			}
		})
	}
	all.Wait()
}
