package api

import "net/http"

// healthz says that the process answers. It depends on nothing: a relay whose NATS is away must not be restarted for it.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "version": s.cfg.Version})
}

// readyz says whether the relay does its work now, and what is missing if not.
func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	checks := s.cfg.Ready()
	status, code := "ready", http.StatusOK
	for _, ok := range checks {
		if !ok {
			status, code = "not ready", http.StatusServiceUnavailable
		}
	}
	writeJSON(w, code, map[string]any{"status": status, "checks": checks})
}
