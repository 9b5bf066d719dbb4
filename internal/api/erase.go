package api

import (
	"context"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
)

func (s *server) eraseOperations() {
	add(s, operation{
		method: "POST", path: "/api/v1/erase", id: "erase", summary: "Remove what is stored of a workspace, or of one of its subjects", access: operates,
		about: "Events, what waits of them, attempts and dead letters. What Nex repeats of it later is not taken again; what it discovers later is. " +
			"It cannot be undone. Where `done` is false there was more than could be removed in one request: ask again.",
	}, s.erase)
}

// Erase is the body of POST /api/v1/erase.
type Erase struct {
	Workspace string `json:"workspace" doc:"The workspace's name, one that is no longer configured included."`
	Subject   string `json:"subject,omitempty" doc:"Only events about this subject, as the CloudEvents attribute names it." example:"person/John Smith"`
	DryRun    bool   `json:"dry_run,omitempty" doc:"Only count."`
	Overwrite bool   `json:"overwrite,omitempty" doc:"Have NATS overwrite the bytes on disk at once, which takes some 5 ms for each message; else they stay there until it compacts its files, for as long as the log keeps events at most."`
}

// Erased is what was removed.
type Erased struct {
	Workspace   string `json:"workspace" doc:"As it stands in subjects."`
	Subject     string `json:"subject,omitempty"`
	Events      uint64 `json:"events" doc:"Events of the log."`
	Attempts    uint64 `json:"attempts" doc:"Records of attempts to deliver them."`
	Retries     uint64 `json:"retries" doc:"Deliveries that waited."`
	DeadLetters uint64 `json:"dead_letters"`
	Done        bool   `json:"done" doc:"Everything has been looked at."`
}

type erase struct{ Body Erase }

func (s *server) erase(ctx context.Context, in *erase) (*answer[Erased], error) {
	f := s.fanout()
	if f == nil {
		return nil, errStarting
	}
	what := fanout.Erasure{Workspace: event.Token(in.Body.Workspace), Subject: in.Body.Subject, DryRun: in.Body.DryRun, Overwrite: in.Body.Overwrite}
	if in.Body.Workspace == "" || what.Workspace == event.NoWorkspace {
		return nil, badRequest("workspace: %q: name the workspace whose data is to be removed", in.Body.Workspace)
	}
	bounded, cancel := within(ctx, countTime)
	defer cancel()
	got, err := f.Erase(bounded, what)
	out := Erased{
		Workspace: what.Workspace, Subject: what.Subject, Events: got.Events, Attempts: got.Attempts, Retries: got.Retries,
		DeadLetters: got.DeadLetters, Done: err == nil,
	}
	if !what.DryRun { // not the subject: it is what is to be forgotten
		s.log.Warn("erased", "workspace", what.Workspace, "one_subject", what.Subject != "", "events", got.Events, "attempts", got.Attempts,
			"retries", got.Retries, "dead_letters", got.DeadLetters, "done", out.Done, "by", callerOf(ctx).name)
	}
	if err != nil && (ctx.Err() != nil || bounded.Err() == nil) {
		return nil, err
	}
	return &answer[Erased]{out}, nil
}
