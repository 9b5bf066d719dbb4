package api

import (
	"net/http"
	"strings"
)

// nothing answers those who are let in and ask for what is no resource, or with a method that a resource does not have.
func (s *server) nothing(mux *http.ServeMux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, refused := s.identify(r.Host, r.Header.Get("Origin"), r.Header.Get("Authorization"))
		allowed := methodsOf(mux, r)
		switch {
		case refused != nil && refused.Code == http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", challenge)
		case refused != nil:
		case len(allowed) > 0: // RFC 9110, section 15.5.6
			list := strings.Join(allowed, ", ")
			w.Header().Set("Allow", list)
			refused = &Error{http.StatusMethodNotAllowed, r.Method + ": " + r.URL.Path + " does not take it; use one of " + list}
		default:
			refused = &Error{http.StatusNotFound, "no such resource: " + r.Method + " " + r.URL.Path + "; see /api/openapi.json"}
		}
		writeJSON(w, refused.Code, refused)
	}
}

// methodsOf are the methods that the resource of a request has; none if there is no such resource.
func methodsOf(mux *http.ServeMux, r *http.Request) (allowed []string) {
	_, none := mux.Handler(r)
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPatch, http.MethodPost, http.MethodPut} {
		ask := *r
		ask.Method = method
		if _, pattern := mux.Handler(&ask); pattern != none {
			allowed = append(allowed, method)
		}
	}
	return allowed
}
