package nexsim

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// restAnswer is either shape.
type restAnswer struct {
	Data         []dataInsight `json:"data"`
	Insights     []Insight     `json:"insights"`
	InsightCount *int          `json:"insight_count"`
}

func (b *bundle) insights(query string) []string {
	b.t.Helper()
	status, body := b.get("/v1/insights?" + query)
	if status != http.StatusOK {
		b.t.Fatalf("%s: %d %s", query, status, body)
	}
	var list []string
	for _, in := range decode[restAnswer](b.t, body).Data {
		list = append(list, in.Content)
	}
	return list
}

func TestRESTWindows(t *testing.T) {
	t.Parallel()
	clock := noon()
	b := setup(t, Options{Now: clock.now})
	start := clock.at
	for i := range 10 { // one a minute, c0 at the start, c9 nine minutes later
		b.EmitInsights("acme", Insight{Type: "risk", Content: fmt.Sprintf("c%d", i)})
		b.JumpClock(time.Minute)
	}
	at := func(minutes int, more time.Duration) string {
		return url.QueryEscape(start.Add(time.Duration(minutes)*time.Minute + more).Format(time.RFC3339Nano))
	}
	for _, c := range []struct{ query, want string }{
		{"", "c9 c8 c7 c6 c5 c4 c3 c2 c1 c0"},
		{"limit=3", "c9 c8 c7"},
		{"from=" + at(8, 0), "c9 c8"}, // inclusive
		{"from=" + at(8, 1), "c9"},
		{"to=" + at(2, 0), "c1 c0"}, // exclusive
		{"to=" + at(2, 1), "c2 c1 c0"},
		{"from=" + at(3, 0) + "&to=" + at(6, 0), "c5 c4 c3"},
		{"from=" + at(3, 0) + "&to=" + at(6, 0) + "&limit=2", "c5 c4"},
		{"from=" + at(3, 0) + "&to=" + at(3, 0), ""},
		{"from=" + url.QueryEscape("2026-02-05T13:05:00+01:00"), "c9 c8 c7 c6 c5"},
		{"last=3m", "c9 c8 c7"},
		{"last=90s", "c9"},
		{"last=2h&limit=1", "c9"},
		{"last=1d&unknown=x", "c9 c8 c7 c6 c5 c4 c3 c2 c1 c0"},
	} {
		if got := strings.Join(b.insights(c.query), " "); got != c.want {
			t.Errorf("?%s: %s, want %s", c.query, got, c.want)
		}
	}
}

func TestRESTLimits(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{History: 250})
	b.Emit("acme", 300)
	for query, want := range map[string]int{"": 20, "limit=1": 1, "limit=100": 100, "limit=101": 100, "limit=999999": 100} {
		if got := len(b.insights(query)); got != want {
			t.Errorf("?%s: %d insights, want %d", query, got, want)
		}
	}
	if got := len(b.workspaces[0].between(time.Time{}, endOfTime, 1000)); got != 250 {
		t.Errorf("history holds %d, want 250", got)
	}
	all := b.Emitted("acme")
	if len(all) != 300 || all[49].Evidence != nil || all[49].Content == "" || all[50].Evidence == nil {
		t.Errorf("%d emitted; what is beyond the history keeps its evidence, or what is within lost it", len(all))
	}
}

func TestRemember(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{History: 10, Remember: 30})
	b.Emit("acme", 100)
	if got := len(b.Emitted("acme")); got != 30 {
		t.Errorf("%d remembered, want 30", got)
	}
	if got := b.StateOf("acme").Emitted; got != 100 {
		t.Errorf("%d counted, want 100", got)
	}
}

func TestRESTShapes(t *testing.T) {
	t.Parallel()
	clock := noon()
	b := setup(t, Options{Now: clock.now})
	emitted := b.Emit("acme", 2).Insights
	slices.Reverse(emitted)
	check := func(name string, want restAnswer) {
		t.Helper()
		_, body := b.get("/v1/insights")
		if got, want := string(body), string(mustJSON(want)); got != dropNulls(want) {
			t.Errorf("%s:\n%s, want\n%s", name, got, dropNulls(want))
		}
	}
	data := make([]dataInsight, 2)
	for i, in := range emitted {
		data[i] = dataInsight{in.ID, b.StateOf("acme").WorkspaceID, in.Content, in.Type, entities(in.Target), clock.at}
	}
	check("data", restAnswer{Data: data})

	two := 2
	if err := b.SetREST(RESTEnriched, true); err != nil {
		t.Fatal(err)
	}
	check("enriched", restAnswer{Insights: emitted, InsightCount: &two})

	if err := b.SetREST(RESTEnriched, false); err != nil {
		t.Fatal(err)
	}
	withoutIDs := slices.Clone(emitted)
	withoutIDs[0].ID, withoutIDs[1].ID = "", ""
	check("enriched without ids", restAnswer{Insights: withoutIDs, InsightCount: &two})

	if err := b.SetREST(RESTData, false); err != nil {
		t.Fatal(err)
	}
	data[0].ID, data[1].ID = "", ""
	check("data without ids", restAnswer{Data: data})
	if err := b.SetREST("other", true); err == nil {
		t.Error("an unknown shape was taken")
	}
}

