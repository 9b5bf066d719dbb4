package nexsim

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// Refusal answers requests before Nex would: with an error, or with a redirect if Location is set.
type Refusal struct {
	Workspace  string `json:"workspace"`   // slug; "" = every request, also one without a valid key
	Endpoint   string `json:"endpoint"`    // EndpointStream, EndpointREST or "" for both
	Status     int    `json:"status"`      // 300..599
	RetryAfter string `json:"retry_after"` // the header's value, as it is; "" sends none
	Location   string `json:"location"`    // the header's value, as it is; "" sends none
	// Message is the text of Nex's error body; the status text if empty. With Body that is sent instead, under ContentType
	// (text/html if empty), as a proxy in between would.
	Message     string `json:"message"`
	Body        string `json:"body"`
	ContentType string `json:"content_type"`
	Count       int    `json:"count"` // requests refused before it ends by itself; 0 = until Clear
}

func (r Refusal) validate() error {
	switch {
	case r.Status < 300 || r.Status > 599:
		return fmt.Errorf("refusal status %d: must be 300..599", r.Status)
	case !slices.Contains([]string{"", EndpointStream, EndpointREST}, r.Endpoint):
		return fmt.Errorf("refusal endpoint %q: must be %s, %s or empty", r.Endpoint, EndpointStream, EndpointREST)
	case r.Count < 0:
		return fmt.Errorf("refusal count %d: must not be negative", r.Count)
	}
	return nil
}

func (r Refusal) write(w http.ResponseWriter) {
	if r.RetryAfter != "" {
		w.Header().Set("Retry-After", r.RetryAfter)
	}
	if r.Location != "" {
		w.Header().Set("Location", r.Location)
	}
	if r.Body == "" {
		writeError(w, r.Status, orDefault(r.Message, http.StatusText(r.Status)))
		return
	}
	w.Header().Set("Content-Type", orDefault(r.ContentType, "text/html; charset=utf-8"))
	w.WriteHeader(r.Status)
	_, _ = w.Write([]byte(r.Body)) // a client that is gone needs no answer
}

// refusals holds those in force; the oldest that fits a request wins.
type refusals struct {
	mu   sync.Mutex
	list []*Refusal
}

func (l *refusals) add(r Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, &r)
}

// take returns the refusal for a request, and uses it up by one.
func (l *refusals) take(endpoint, slug string) (Refusal, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range l.list {
		if r.Endpoint != "" && r.Endpoint != endpoint || r.Workspace != "" && r.Workspace != slug {
			continue
		}
		found := *r
		if r.Count > 0 {
			if r.Count--; r.Count == 0 {
				l.list = slices.Delete(l.list, i, i+1)
			}
		}
		return found, true
	}
	return Refusal{}, false
}

func (l *refusals) clear(slug string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(r *Refusal) bool { return slug == "" || r.Workspace == slug })
}

func (l *refusals) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.list)
}

// Refuse lets requests fail from now on. Open streams are not touched.
func (s *Sim) Refuse(r Refusal) error {
	if err := r.validate(); err != nil {
		return err
	}
	if _, err := s.each(r.Workspace); err != nil {
		return err
	}
	s.refusals.add(r)
	return nil
}

// Redirect answers requests with this status (301, 302, 303, 307, 308) and Location; endpoint as in [Refusal], count 0 =
// until Clear. The location is sent as it is, without the path and query that were asked for.
func (s *Sim) Redirect(slug, endpoint string, status int, location string, count int) error {
	if status < 300 || status > 399 {
		return fmt.Errorf("redirect status %d: must be 300..399", status)
	}
	if location == "" {
		return fmt.Errorf("redirect: the location is empty")
	}
	return s.Refuse(Refusal{Workspace: slug, Endpoint: endpoint, Status: status, Location: location, Count: count})
}

// Clear ends the refusals and redirects made for this workspace; "" ends all there are.
func (s *Sim) Clear(slug string) {
	s.mustEach(slug)
	s.refusals.clear(slug)
}
