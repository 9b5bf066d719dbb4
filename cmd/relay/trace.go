package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
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
	Since    since  `help:"It is not older: 2h, 7d, or a time. The log is searched from its end."`
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
	t := trace{asJSON: c.JSON}
	if err := c.read(ctx, &t); err != nil {
		return inFlags(err, listFlags)
	}
	if t.empty() {
		return fmt.Errorf("nothing is known of %s", c.Event)
	}
	return t.print(e.stdout, c.Event)
}

// read asks for the event, its attempts and its dead letters. Attempts may be recorded for longer than the log keeps their event.
func (c *traceCmd) read(ctx context.Context, t *trace) error {
	about, endpoint := url.Values{"id": {c.Event}}, url.Values{"event": {c.Event}}
	if c.Endpoint != "" {
		endpoint.Set("endpoint", c.Endpoint)
	}
	for _, query := range []url.Values{about, endpoint} {
		c.Since.put(query, "from")
	}
	letters := maps.Clone(endpoint) // each list keeps its cursor in its query
	if err := traced(ctx, c, t, "/api/v1/events", about, func(one *api.StoredEvent) { t.logged(one) }); err != nil {
		return err
	}
	err := traced(ctx, c, t, "/api/v1/attempts", endpoint, func(a *api.Attempt) {
		t.steps = append(t.steps, step{a.At, fmt.Sprint("attempt ", a.Attempt.Attempt), attempted(a)})
	})
	if err != nil {
		return err
	}
	return traced(ctx, c, t, deadPath, letters, func(d *api.DeadLetter) {
		t.steps = append(t.steps, step{d.At, "dead letter", fmt.Sprintf("%s: %s after %s, %s; relay dead retry %d", d.Endpoint, d.Class, plural(d.Attempts, "attempt"), d.Reason, d.ID)})
	})
}

// traced takes a list into a trace.
func traced[T any](ctx context.Context, c *traceCmd, t *trace, path string, query url.Values, take func(*T)) error {
	return pages(ctx, &c.admin, path, query, 0, func(list []json.RawMessage) error {
		for _, raw := range list {
			t.raw = append(t.raw, raw)
			one := new(T)
			if err := json.Unmarshal(raw, one); err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
			take(one)
		}
		return nil
	})
}

// trace is what is known of an event.
type trace struct {
	asJSON bool
	raw    []json.RawMessage // the event, its attempts, its dead letters, as the relay answers them
	about  strings.Builder   // what the event is, in rows of cells
	steps  []step
}

func (t *trace) empty() bool { return len(t.raw) == 0 }

func (t *trace) print(out io.Writer, event string) error {
	if t.asJSON {
		for _, raw := range t.raw {
			if err := shown(out, true, raw); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if t.about.Len() == 0 {
		fmt.Fprintf(&t.about, "event\t%s is not in the log, or no more\n", event)
	}
	fmt.Fprint(table, t.about.String())
	slices.SortStableFunc(t.steps, func(a, b step) int { return a.at.Compare(b.at) })
	for _, s := range t.steps {
		fmt.Fprintf(table, "%s\t%s\t%s\n", s.at.Local().Format(time.DateTime), s.what, s.text)
	}
	return table.Flush()
}

// logged takes what an event is, and how it came into the log.
func (t *trace) logged(stored *api.StoredEvent) {
	out := &t.about
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
	t.steps = append(t.steps, step{stored.Stored, "logged", "the log has taken it"})
	if stored.Received != nil {
		came := map[string]string{"stream": "over the stream", "replay": "in the replay after a connect", "rest": "over REST, when a gap was filled"}
		t.steps = append(t.steps, step{*stored.Received, "received", came[stored.Via]})
	}
	if !event.Time.IsZero() && !event.Time.After(stored.Stored) {
		by := "by Nex"
		if strings.HasPrefix(event.Type, "nex.relay.") {
			by = "by the relay"
		}
		t.steps = append(t.steps, step{event.Time, "emitted", by})
	}
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
