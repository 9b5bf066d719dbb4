package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nex-crm/relay/internal/api"
)

type traceCmd struct {
	admin
	Event    string `arg:"" help:"The event's id: evt_…, or a receiver's webhook-id."`
	Endpoint string `help:"Only its way to this endpoint."`
	Since    since  `help:"It is not older: 2h, or a time. The log is searched from its end."`
}

func (c *traceCmd) Help() string {
	return "Prints one event's way: when Nex emitted it, when the log took it, every attempt at every endpoint that is still recorded (three\n" +
		"days), and the dead letters that are left of it."
}

// step is one thing that happened to an event.
type step struct {
	at         time.Time
	what, text string
}

func (c *traceCmd) Run(ctx context.Context, e env) error {
	query := func(key string) url.Values {
		q := url.Values{key: {c.Event}}
		c.Since.put(q, "from")
		if key == "event" && c.Endpoint != "" {
			q.Set("endpoint", c.Endpoint)
		}
		return q
	}
	table := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	var steps []step
	found := false
	err := pages(ctx, &c.admin, "/api/v1/events", query("id"), 0, func(list []api.StoredEvent) error {
		for _, stored := range list {
			found = true
			steps = append(steps, logged(table, &stored)...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	q := query("event")
	if !found { // attempts may be recorded for longer than the log keeps their event
		fmt.Fprintf(table, "event\t%s is not in the log, or no more\n", c.Event)
	}
	err = pages(ctx, &c.admin, "/api/v1/attempts", q, 0, func(list []api.Attempt) error {
		for _, a := range list {
			steps = append(steps, step{a.At, fmt.Sprint("attempt ", a.Attempt.Attempt), attempted(&a)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = pages(ctx, &c.admin, deadPath, query("event"), 0, func(list []api.DeadLetter) error {
		for _, d := range list {
			steps = append(steps, step{d.At, "dead letter", fmt.Sprintf("%s: %s after %s, %s; relay dead retry %d", d.Endpoint, d.Class, plural(d.Attempts, "attempt"), d.Reason, d.ID)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Or(a.at.Compare(b.at)) })
	for _, s := range steps {
		fmt.Fprintf(table, "%s\t%s\t%s\n", s.at.Local().Format(time.DateTime), s.what, s.text)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(steps) == 0 {
		return fmt.Errorf("nothing is known of %s", c.Event)
	}
	return nil
}

// logged prints what an event is, and answers how it came into the log.
func logged(out *tabwriter.Writer, stored *api.StoredEvent) []step {
	var event struct {
		ID, Type, Source, Subject string
		Time                      time.Time
	}
	_ = json.Unmarshal(stored.Event, &event) // what somebody else put there may be no event
	fmt.Fprintf(out, "event\t%s\ntype\t%s\nabout\t%s\nsource\t%s\nsubject\t%s, sequence %d\n", event.ID, event.Type, printable(event.Subject, 80), event.Source, stored.Subject, stored.Sequence)
	if parts := strings.Split(stored.Trace, "-"); len(parts) == 4 {
		fmt.Fprintf(out, "trace\t%s\n", parts[1])
	}
	fmt.Fprintln(out)
	steps := []step{{stored.Stored, "logged", "the log has taken it"}}
	if stored.Received != nil {
		came := map[string]string{"stream": "over the stream", "replay": "in the replay after a connect", "rest": "over REST, when a gap was filled"}
		steps = append(steps, step{*stored.Received, "received", came[stored.Via]})
	}
	if !event.Time.IsZero() && !event.Time.After(stored.Stored) {
		steps = append(steps, step{event.Time, "emitted", "by Nex"})
	}
	return steps
}

func attempted(a *api.Attempt) string {
	text := fmt.Sprintf("%s: %s", a.Endpoint, a.Outcome)
	if a.Status != 0 {
		text += fmt.Sprintf(" %d", a.Status)
	}
	text += fmt.Sprintf(" in %.1f ms", a.DurationMS)
	if a.Error != "" {
		text += ", " + printable(a.Error, 100)
	}
	if a.NextAt != nil {
		return text + "; next attempt at " + a.NextAt.Local().Format(time.DateTime)
	}
	return text + "; " + string(a.Verdict)
}
