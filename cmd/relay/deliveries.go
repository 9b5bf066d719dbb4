package main

import (
	"context"
	"encoding/json"
	"errors"
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

// since is a point in time as an age or as a time.
type since struct{ time.Time }

// UnmarshalText reads 90m, or 2026-02-05T10:30:00Z.
func (s *since) UnmarshalText(text []byte) error {
	if age, err := time.ParseDuration(string(text)); err == nil {
		if age < 0 {
			return fmt.Errorf("%q: an age is positive, e.g. 2h", text)
		}
		s.Time = time.Now().Add(-age)
		return nil
	}
	t, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return fmt.Errorf("%q: write an age, e.g. 2h, or a time, e.g. 2026-02-05T10:30:00Z", text)
	}
	s.Time = t
	return nil
}

func (s since) put(query url.Values, key string) {
	if !s.IsZero() {
		query.Set(key, s.UTC().Format(time.RFC3339Nano))
	}
}

func (s since) pointer() *time.Time {
	if s.IsZero() {
		return nil
	}
	return &s.Time
}

type deliveriesList struct {
	admin
	Endpoint string `help:"Only those of this endpoint."`
	Event    string `help:"Only those of the event with this id."`
	Outcome  string `help:"Only those that ended so, e.g. delivered, timeout, server_error."`
	Failed   bool   `help:"Only those that were not delivered."`
	Since    since  `help:"Only those that are not older: 2h, or a time."`
	Until    since  `help:"Only those that are older."`
	Limit    int    `short:"n" default:"50" help:"At most so many; 0 = all."`
}

