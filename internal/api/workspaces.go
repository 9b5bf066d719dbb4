package api

import (
	"context"

	"github.com/nex-crm/relay/internal/stream"
)

func (s *server) workspaceOperations() {
	add(s, operation{
		method: "GET", path: "/api/v1/workspaces", id: "listWorkspaces", summary: "How each workspace's stream is", access: reads,
	}, s.listWorkspaces)
}

func (s *server) listWorkspaces(ctx context.Context, _ *struct{}) (*answer[list[stream.Status]], error) {
	var data []stream.Status
	for _, w := range s.cfg.Workspaces() {
		if callerOf(ctx).knows(w.Token) {
			data = append(data, w)
		}
	}
	return page(data, ""), nil
}
