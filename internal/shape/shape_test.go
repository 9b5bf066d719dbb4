package shape_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/shape"
)

// sample is an event as it stands in the log; its data is written as Nex might, with white space and a large number.
const sample = `{"specversion":"1.0","id":"ins_1","source":"/nex/workspaces/acme","type":"nex.insight.opportunity",` +
	`"subject":"person/John Smith","time":"2026-02-05T10:30:00Z","datacontenttype":"application/json","data":{ "type":"opportunity",` +
	`"content":"Budget <approval> & \"more\"\nnext quarter","confidence":0.85,"confidence_level":"high","n":12345678901234567,` +
	`"target":{"hint":"John Smith"},"none":null,"yes":true,"no":false,"zero":0,"tags":["a","b","c"],"empty":"",` +
	`"evidence":[{"excerpt":"by Q2"},{"excerpt":"or Q3"}],"workspace":{"slug":"acme"}}}`

func mustParse(t testing.TB, spec shape.Spec) *shape.Shape {
	t.Helper()
	s, err := shape.Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		spec shape.Spec
		want []string // what the lines of the error contain, in order; none: no error
	}{
		{"nothing", shape.Spec{}, nil},
		{"named", shape.Spec{Kind: "structured", Gzip: true}, nil},
		{"content type", shape.Spec{Kind: "template", Template: "x", ContentType: "text/plain; charset=utf-8"}, nil},
		{"unknown", shape.Spec{Kind: "Binary"}, []string{`shape: "Binary" is not known: want structured, binary, thin or template`}},
		{"unused", shape.Spec{Kind: "thin", Template: "x", ContentType: "text/plain"}, []string{"template: is not used", "content_type: only shape: template"}},
		{"empty", shape.Spec{Kind: "template", Template: " \n"}, []string{"template: is empty"}},
		{"too large", shape.Spec{Kind: "template", Template: strings.Repeat("x", shape.MaxTemplate+1)}, []string{"template: is 16385 bytes, at most 16384"}},
		{"no UTF-8", shape.Spec{Kind: "template", Template: "x\xff"}, []string{"template: is not valid UTF-8"}},
		{"both", shape.Spec{Kind: "template", Template: "{{", ContentType: "text"}, []string{"template: line 1: unclosed action", "content_type: is no media type"}},
		{"header injection", shape.Spec{Kind: "template", Template: "x", ContentType: "text/plain\r\nX: y"}, []string{"content_type: is no media type"}},
		{"long", shape.Spec{Kind: "template", Template: "x", ContentType: "text/" + strings.Repeat("x", 300)}, []string{"content_type: is no media type"}},
	}
	for _, tt := range tests {
		s, err := shape.Parse(tt.spec)
		if len(tt.want) == 0 {
			if err != nil || s == nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err == nil || s != nil {
			t.Errorf("%s: got %v, %v", tt.name, s, err)
			continue
		}
		checkLines(t, tt.name, err, tt.want)
	}
}

func checkLines(t *testing.T, name string, err error, want []string) {
	t.Helper()
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Errorf("%s: got %d faults, want %d:\n%v", name, len(lines), len(want), err)
		return
	}
	for i := range want {
		if !strings.Contains(lines[i], want[i]) {
			t.Errorf("%s: fault %d is %q, want one with %q", name, i, lines[i], want[i])
		}
	}
}

func TestSpec(t *testing.T) {
	t.Parallel()
	if got := mustParse(t, shape.Spec{}).Spec(); got != (shape.Spec{Kind: "structured"}) {
		t.Errorf("got %+v", got)
	}
	if got := mustParse(t, shape.Spec{Kind: "template", Template: "x"}).Spec().ContentType; got != "application/json" {
		t.Errorf("got %q", got)
	}
}

func TestStructured(t *testing.T) {
	t.Parallel()
	for _, s := range []*shape.Shape{{}, mustParse(t, shape.Spec{}), mustParse(t, shape.Spec{Kind: "structured"})} {
		for _, data := range [][]byte{[]byte(sample), []byte("no JSON \xff"), {}} {
			got, err := s.Render(data, shape.Meta{Sequence: 1, Attempt: 1})
			if err != nil || !bytes.Equal(got.Data, data) || got.ContentType != event.ContentType || got.Header != nil || got.Encoding != "" {
				t.Errorf("got %+v, %v", got, err)
			}
			if len(data) > 0 && &got.Data[0] != &data[0] {
				t.Error("the event was copied")
			}
		}
	}
}

