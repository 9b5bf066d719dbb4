package api

import "context"

func (s *server) tokenOperations() {
	add(s, operation{
		method: "GET", path: "/api/v1/token", id: "getToken", summary: "What the caller's token may do", access: reads,
		about: "Where the API needs no token, what everybody may.",
	}, s.getToken)
}

// Permission is what a token may do.
type Permission struct {
	Name       string   `json:"name" doc:"The token's, as the log names it."`
	Access     string   `json:"access" enum:"read,write"`
	Workspaces []string `json:"workspaces" doc:"The only ones that it sees; empty = all."`
}

func (s *server) getToken(ctx context.Context, _ *struct{}) (*answer[Permission], error) {
	who := callerOf(ctx)
	out := Permission{Name: who.name, Access: "read", Workspaces: append([]string{}, who.workspaces...)}
	if who.write {
		out.Access = "write"
	}
	return &answer[Permission]{out}, nil
}
