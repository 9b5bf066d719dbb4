package nexsim

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestControlList(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	_, body := b.get("/_sim/")
	var list []struct{ Method, Path, Body, Does string }
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 22 || strings.Count(string(doc), " /_sim/") != len(list)+1 { // and the title
		t.Errorf("%d endpoints are listed, %d in the package comment", len(list), strings.Count(string(doc), " /_sim/")-1)
	}
	for _, e := range list {
		if e.Does == "" || !strings.Contains(string(doc), e.Method+strings.Repeat(" ", 5-len(e.Method))+e.Path+" ") {
			t.Errorf("%+v is not in the package comment", e)
		}
	}
}

// Each action is seen to work, through HTTP alone.
func TestControlActions(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Now: noon().now})
	s := b.open()
	b.wantStreams(1)

	emitted := decode[Batch](t, b.control("/_sim/emit", `{"workspace":"acme","count":2}`))
	if got := s.live(); got.InsightCount != 2 || got.OperationID != emitted.OperationID {
		t.Errorf("emit count: %+v", got)
	}
	b.control("/_sim/emit", `{"workspace":"acme","insights":[{"type":"risk","content":"given"}]}`)
	if got := s.live(); got.Insights[0].Content != "given" {
		t.Errorf("emit insights: %+v", got)
	}
	b.control("/_sim/emit", `{"workspace":"acme","event":"insight.new","data":"not JSON"}`)
	if name, data := s.event(); name != "insight.new" || data != "not JSON" {
		t.Errorf("emit data: %q %q", name, data)
	}
	_, body := b.get("/_sim/emitted?workspace=acme")
	if got := decode[[]Insight](t, body); len(got) != 3 || got[2].Content != "given" {
		t.Errorf("emitted: %s", body)
	}
	b.control("/_sim/garbage", `{"workspace":"acme","kind":"oversize","size":10000}`)
	if _, data := s.event(); len(data) != 10_000 {
		t.Errorf("garbage: %d bytes", len(data))
	}
	b.control("/_sim/wire", `{"retry":"2.5s","chunk":3,"split_utf8":true,"pause":"1us","bom":true}`)
	if got := s.block(); got != "retry: 2500\n" {
		t.Errorf("wire: %q", got)
	}
	if got := string(b.control("/_sim/stall", `{"workspace":"acme","new":true}`)); got != `{"streams":1}` {
		t.Errorf("stall: %s", got)
	}
	if !b.workspaces[0].conns[0].silent() {
		t.Error("stall: the stream is not silent")
	}
	b.control("/_sim/resume", `{}`)
	b.control("/_sim/cut", `{"workspace":"acme"}`)
	if _, err := s.rest(); err == nil {
		t.Error("cut: the stream ended cleanly")
	}
	b.control("/_sim/wire", "")
	s = b.open()
	b.wantStreams(1)
	if got := string(b.control("/_sim/drop", `{"abort":true}`)); got != `{"streams":1}` {
		t.Errorf("drop: %s", got)
	}
	if _, err := s.rest(); err == nil {
		t.Error("drop: the stream ended cleanly")
	}
}

func TestControlAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Now: noon().now, SizeMax: minSize})
	b.Emit("acme", 1)
	wantStatus := func(what string, want int) {
		t.Helper()
		if status, body := b.get("/v1/insights"); status != want {
			t.Errorf("%s: %d %s", what, status, body)
		}
	}
	b.control("/_sim/refuse", `{"workspace":"acme","endpoint":"rest","status":503,"retry_after":"3","message":"m","count":1}`)
	wantStatus("refuse", 503)
	wantStatus("refuse once", 200)
	b.control("/_sim/redirect", `{"status":307,"location":"http://127.0.0.1:1/"}`)
	wantStatus("redirect", 307)
	b.control("/_sim/clear", "")
	wantStatus("clear", 200)
	b.control("/_sim/limit", `{"per_second":0.001,"burst":1,"retry_after":true}`)
	wantStatus("limit", 200)
	wantStatus("limit", 429)
	b.control("/_sim/limit", `{}`)
	b.control("/_sim/revoke", `{"token":"`+DefaultKey("acme")+`"}`)
	wantStatus("revoke", 401)
	b.control("/_sim/key", `{"workspace":"acme","token":"`+DefaultKey("acme")+`","scopes":["insight.stream"]}`)
	wantStatus("key", 200)

	b.control("/_sim/rest", `{"shape":"enriched"}`)
	if _, body := b.get("/v1/insights"); !strings.HasPrefix(string(body), `{"insights":[{"id":"`) {
		t.Errorf("rest: %.100s", body)
	}
	b.control("/_sim/rest", `{"shape":"enriched","ids":false}`)
	if _, body := b.get("/v1/insights"); !strings.HasPrefix(string(body), `{"insights":[{"type":"`) {
		t.Errorf("rest without ids: %.100s", body)
	}
	b.control("/_sim/future", `{"refuse":true}`)
	if status, body := b.get("/v1/insights?to=" + b.Now().Add(time.Second).Format(time.RFC3339)); status != 400 || !strings.Contains(string(body), "future") {
		t.Errorf("future: %d %s", status, body)
	}
	for _, path := range []string{"/v1/insights", "/v1/insights?to=" + b.Now().Format(time.RFC3339)} {
		if status, body := b.get(path); status != 200 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	b.control("/_sim/replay", `{"shape":"array","time":"none"}`)
	if _, data := b.open().event(); !strings.HasPrefix(data, `[{"type"`) || strings.Contains(data, "created_at") {
		t.Errorf("replay: %.100s", data)
	}
	b.control("/_sim/duplicates", `{"share":1}`)
	if again := b.Emit("acme", 1); again.Insights[0].Content != b.Emitted("acme")[0].Content {
		t.Error("duplicates: another text")
	}
	if got := string(b.control("/_sim/clock", `{"jump":"-90m"}`)); got != `{"now":"2026-02-05T10:30:00.123456789Z"}` {
		t.Errorf("clock: %s", got)
	}
	b.control("/_sim/rate", `{"per_second":12.5}`)
	_, body := b.get("/_sim/state")
	st := decode[State](t, body)
	w := st.Workspaces[0]
	if st.Rate != 12.5 || st.Emitted != 2 || st.Connections != w.Connections || !st.Now.Equal(b.Now()) || w.Slug != "acme" || w.Emitted != 2 {
		t.Errorf("state: %s", body)
	}
	if r := w.Requests; r.REST[503] != 1 || r.REST[429] != 1 || r.REST[307] != 1 || r.Stream[200] != 1 || st.Unknown.REST[401] != 1 {
		t.Errorf("requests: %s", body)
	}
	if strings.Contains(string(body), "sk-sim") {
		t.Error("the state tells a key")
	}
}

func TestControlErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/_sim/emit", "", 405}, {"POST", "/_sim/state", "", 405}, {"POST", "/_sim/", "", 405}, {"GET", "/_sim/other", "", 404},
		{"POST", "/_sim/emit", "", 400}, {"POST", "/_sim/emit", `{"workspace":"x"}`, 400}, {"POST", "/_sim/emit", `{"work`, 400},
		{"POST", "/_sim/emit", `{"workspace":"acme","cuont":1}`, 400}, {"POST", "/_sim/emit", `{"workspace":"acme","count":10001}`, 400},
		{"POST", "/_sim/emit", `{"workspace":"acme","insights":[],"data":""}`, 400}, {"GET", "/_sim/emitted?workspace=x", "", 400},
		{"POST", "/_sim/drop", `{"workspace":"x"}`, 400}, {"POST", "/_sim/stall", `{"workspace":"x"}`, 400},
		{"POST", "/_sim/resume", `{"workspace":"x"}`, 400}, {"POST", "/_sim/clear", `{"workspace":"x"}`, 400},
		{"POST", "/_sim/cut", ``, 400}, {"POST", "/_sim/garbage", `{"workspace":"acme"}`, 400}, {"POST", "/_sim/garbage", `{"kind":"json"}`, 400},
		{"POST", "/_sim/wire", `{"retry":"soon"}`, 400}, {"POST", "/_sim/refuse", ``, 400}, {"POST", "/_sim/redirect", ``, 400},
		{"POST", "/_sim/rate", `{"per_second":-1}`, 400}, {"POST", "/_sim/duplicates", `{"share":2}`, 400},
		{"POST", "/_sim/limit", `{"burst":-1}`, 400}, {"POST", "/_sim/key", `{"token":"x"}`, 400}, {"POST", "/_sim/revoke", ``, 400},
		{"POST", "/_sim/rest", ``, 400}, {"POST", "/_sim/replay", ``, 400}, {"POST", "/_sim/clock", `{"jump":5}`, 400},
	} {
		resp := b.do(c.method, c.path, "", c.body)
		if e := decode[apiError](t, b.read(resp)); resp.StatusCode != c.want || e.Code != c.want || e.Message == "" {
			t.Errorf("%s %s %s: %d %+v, want %d", c.method, c.path, c.body, resp.StatusCode, e, c.want)
		}
	}
}

// No request makes the control API panic or answer anything but JSON.
func FuzzControl(f *testing.F) {
	for i, body := range []string{
		`{"workspace":"acme","count":1}`, `{"workspace":"acme","insights":[{"type":"a","content":"b","created_at":"9999-12-31T23:59:59Z"}]}`,
		`{"jump":"-9223372036854775808ns"}`, `{"per_second":1e308}`, `{"workspace":"acme","kind":"binary","size":1}`, `{"status":999}`,
	} {
		f.Add(i, body)
	}
	s := newSim(f, Options{SizeMax: minSize, Now: noon().now, History: 10, Remember: 10})
	routes := slices.DeleteFunc(s.controlRoutes(), func(r route) bool { return r.method != http.MethodPost })
	f.Fuzz(func(t *testing.T, i int, body string) {
		path := routes[uint(i)%uint(len(routes))].path
		for _, req := range []*http.Request{
			httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)),
			httptest.NewRequest(http.MethodGet, "/_sim/state", nil),
			httptest.NewRequest(http.MethodGet, "/_sim/emitted?workspace=acme", nil),
		} {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, req)
			if (w.Code != 200 && w.Code != 400) || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s: %d %s", req.URL, body, w.Code, w.Body)
			}
		}
		if now := s.Now(); now.Before(noon().at.Add(-time.Hour*24*366*90)) || now.After(endOfTime) {
			t.Errorf("%s: the clock shows %v", body, now)
		}
	})
}
