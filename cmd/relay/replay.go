package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nex-crm/relay/internal/api"
)

type deliveriesReplay struct {
	admin
	oneEndpoint
	Since  since    `help:"Events that the log took then or later: 2h, 7d, or a time."`
	Until  since    `help:"Events that the log took before."`
	After  uint64   `help:"Events behind this sequence."`
	Before uint64   `help:"Events before this sequence."`
	Events []string `help:"Patterns over the type, in place of the endpoint's."`
	Filter string   `help:"An expression over the event, in place of the endpoint's."`
	DryRun bool     `help:"Only count how many it would be."`
	Wait   bool     `help:"Wait until it is over, and show how far it is."`
}

func (c *deliveriesReplay) Run(ctx context.Context, e env) error {
	switch {
	case c.Since.IsZero() && c.Until.IsZero() && c.After == 0 && c.Before == 0:
		return usageError{errors.New("which part of the log? give --since, --until, --after or --before")}
	case c.Before != 0 && c.After+1 >= c.Before:
		return usageError{fmt.Errorf("--after %d and --before %d: no sequence is between them", c.After, c.Before)}
	}
	if err := inOrder(c.Since, c.Until); err != nil {
		return err
	}
	body := api.NewReplay{
		From: c.Since.pointer(), To: c.Until.pointer(), After: c.After, Before: c.Before, Events: c.Events, Filter: c.Filter, DryRun: c.DryRun,
	}
	answer, err := c.call(ctx, "POST", c.path("/replay"), nil, body)
	switch {
	case err != nil:
		return inFlags(err, map[string]string{
			"from": "--since", "to": "--until", "after": "--after", "before": "--before", "events": "--events", "filter": "--filter", "dry_run": "--dry-run",
		})
	case !c.Wait || c.DryRun:
		return shown(e.stdout, c.JSON, answer)
	}
	var r api.Replay
	if err := json.Unmarshal(answer, &r); err != nil {
		return err
	}
	return c.wait(ctx, e, r.ID)
}

// wait shows a replay until it is over.
func (c *deliveriesReplay) wait(ctx context.Context, e env, id string) error {
	said, told := "", false
	for {
		r, raw, err := c.find(ctx, id)
		if err != nil {
			return err
		}
		if line := fmt.Sprintf("%s: %s, %d of %d read, %d queued", r.ID, r.State, r.Read, r.To+1-r.From, r.Queued); line != said {
			said = line
			if c.JSON {
				line = string(raw)
			}
			if err := shown(e.stdout, true, []byte(line)); err != nil {
				return err
			}
		}
		switch r.State {
		case "done":
			return nil
		case "canceled":
			return errors.New("it was canceled")
		case "waiting":
			if !told {
				told, err = c.tellWhy(ctx, e)
			}
			if err != nil {
				return err
			}
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// find is a replay of the endpoint, also as the relay shows it.
func (c *deliveriesReplay) find(ctx context.Context, id string) (r *api.Replay, raw json.RawMessage, err error) {
	answer, err := c.call(ctx, "GET", c.path("/replays"), nil, nil)
	if err != nil {
		return nil, nil, err
	}
	var list struct{ Data []json.RawMessage }
	if err := json.Unmarshal(answer, &list); err != nil {
		return nil, nil, fmt.Errorf("read replays: %w", err)
	}
	for _, raw := range list.Data {
		r := &api.Replay{}
		if err := json.Unmarshal(raw, r); err != nil {
			return nil, nil, fmt.Errorf("read replay: %w", err)
		}
		if r.ID == id {
			return r, raw, nil
		}
	}
	return nil, nil, errors.New("the endpoint, or its replay, is no more")
}

// tellWhy says that a replay waits for its endpoint, if it does.
func (c *deliveriesReplay) tellWhy(ctx context.Context, e env) (told bool, err error) {
	answer, err := c.call(ctx, "GET", c.path(), nil, nil)
	if err != nil {
		return false, err
	}
	var now api.Endpoint
	if err := json.Unmarshal(answer, &now); err != nil {
		return false, fmt.Errorf("read endpoint: %w", err)
	}
	if now.State == "active" {
		return false, nil
	}
	fmt.Fprintf(e.stderr, "it waits because the endpoint is %s: relay endpoints enable %s lets it go on\n", now.State, c.ID)
	return true, nil
}

type deliveriesReplays struct {
	admin
	oneEndpoint
}

func (c *deliveriesReplays) Run(ctx context.Context, e env) error {
	return listed(ctx, &c.admin, e.stdout, c.path("/replays"), nil, -1, "ID\tSTATE\tASKED\tFROM\tTO\tREAD\tQUEUED", func(r *api.Replay) []any {
		return []any{r.ID, r.State, r.At.Local().Format(time.DateTime), r.From, r.To, r.Read, r.Queued}
	})
}

type deliveriesCancel struct {
	admin
	oneEndpoint
	Replay ident `arg:"" help:"The replay's id."`
}

func (c *deliveriesCancel) Run(ctx context.Context, e env) error {
	return c.do(ctx, e, "DELETE", c.path("/replays/", string(c.Replay)), nil)
}
