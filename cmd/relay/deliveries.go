package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/nex-crm/relay/internal/api"
)

// deliveriesCmd is what was attempted, and how to have it delivered again.
type deliveriesCmd struct {
	List    deliveriesList    `cmd:"" default:"withargs" help:"List attempts, the newest first."`
	Show    deliveriesShow    `cmd:"" help:"Show an attempt: what was sent, and what was answered."`
	Retry   deliveriesRetry   `cmd:"" help:"Deliver the event of an attempt again."`
	Replay  deliveriesReplay  `cmd:"" help:"Let an endpoint get a part of the log again, or for the first time."`
	Replays deliveriesReplays `cmd:"" help:"How an endpoint's replays are."`
	Cancel  deliveriesCancel  `cmd:"" help:"Cancel a replay."`
}

type deliveriesList struct {
	admin
	Endpoint string `help:"Only those of this endpoint."`
	Event    string `help:"Only those of the event with this id."`
	Outcome  string `help:"Only those that ended so, e.g. delivered, timeout, server_error."`
	Failed   bool   `help:"Only those that were not delivered."`
	Since    since  `help:"Only those that are not older: 2h, 7d, or a time."`
	Until    since  `help:"Only those that are older."`
	Limit    uint   `short:"n" default:"50" help:"At most so many; 0 = all."`
}

func (c *deliveriesList) Run(ctx context.Context, e env) error {
	if err := inOrder(c.Since, c.Until); err != nil {
		return err
	}
	query := url.Values{}
	for key, value := range map[string]string{"endpoint": c.Endpoint, "event": c.Event, "outcome": c.Outcome} {
		if value != "" {
			query.Set(key, value)
		}
	}
	if c.Failed {
		query.Set("failed", "true")
	}
	c.Since.put(query, "from")
	c.Until.put(query, "to")
	err := listed(ctx, &c.admin, e.stdout, "/api/v1/attempts", query, int(c.Limit), "ID\tAT\tENDPOINT\tEVENT\tTRY\tOUTCOME\tSTATUS\tMS\tTHEN", func(a *api.Attempt) []any {
		then := string(a.Verdict)
		if a.NextAt != nil {
			then += " at " + a.NextAt.Local().Format(time.DateTime)
		}
		status := "-"
		if a.Status != 0 {
			status = fmt.Sprint(a.Status)
		}
		return []any{a.ID, a.At.Local().Format(time.DateTime), a.Endpoint, printable(a.EventID, 40), a.Attempt.Attempt, a.Outcome, status, fmt.Sprintf("%.1f", a.DurationMS), then}
	})
	return inFlags(err, listFlags)
}

// listFlags are the flags of lists by the parameters of the API that they set.
var listFlags = map[string]string{
	"endpoint": "--endpoint", "event": "--event", "outcome": "--outcome", "class": "--class", "failed": "--failed", "from": "--since", "to": "--until", "limit": "--limit",
	"workspace": "--workspace", "state": "--state", "source": "--source", "all": "--all",
}

type deliveriesRetry struct {
	admin
	Endpoint ident  `arg:"" help:"The endpoint's id."`
	Attempt  uint64 `arg:"" help:"The attempt's id, as deliveries list shows it."`
}

func (c *deliveriesRetry) Run(ctx context.Context, e env) error {
	return c.do(ctx, e, "POST", oneEndpoint{c.Endpoint}.path("/attempts/", fmt.Sprint(c.Attempt), "/retry"), nil)
}
