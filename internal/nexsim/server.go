package nexsim

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The endpoints that refusals and counts tell apart.
const (
	EndpointStream = "stream"
	EndpointREST   = "rest"
)

// Handler serves Nex's API and the control API; see the package comment for the paths.
func (s *Sim) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, base := range []string{"", "/api/developers"} {
		mux.HandleFunc(base+"/v1/insights/stream", s.serveStream)
		mux.HandleFunc(base+"/v1/insights", s.serveInsights)
	}
	mux.Handle("/_sim/", s.controlHandler())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { writeError(w, http.StatusNotFound, "Not found") })
	return mux
}

func (s *Sim) serveStream(w http.ResponseWriter, r *http.Request) {
	k, ok := s.admit(w, r, EndpointStream)
	if !ok {
		return
	}
	ws := k.workspace
	rc := http.NewResponseController(w)
	c, ok := ws.join(k, rc.SetWriteDeadline)
	if !ok {
		ws.counts.add(EndpointStream, http.StatusServiceUnavailable)
		writeError(w, http.StatusServiceUnavailable, "Service unavailable")
		return
	}
	defer ws.leave(c)
	// A key revoked since it was looked up has missed its end.
	if s.keys.find(k.token) == nil {
		c.end(ended)
	}
	ws.counts.add(EndpointStream, http.StatusOK)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	out := &output{w: w, flusher: rc, workspace: ws}
	if err := out.flush(); err != nil { // the header goes out also when the stream is stalled from its start
		return
	}
	s.log.Debug("stream opened", "workspace", ws.info.Slug)
	end := c.serve(r.Context(), out, s.opts.Keepalive)
	s.log.Debug("stream ended", "workspace", ws.info.Slug)
	if end == aborted {
		panic(http.ErrAbortHandler) // net/http's way to break the connection in mid-response
	}
}

func (s *Sim) serveInsights(w http.ResponseWriter, r *http.Request) {
	k, ok := s.admit(w, r, EndpointREST)
	if !ok {
		return
	}
	ws := k.workspace
	sh, now := s.shapes.Load(), s.Now()
	q, err := parseQuery(r.URL.Query(), now)
	if err == nil && sh.noFuture && q.to.After(now) && q.to != endOfTime {
		err = errors.New("to must not be in the future")
	}
	if err != nil {
		ws.counts.add(EndpointREST, http.StatusBadRequest)
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	ws.counts.add(EndpointREST, http.StatusOK)
	writeJSON(w, http.StatusOK, restPayload(ws.id, ws.between(q.from, q.to, q.limit), sh.rest, sh.restIDs))
}

// admit answers every request that gets no further: method, refusal, key, scope, rate limit, in this order.
func (s *Sim) admit(w http.ResponseWriter, r *http.Request, endpoint string) (*key, bool) {
	k := s.keys.find(bearer(r))
	counts, slug := &s.counts, ""
	if k != nil {
		counts, slug = &k.workspace.counts, k.workspace.info.Slug
	}
	refuse := func(status int, message string) (*key, bool) {
		counts.add(endpoint, status)
		writeError(w, status, message)
		return nil, false
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		return refuse(http.StatusMethodNotAllowed, "Method not allowed")
	}
	if refusal, ok := s.refusals.take(endpoint, slug); ok {
		counts.add(endpoint, refusal.Status)
		refusal.write(w)
		return nil, false
	}
	if k == nil {
		return refuse(http.StatusUnauthorized, "Invalid or missing API key")
	}
	if !k.mayReadInsights {
		return refuse(http.StatusForbidden, "API key lacks the required scope: "+ScopeInsights)
	}
	if wait, ok := s.keys.allow(k.token); !ok {
		if wait > 0 {
			w.Header().Set("Retry-After", seconds(wait))
		}
		return refuse(http.StatusTooManyRequests, "Rate limit exceeded")
	}
	return k, true
}

// seconds is the whole number of seconds after which d is over, at least 1.
func seconds(d time.Duration) string {
	return strconv.FormatInt(max(1, int64((d+time.Second-1)/time.Second)), 10)
}

// bearer returns the API key of a request; "" is none. The scheme is case-insensitive (RFC 9110 section 11.1).
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// writeError answers as Nex does.
func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, mustJSON(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message}))
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}