func TestGzip(t *testing.T) {
	t.Parallel()
	s := mustParse(t, shape.Spec{Gzip: true})
	body, err := s.Render([]byte(sample), shape.Meta{})
	if err != nil || body.Encoding != "gzip" || string(body.Data) != sample {
		t.Fatalf("got %+v, %v: what is signed must not be compressed", body, err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, data := range [][]byte{body.Data, nil, bytes.Repeat([]byte{byte(i)}, 100_000)} {
				first, err := shape.Compress(data)
				if err != nil {
					t.Error(err)
					return
				}
				if second, _ := shape.Compress(data); !bytes.Equal(first, second) {
					t.Error("equal data, different bytes")
				}
				r, err := gzip.NewReader(bytes.NewReader(first))
				if err != nil {
					t.Error(err)
					return
				}
				if back, err := io.ReadAll(r); err != nil || !bytes.Equal(back, data) {
					t.Errorf("came back as %d bytes, %v", len(back), err)
				}
			}
		})
	}
	wg.Wait()
}

func TestBinary(t *testing.T) {
	t.Parallel()
	const head = `{"specversion":"1.0","id":"1"`
	long := strings.Repeat("ä", 3000)
	tests := []struct {
		name, event, body, contentType string
		header                         map[string]string // beside Ce-Specversion and Ce-Id
		fault                          string
	}{
		{name: "as we write it", event: sample, contentType: "application/json",
			body: sample[strings.Index(sample, `"data":`)+len(`"data":`) : len(sample)-1],
			header: map[string]string{"Ce-Id": "ins_1", "Ce-Source": "/nex/workspaces/acme", "Ce-Type": "nex.insight.opportunity",
				"Ce-Subject": "person/John%20Smith", "Ce-Time": "2026-02-05T10:30:00Z"}},
		// The example of section 3.1.3.2.
		{name: "percent-encoding", event: head + `,"subject":"Euro € 😀"}`, contentType: "application/json",
			header: map[string]string{"Ce-Subject": "Euro%20%E2%82%AC%20%F0%9F%98%80"}},
		{name: "what else is encoded", event: head + `,"subject":"a\r\nX-Evil: \"1\"%20\u007f\u0000~!"}`, contentType: "application/json",
			header: map[string]string{"Ce-Subject": "a%0D%0AX-Evil:%20%221%22%2520%7F%00~!"}},
		{name: "no UTF-8", event: head + `,"subject":"` + "\xff" + `\ud800"}`, contentType: "application/json",
			header: map[string]string{"Ce-Subject": "%EF%BF%BD%EF%BF%BD"}},
		{name: "extensions", event: head + `,"n":-7,"t":true,"f":false,"gone":null,"e":"","9a":"x","data":null}`, contentType: "application/json", body: "null",
			header: map[string]string{"Ce-N": "-7", "Ce-T": "true", "Ce-F": "false", "Ce-E": "", "Ce-9a": "x"}},
		{name: "text", event: head + `,"datacontenttype":"text/plain; charset=utf-8","data":"a\n\"b\""}`, contentType: "text/plain; charset=utf-8", body: "a\n\"b\""},
		{name: "JSON in text", event: head + `,"datacontenttype":"text/plain","data":{"a":1}}`, contentType: "text/plain", body: `{"a":1}`},
		{name: "a JSON text", event: head + `,"datacontenttype":"application/vnd.x+json","data":"a"}`, contentType: "application/vnd.x+json", body: `"a"`},
		{name: "base64", event: head + `,"datacontenttype":"image/png","data_base64":"AAH/"}`, contentType: "image/png", body: "\x00\x01\xff"},
		{name: "null type", event: head + `,"datacontenttype":null}`, contentType: "application/json"},

		{name: "no base64", event: head + `,"data_base64":"%"}`, fault: "event: data_base64 is not base64"},
		{name: "base64 of numbers", event: head + `,"data_base64":[1]}`, fault: "event: data_base64 is not base64"},
		{name: "no JSON", event: `{`, fault: "event: is no JSON object"},
		{name: "null", event: `null`, fault: "event: is no JSON object"},
		{name: "list", event: `[]`, fault: "event: is no JSON object"},
		{name: "name", event: head + `,"a b\r\n":"x"}`, fault: `event: "a b\r\n" is no name of an attribute`},
		{name: "upper case", event: head + `,"ID":"x"}`, fault: `event: "ID" is no name of an attribute`},
		{name: "no name", event: head + `,"":"x"}`, fault: `event: "" is no name of an attribute`},
		{name: "object", event: head + `,"ext":{}}`, fault: "event: attribute ext is neither"},
		{name: "fraction", event: head + `,"ext":1.5}`, fault: "event: attribute ext is neither"},
		{name: "exponent", event: head + `,"ext":1e5}`, fault: "event: attribute ext is neither"},
		{name: "too long", event: head + `,"subject":"` + long + `"}`, fault: "event: its attributes need more than 6144 bytes"},
		{name: "too long encoded", event: head + `,"subject":"` + long[:2500] + `"}`, fault: "use shape: structured"},
		{name: "long number", event: head + `,"ext":` + strings.Repeat("1", 7000) + `}`, fault: "event: its attributes need more"},
		{name: "type of the envelope", event: head + `,"datacontenttype":"application/cloudevents+json"}`, fault: "event: datacontenttype is a CloudEvent's"},
		{name: "no media type", event: head + `,"datacontenttype":";"}`, fault: "event: datacontenttype is no media type"},
		{name: "header in the type", event: head + `,"datacontenttype":"text/plain\r\nX: y"}`, fault: "event: datacontenttype is no media type"},
		{name: "type of a number", event: head + `,"datacontenttype":1}`, fault: "event: datacontenttype is no media type"},
	}
	s := mustParse(t, shape.Spec{Kind: "binary"})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := s.Render([]byte(tt.event), shape.Meta{})
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) || len(err.Error()) > 600 {
					t.Fatalf("got %v, want %q", err, tt.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}}
			for name, value := range tt.header {
				want[name] = []string{value}
			}
			if string(got.Data) != tt.body || got.ContentType != tt.contentType || !maps.EqualFunc(got.Header, want, slices.Equal) {
				t.Errorf("\ngot  %q %s %q\nwant %q %s %q", got.Data, got.ContentType, got.Header, tt.body, tt.contentType, want)
			}
			for name := range got.Header {
				if name != http.CanonicalHeaderKey(name) {
					t.Errorf("%s is not in canonical form", name)
				}
			}
		})
	}
}

