package endpoint_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

const benchEndpoints = 10_000

// benchEvent is 1 KB, about what an insight with two pieces of evidence has.
var benchEvent = []byte(strings.Replace(strings.ReplaceAll(riskEvent, "\n", ""), `"excerpt":"a"`, `"excerpt":"`+strings.Repeat("a quote ", 20)+`"`, 1))

// benchFilters are 10,000 endpoints each, all at one subject but for the first two; the benchmark shows how many match.
func benchFilters() map[string][]*endpoint.Endpoint {
	of := func(filter func(i int) string) []*endpoint.Endpoint {
		var list []*endpoint.Endpoint
		for i := range benchEndpoints {
			list = append(list, &endpoint.Endpoint{ID: fmt.Sprintf("%05d", i), Enabled: true, Filter: filter(i)})
		}
		return list
	}
	// No two are equal, and ten are not above the event's confidence.
	above := func(i int) float64 { return 0.85 + float64(i-9)/1e6 }
	hint := func(i int) string {
		if i%1000 == 0 {
			return "Acme Corp"
		}
		return fmt.Sprintf("Customer %d", i)
	}
	workspaces := of(func(i int) string { return fmt.Sprintf("event.data.confidence >= 0.%d", 1+i%10) })
	for i, e := range workspaces {
		e.Workspaces = []string{fmt.Sprintf("ws-%d", i/10)}
	}
	plain := of(func(int) string { return "" })
	for i, e := range plain {
		e.Workspaces = []string{fmt.Sprintf("ws-%d", i/10)}
	}
	return map[string][]*endpoint.Endpoint{
		"0-no-filters":           plain,
		"1-workspaces-1000x10":   workspaces,
		"2-thresholds-100-equal": of(func(i int) string { return fmt.Sprintf("event.data.confidence >= %g", 0.85+float64(i%100-9)/1e6) }), // 1,000 match
		"3-thresholds":           of(func(i int) string { return fmt.Sprintf("event.data.confidence >= %g", above(i)) }),
		"4-equalities": of(func(i int) string {
			return fmt.Sprintf("event.data.target.hint == %q", hint(i)) + strings.Repeat(" ", i/1000)
		}),
		"5-type-and-equality": of(func(i int) string {
			return fmt.Sprintf(`event.type == "nex.insight.risk" && event.data.target.hint == %q`, hint(i)) + strings.Repeat(" ", i/1000)
		}),
		"6-equality-and-any": of(func(i int) string {
			return fmt.Sprintf(`event.data.target.hint == %q && any(event.data.evidence, .artifact.type == "email")`, hint(i)) + strings.Repeat(" ", i/1000)
		}),
		"7-ranges-half-candidate": of(func(i int) string {
			return fmt.Sprintf("event.data.confidence >= %g && event.data.confidence < %g", 0.35+float64(i)/1e4, 0.351+float64(i)/1e4)
		}),
		"8-contains": of(func(i int) string {
			return fmt.Sprintf("event.data.target.hint contains %q", hint(i)) + strings.Repeat(" ", i/1000)
		}),
		"9-forced": of(func(i int) string { return fmt.Sprintf("event.data.confidence * 2 >= %g", 2*above(i)) }),
		"9-forced-any": of(func(i int) string {
			return fmt.Sprintf("any(event.data.evidence, .excerpt contains %q)", fmt.Sprint("number ", i))
		}), // none match
	}
}

// BenchmarkMatch is one event of the log against 10,000 endpoints, the decoding of its JSON included. BenchmarkPost is
// what to compare it with.
func BenchmarkMatch(b *testing.B) {
	all := benchFilters()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b.Run(name, func(b *testing.B) {
			s := snapshotOf(all[name]...)
			dst := make([]*endpoint.Endpoint, 0, benchEndpoints)
			b.ReportAllocs()
			for b.Loop() {
				dst = s.Match(dst[:0], "ws-7", "nex.insight.risk", endpoint.NewView("ws-7", benchEvent), nil)
			}
			b.ReportMetric(float64(len(dst)), "matched")
		})
	}
}

// BenchmarkPost is one signed POST of the same event over a connection that is kept, sender and receiver in this process.
func BenchmarkPost(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer server.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	defer transport.CloseIdleConnections()
	client, secret := &http.Client{Transport: transport}, webhook.GenerateSecret()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequest(http.MethodPost, server.URL, bytes.NewReader(benchEvent))
			if err != nil {
				b.Error(err)
				return
			}
			webhook.SetHeaders(req.Header, "evt_1", time.Now(), benchEvent, secret)
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
	b.ReportMetric(float64(b.Elapsed().Microseconds())*float64(runtime.GOMAXPROCS(0))/float64(b.N), "cpu-µs/post")
}