func (c *deliveriesList) Run(ctx context.Context, e env) error {
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
	return listed(ctx, &c.admin, e.stdout, "/api/v1/attempts", query, c.Limit, "ID\tAT\tENDPOINT\tEVENT\tTRY\tOUTCOME\tSTATUS\tMS\tTHEN", func(a *api.Attempt) []any {
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
}

type deliveriesRetry struct {
	admin
	Endpoint ident  `arg:"" help:"The endpoint's id."`
	Attempt  uint64 `arg:"" help:"The attempt's id, as deliveries list shows it."`
}

func (c *deliveriesRetry) Run(ctx context.Context, e env) error {
	return c.do(ctx, e, "POST", oneEndpoint{c.Endpoint}.path("/attempts/", fmt.Sprint(c.Attempt), "/retry"), nil)
}

type deliveriesReplay struct {
	admin
	oneEndpoint
	Since  since    `help:"Events that the log took then or later: 2h, or a time."`
	Until  since    `help:"Events that the log took before."`
	After  uint64   `help:"Events behind this sequence."`
	Before uint64   `help:"Events before this sequence."`
	Events []string `help:"Patterns over the type, in place of the endpoint's."`
	Filter string   `help:"An expression over the event, in place of the endpoint's."`
	DryRun bool     `help:"Only count how many it would be."`
	Wait   bool     `help:"Wait until it is over, and show how far it is."`
}

func (c *deliveriesReplay) Run(ctx context.Context, e env) error {
	body := api.NewReplay{
		From: c.Since.pointer(), To: c.Until.pointer(), After: c.After, Before: c.Before, Events: c.Events, Filter: c.Filter, DryRun: c.DryRun,
	}
	answer, err := c.call(ctx, "POST", c.path("/replay"), nil, body)
	if err != nil || !c.Wait || c.DryRun {
		return errors.Join(err, shown(e.stdout, c.JSON, answer))
	}
	var r api.Replay
	if err := json.Unmarshal(answer, &r); err != nil {
		return err
	}
	return c.wait(ctx, e, r.ID)
}

// wait shows a replay until it is over.
func (c *deliveriesReplay) wait(ctx context.Context, e env, id string) error {
	said := ""
	for {
		answer, err := c.call(ctx, "GET", c.path("/replays"), nil, nil)
		if err != nil {
			return err
		}
		var list struct{ Data []api.Replay }
		if err := json.Unmarshal(answer, &list); err != nil {
			return err
		}
		var r *api.Replay
		for i := range list.Data {
			if list.Data[i].ID == id {
				r = &list.Data[i]
			}
		}
		if r == nil {
			return errors.New("the endpoint, or its replay, is no more")
		}
		if line := fmt.Sprintf("%s: %s, %d of %d read, %d queued", r.ID, r.State, r.Read, r.To+1-r.From, r.Queued); line != said {
			said = line
			fmt.Fprintln(e.stdout, line)
		}
		switch r.State {
		case "done":
			return nil
		case "canceled":
			return errors.New("it was canceled")
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
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

// deadCmd is the dead letters.
type deadCmd struct {
	List   deadList   `cmd:"" default:"withargs" help:"List dead letters, the newest first."`
	Show   deadShow   `cmd:"" help:"Show one, with its event."`
	Retry  deadRetry  `cmd:"" help:"Deliver one after all, or many: relay dead retry --class timeout"`
	Delete deadDelete `cmd:"" help:"Delete one, or many."`
}

const deadPath = "/api/v1/dead-letters"

type deadList struct {
	admin
	Endpoint string `help:"Only those of this endpoint."`
	Class    string `help:"Only those of this class: dns, dial, tls, timeout, 3xx, 4xx, 5xx, not_granted, proxy, refused, relay, other."`
	Since    since  `help:"Only those that are not older: 2h, or a time."`
	Until    since  `help:"Only those that are older."`
	Limit    int    `short:"n" default:"50" help:"At most so many; 0 = all."`
}

func (c *deadList) Run(ctx context.Context, e env) error {
	query := url.Values{}
	for key, value := range map[string]string{"endpoint": c.Endpoint, "class": c.Class} {
		if value != "" {
			query.Set(key, value)
		}
	}
	c.Since.put(query, "from")
	c.Until.put(query, "to")
	return listed(ctx, &c.admin, e.stdout, deadPath, query, c.Limit, "ID\tAT\tENDPOINT\tEVENT\tCLASS\tTRIES\tREASON\tERROR", func(d *api.DeadLetter) []any {
		text := d.Error
		if text == "" && d.Status != 0 {
			text = fmt.Sprint("answered ", d.Status)
		}
		return []any{d.ID, d.At.Local().Format(time.DateTime), d.Endpoint, printable(d.EventID, 40), d.Class, d.Attempts, d.Reason, printable(text, 80)}
	})
}

type deadShow struct {
	admin
	Letter uint64 `arg:"" help:"The dead letter's id."`
}

func (c *deadShow) Run(ctx context.Context, e env) error {
	return c.do(ctx, e, "GET", fmt.Sprint(deadPath, "/", c.Letter), nil)
}

// whichLetters is one dead letter, or many.
type whichLetters struct {
	Letter   uint64 `arg:"" optional:"" help:"One, by its id."`
	Endpoint string `help:"Those of this endpoint."`
	Class    string `help:"Those of this class."`
	Since    since  `help:"Those that are not older: 2h, or a time."`
	Until    since  `help:"Those that are older."`
	All      bool   `help:"Every one."`
}

// many repeats a request until nothing is left of what it is about.
func (w *whichLetters) many(ctx context.Context, a *admin, e env, what, done string) error {
	body := map[string]any{}
	for key, value := range map[string]string{"endpoint": w.Endpoint, "class": w.Class} {
		if value != "" {
			body[key] = value
		}
	}
	for key, at := range map[string]since{"from": w.Since, "to": w.Until} {
		if !at.IsZero() {
			body[key] = at.UTC()
		}
	}
	if w.All {
		body["all"] = true
	}
	total, skipped, began := 0, 0, time.Now().UTC()
	for {
		answer, err := a.call(ctx, "POST", deadPath+"/"+what, nil, body)
		if err != nil {
			return err
		}
		var bulk api.Bulk
		if err := json.Unmarshal(answer, &bulk); err != nil {
			return err
		}
		total += bulk.Done
		skipped += bulk.Skipped
		for _, reason := range bulk.Reasons {
			fmt.Fprintln(e.stderr, "skipped", reason)
		}
		if !bulk.More {
			fmt.Fprintf(e.stdout, "%s %s, %d skipped\n", plural(total, "dead letter"), done, skipped)
			return nil
		}
		fmt.Fprintf(e.stdout, "%d so far\n", total)
		body["after"] = bulk.Last
		if w.Until.IsZero() {
			body["to"] = began // not those that have died again meanwhile
		}
	}
}

type deadRetry struct {
	admin
	whichLetters
}

func (c *deadRetry) Run(ctx context.Context, e env) error {
	if c.Letter != 0 {
		return c.do(ctx, e, "POST", fmt.Sprint(deadPath, "/", c.Letter, "/retry"), nil)
	}
	return c.many(ctx, &c.admin, e, "retry", "on the way again")
}

type deadDelete struct {
	admin
	whichLetters
}

func (c *deadDelete) Run(ctx context.Context, e env) error {
	if c.Letter != 0 {
		return c.do(ctx, e, "DELETE", fmt.Sprint(deadPath, "/", c.Letter), nil)
	}
	return c.many(ctx, &c.admin, e, "delete", "deleted")
}