// dropNulls removes what the shape does not have.
func dropNulls(s string) string {
	return strings.NewReplacer(`"data":null,"insights"`, `"insights"`, `,"insights":null,"insight_count":null`, "").Replace(s)
}

func TestRESTOfNothing(t *testing.T) {
	t.Parallel()
	for shape, want := range map[string]string{RESTData: `{"data":[]}`, RESTEnriched: `{"insights":[],"insight_count":0}`} {
		b := setup(t, Options{RESTShape: shape})
		if status, body := b.get("/v1/insights"); status != 200 || string(body) != want {
			t.Errorf("%s: %d %s", shape, status, body)
		}
		b.EmitInsights("acme", Insight{Type: "risk", Content: "no target"})
		if _, body := b.get("/v1/insights"); shape == RESTData && !strings.Contains(string(body), `"entities":[]`) {
			t.Errorf("entities of an insight without target: %s", body)
		}
	}
}

func TestRESTBadParameters(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	for _, query := range []string{
		"limit=0", "limit=-1", "limit=ten", "limit=1.5", "from=yesterday", "to=2026-02-05", "from=2026-02-05T10:00:00",
		"from=2026-02-05T11:00:00Z&to=2026-02-05T10:00:00Z", "last=30m&from=2026-02-05T11:00:00Z", "last=2h&to=2026-02-05T11:00:00Z",
		"last=m", "last=0h", "last=-5m", "last=30", "last=1h30m", "last=1w", "last=99999999999d", "last=36501d",
	} {
		status, body := b.get("/v1/insights?" + query)
		if e := decode[apiError](t, body); status != 400 || e.Code != 400 || e.Message == "" {
			t.Errorf("?%s: %d %s", query, status, body)
		}
	}
	if got := b.StateOf("acme").Requests.REST[400]; got != 18 {
		t.Errorf("%d bad requests counted", got)
	}
}

type apiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func TestWhoMayRead(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Workspaces: []Workspace{{Slug: "acme", Keys: []Key{
		{Token: "good", Scopes: []string{"record.read", ScopeInsights}}, {Token: "poor", Scopes: []string{"record.read"}},
	}}}})
	for _, path := range []string{"/v1/insights", "/v1/insights/stream", "/api/developers/v1/insights", "/api/developers/v1/insights/stream"} {
		for _, c := range []struct {
			method, header string
			want           int
		}{
			{"GET", "Bearer good", 200}, {"GET", "bearer good", 200}, {"GET", "", 401}, {"GET", "Bearer bad", 401},
			{"GET", "Bearer", 401}, {"GET", "Basic good", 401}, {"GET", "good", 401}, {"GET", "Bearer poor", 403},
			{"POST", "Bearer good", 405},
		} {
			req, err := http.NewRequestWithContext(b.context(), c.method, b.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", c.header)
			resp, err := b.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.want {
				t.Errorf("%s %s %q: %d, want %d", c.method, path, c.header, resp.StatusCode, c.want)
			}
			if c.want != 200 {
				if e := decode[apiError](t, b.read(resp)); e.Code != c.want || e.Message == "" {
					t.Errorf("%s %q: body %+v", path, c.header, e)
				}
			}
			resp.Body.Close()
		}
	}
	if status, body := b.get("/v1/records"); status != 404 || decode[apiError](t, body).Code != 404 {
		t.Errorf("unknown path: %d %s", status, body)
	}
	st := b.State()
	if r := st.Workspaces[0].Requests; r.REST[200] != 4 || r.REST[403] != 2 || r.Stream[200] != 4 || r.Stream[403] != 2 || r.REST[405] != 2 {
		t.Errorf("counted %+v", r)
	}
	if st.Unknown.REST[401] != 10 || st.Unknown.Stream[401] != 10 {
		t.Errorf("counted without a known key %+v", st.Unknown)
	}
}

func TestDefaultKey(t *testing.T) {
	t.Parallel()
	if a := DefaultKey("acme"); !strings.HasPrefix(a, "sk-sim-acme-") || len(a) < 32 || a == DefaultKey("other") || a != DefaultKey("acme") {
		t.Errorf("key %q", a)
	}
}

func FuzzParseQuery(f *testing.F) {
	f.Add("from=2026-02-05T11:00:00Z&to=2026-02-05T12:00:00.5%2B01:00&limit=5")
	f.Add("last=30m")
	f.Add("last=4294967295d&limit=99999999999999999999")
	now := noon().at
	f.Fuzz(func(t *testing.T, raw string) {
		params, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		q, err := parseQuery(params, now)
		if err == nil && (q.limit < 1 || q.limit > 100 || q.from.After(q.to)) {
			t.Errorf("%q: %+v", raw, q)
		}
	})
}

func FuzzParseLast(f *testing.F) {
	for _, v := range []string{"30m", "2h", "1d", "", "d", "36500d", "é"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		if d, err := parseLast(v); err == nil && d <= 0 {
			t.Errorf("%q: %v", v, d)
		}
	})
}