// BenchmarkSnapshot makes the snapshot anew, as the registry does after each change: with everything compiled before, and
// at the start. held is what the compiled filters and the snapshot keep, per endpoint.
func BenchmarkSnapshot(b *testing.B) {
	all := benchFilters()
	for _, name := range []string{"0-no-filters", "1-workspaces-1000x10", "3-thresholds", "5-type-and-equality", "9-forced-any"} {
		b.Run(name, func(b *testing.B) {
			list := all[name]
			var before, after runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := time.Now()
			r := endpoint.NewRegistry(nil, endpoint.Sealer{}, slog.New(slog.DiscardHandler))
			r.SetConfig(list)
			first := time.Since(start)
			runtime.GC()
			runtime.ReadMemStats(&after)
			for b.Loop() {
				r.SetConfig(list)
			}
			b.ReportMetric(float64(first.Milliseconds()), "ms-first")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/benchEndpoints, "B-held")
		})
	}
}

// BenchmarkHostile evaluates the worst filters that are known on the worst events that are known, one at a time: below
// 0.3 s each, mostly below 0.1 s.
func BenchmarkHostile(b *testing.B) {
	values := `{"data":{"l":[` + strings.Repeat(`{"a":1},`, 33_000) + `1],"m":[` + strings.Repeat(`{"a":1},`, 16_000) + `1]}}`
	text := `{"data":{"s":"` + strings.Repeat("aB", 2<<20-100) + `","t":"` + `"}}`
	wide := `{"data":{"s":"` + strings.Repeat("éÉ", 1<<20-100) + `"}}`
	short := `{"data":{"s":"` + strings.Repeat("ab", 256<<10-100) + `"}}`
	and := func(part string, n int) string { return strings.TrimSuffix(strings.Repeat(part+" && ", n), " && ") }
	for name, tt := range map[string]struct{ filter, event string }{
		"decode-values":   {`event.type == "x" && event.data == 1`, values},
		"decode-deep":     {`event.type == "x" && event.data == 1`, `{"data":` + strings.Repeat(`{"a":`, 9000) + `[` + strings.Repeat("1,", 80_000) + `1]` + strings.Repeat("}", 9000) + `}`},
		"loops":           {and(`none(event.data.l, .a == 2)`, 8), strings.ReplaceAll(values, ",1]", "]")},
		"one-loop":        {`none(event.data.l, ` + strings.TrimSuffix(strings.Repeat(`.a == 2 || `, 16), " || ") + `)`, strings.ReplaceAll(values, ",1]", "]")},
		"deep-equality":   {and(`event.data.l == event.data.l`, 8), values},
		"in":              {and(`not (event.data.l in event.data.l)`, 8), values},
		"lower":           {and(`lower(event.data.s) != "x"`, 8), text},
		"lower-wide":      {and(`upper(event.data.s) != "x"`, 8), wide},
		"contains":        {and(`!(event.data.s contains "aBaBaBaBaBaBx")`, 14), text},
		"regexp":          {`not (event.data.s matches "(a|b|ab)*[ab]{40}c")`, short},
		"regexp-large":    {`not (event.data.s matches "(?:[ab]{0,8}a?){0,4}c")`, short},
		"regexp-loop":     {`none(event.data.l, # matches "(?:[ab]{0,8}a?){0,4}c")`, `{"data":{"l":["` + strings.Repeat(strings.Repeat("ab", 1000)+`","`, 250) + `"]}}`},
		"regexp-small":    {`none(event.data.l, # matches "(?:[ab]{0,8}a?){0,4}c")`, `{"data":{"l":["` + strings.Repeat(`ab","`, 90_000) + `"]}}`},
		"numbers":         {and(`none(event.data.l, # == 2)`, 8), `{"data":{"l":[` + strings.Repeat(`1,`, 99_000) + `1]}}`},
		"regexp-too-long": {`not (event.data.s matches "(a|b|ab)*[ab]{40}c")`, text},
	} {
		b.Run(name, func(b *testing.B) {
			f, err := endpoint.CompileFilter(tt.filter)
			if err != nil {
				b.Fatal(err)
			}
			var last error
			b.ReportAllocs()
			view := endpoint.NewView("acme", []byte(tt.event))
			_, _ = f.Match(view)
			for b.Loop() {
				if strings.HasPrefix(name, "decode") {
					view = endpoint.NewView("acme", []byte(tt.event))
				}
				_, last = f.Match(view)
			}
			if last != nil {
				b.Log(last)
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms")
		})
	}
}