func TestThin(t *testing.T) {
	t.Parallel()
	s := mustParse(t, shape.Spec{Kind: "thin"})
	tests := []struct {
		event    string
		sequence uint64
		want     string
	}{
		{sample, 4711, `{"specversion":"1.0","id":"ins_1","source":"/nex/workspaces/acme","type":"nex.insight.opportunity",` +
			`"time":"2026-02-05T10:30:00Z","sequence":"00000000000000004711"}`},
		{`{ "type" : "a\"b", "id": "1", "ID":"2" }`, 0, `{"id":"1","type":"a\"b"}`},
		{`{}`, 1<<64 - 1, `{"sequence":"18446744073709551615"}`},
		{`{"data":1}`, 0, ""},
		{`{`, 1, ""},
		{`null`, 1, ""},
	}
	for _, tt := range tests {
		got, err := s.Render([]byte(tt.event), shape.Meta{Sequence: tt.sequence})
		if string(got.Data) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s:\ngot  %s, %v\nwant %s", tt.event, got.Data, err, tt.want)
		}
		if err == nil && (got.ContentType != event.ContentType || !json.Valid(got.Data)) {
			t.Errorf("%s: %s as %s", tt.event, got.Data, got.ContentType)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "event: ") {
			t.Errorf("%s: error %q", tt.event, err)
		}
	}
}

// TestOfARealEvent goes the way of an event that the log holds.
func TestOfARealEvent(t *testing.T) {
	t.Parallel()
	e := event.Event{Workspace: "acme", ID: "evt_1", Type: "nex.insight.risk", Subject: "organization/Ünï \"Co\"", Data: json.RawMessage(`{"n": 1.50}`)}
	body, err := mustParse(t, shape.Spec{Kind: "binary"}).Render(e.JSON(), shape.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(body.Header["Ce-Subject"]); got != "[organization/%C3%9Cn%C3%AF%20%22Co%22]" || string(body.Data) != `{"n": 1.50}` {
		t.Errorf("got %s, %s", got, body.Data)
	}
}

func BenchmarkRender(b *testing.B) {
	for name, spec := range map[string]shape.Spec{
		"structured": {},
		"binary":     {Kind: "binary"},
		"thin":       {Kind: "thin"},
		"slack":      {Kind: "template", Template: shape.SlackTemplate},
		"discord":    {Kind: "template", Template: shape.DiscordTemplate},
		"teams":      {Kind: "template", Template: shape.TeamsTemplate},
	} {
		b.Run(name, func(b *testing.B) {
			s, data := mustParse(b, spec), []byte(sample)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Render(data, shape.Meta{Sequence: 1, Attempt: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestStructuredAllocatesNothing(t *testing.T) {
	s, data := mustParse(t, shape.Spec{Gzip: true}), []byte(sample)
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Render(data, shape.Meta{Sequence: 1, Attempt: 1}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCompress(b *testing.B) {
	data := []byte(strings.Repeat(sample, 20))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := shape.Compress(data); err != nil {
			b.Fatal(err)
		}
	}
}
