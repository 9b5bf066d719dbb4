package nexsim

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

const (
	// maxControlBody bounds a request to the control API, in bytes.
	maxControlBody = 64 << 20
	// maxEmit bounds the insights that one control request may generate.
	maxEmit = 10_000
)

// route is one endpoint of the control API.
type route struct {
	method, path, body, does string
	handler                  http.HandlerFunc
}

func (s *Sim) controlRoutes() []route {
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{get, "/_sim/state", "", "connections, emitted insights and requests by status", s.controlState},
		{get, "/_sim/emitted", "?workspace=", "the insights emitted so far, oldest first", s.controlEmitted},
		{post, "/_sim/emit", "{workspace, count | insights | event, data}", "emits now", action(s.controlEmit)},
		{post, "/_sim/drop", "{workspace, abort}", "ends open streams", action(s.controlDrop)},
		{post, "/_sim/stall", "{workspace, new}", "silences streams", action(s.controlStall)},
		{post, "/_sim/resume", "{workspace}", "ends a stall", action(s.controlResume)},
		{
			post, "/_sim/refuse", "{workspace, endpoint, status, retry_after, message, body, content_type, count}",
			"lets requests fail", action(s.controlRefuse),
		},
		{post, "/_sim/redirect", "{workspace, endpoint, status, location, count}", "redirects requests", action(s.controlRedirect)},
		{post, "/_sim/clear", "{workspace}", "ends refusals and redirects", action(s.controlClear)},
		{post, "/_sim/cut", "{workspace}", "sends half an event and breaks the streams", action(s.controlCut)},
		{post, "/_sim/garbage", "{workspace, kind, size}", "sends what is no insight", action(s.controlGarbage)},
		{
			post, "/_sim/wire", "{workspace, line_ending, bom, retry, chunk, split_utf8, pause}",
			"changes how streams are written", action(s.controlWire),
		},
		{post, "/_sim/rate", "{per_second}", "insights generated per second", action(s.controlRate)},
		{post, "/_sim/duplicates", "{workspace, share}", "repeats earlier texts", action(s.controlDuplicates)},
		{post, "/_sim/limit", "{per_second, burst, retry_after}", "requests per key, above it 429", action(s.controlLimit)},
		{post, "/_sim/key", "{workspace, token, scopes}", "adds a key or changes its scopes", action(s.controlKey)},
		{post, "/_sim/revoke", "{token}", "removes a key", action(s.controlRevoke)},
		{post, "/_sim/rest", "{shape, ids}", "how REST answers", action(s.controlREST)},
		{post, "/_sim/future", "{refuse}", "refuses windows that end in the future", action(s.controlFuture)},
		{post, "/_sim/replay", "{shape, time}", "how new streams replay", action(s.controlReplay)},
		{post, "/_sim/clock", "{jump}", "moves the clock", action(s.controlClock)},
	}
}

func (s *Sim) controlHandler() http.Handler {
	type listed struct {
		Method string `json:"method"`
		Path   string `json:"path"`
		Body   string `json:"body,omitempty"`
		Does   string `json:"does"`
	}
	mux := http.NewServeMux()
	list := []listed{{http.MethodGet, "/_sim/", "", "this list"}}
	for _, r := range s.controlRoutes() {
		mux.HandleFunc(r.path, only(r.method, r.handler))
		list = append(list, listed{r.method, r.path, r.body, r.does})
	}
	index := mustJSON(list)
	mux.HandleFunc("/_sim/{$}", only(http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, index)
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { writeError(w, http.StatusNotFound, "Not found") })
	return mux
}

func only(method string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			w.Header().Set("Allow", method)
			writeError(w, http.StatusMethodNotAllowed, "Method not allowed")
			return
		}
		h(w, r)
	}
}

// action reads the request's body into a T, an empty body as the zero T, and answers with what do returns.
func action[T any](do func(T) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in T
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
			writeError(w, http.StatusBadRequest, "body: "+err.Error())
			return
		}
		out, err := do(in)
		if err != nil {
			writeError(w, http.StatusBadRequest, err.Error())
			return
		}
		writeJSON(w, http.StatusOK, mustJSON(out))
	}
}

// done is the answer of an action that has nothing to tell.
type done struct {
	OK bool `json:"ok"`
}

func finished(err error) (any, error) { return done{OK: true}, err }

// streams is the answer of an action upon open streams.
type streams struct {
	Streams int `json:"streams"`
}

// duration is a time.Duration written as Go does: "1.5s".
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = duration(v)
	return err
}
