package api

import (
	"net/http"

	"github.com/nex-crm/relay/internal/stream"
)

// list is the form of every list.
type list[T any] struct {
	Data []T `json:"data"`
}

func (s *server) listWorkspaces(*http.Request) (int, any, error) {
	data := s.cfg.Workspaces()
	if data == nil {
		data = []stream.Status{}
	}
	return http.StatusOK, list[stream.Status]{data}, nil
}
