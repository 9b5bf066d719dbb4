package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/nex-crm/relay/internal/api"
)

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
	Since    since  `help:"Only those that are not older: 2h, 7d, or a time."`
	Until    since  `help:"Only those that are older."`
	Limit    uint   `short:"n" default:"50" help:"At most so many; 0 = all."`
}

func (c *deadList) Run(ctx context.Context, e env) error {
	if err := inOrder(c.Since, c.Until); err != nil {
		return err
	}
	query := url.Values{}
	for key, value := range map[string]string{"endpoint": c.Endpoint, "class": c.Class} {
		if value != "" {
			query.Set(key, value)
		}
	}
	c.Since.put(query, "from")
	c.Until.put(query, "to")
	err := listed(ctx, &c.admin, e.stdout, deadPath, query, int(c.Limit), "ID\tAT\tENDPOINT\tEVENT\tCLASS\tTRIES\tREASON\tERROR", func(d *api.DeadLetter) []any {
		text := d.Error
		if text == "" && d.Status != 0 {
			text = fmt.Sprint("answered ", d.Status)
		}
		return []any{d.ID, d.At.Local().Format(time.DateTime), d.Endpoint, printable(d.EventID, 40), d.Class, d.Attempts, d.Reason, printable(text, 80)}
	})
	return inFlags(err, listFlags)
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
	Letter   *uint64 `arg:"" optional:"" help:"One, by its id."`
	Endpoint string  `help:"Those of this endpoint."`
	Class    string  `help:"Those of this class."`
	Since    since   `help:"Those that are not older: 2h, 7d, or a time."`
	Until    since   `help:"Those that are older."`
	All      bool    `help:"Every one."`
}

// check refuses what names none, and one by its id that the filters might not mean.
func (w *whichLetters) check() error {
	filtered := w.Endpoint != "" || w.Class != "" || !w.Since.IsZero() || !w.Until.IsZero() || w.All
	switch {
	case w.Letter != nil && filtered:
		return usageError{errors.New("give one by its id, or many by --endpoint, --class, --since, --until or --all: not both")}
	case w.Letter == nil && !filtered:
		return usageError{errors.New("which ones? give an id, --endpoint, --class, --since, --until or --all")}
	}
	return inOrder(w.Since, w.Until)
}

// one makes a request about the one that is named by its id.
func (w *whichLetters) one(ctx context.Context, a *admin, e env, method, more string) error {
	return a.do(ctx, e, method, fmt.Sprint(deadPath, "/", *w.Letter, more), nil)
}

// selection is what a request about many is about.
func (w *whichLetters) selection() map[string]any {
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
	return body
}

// many repeats a request until nothing is left of what it is about. Where it could do nothing with any of them it fails.
func (w *whichLetters) many(ctx context.Context, a *admin, e env, what, done string) error {
	text, notes := e.stdout, e.stderr
	if a.JSON {
		text, notes = io.Discard, io.Discard // the answers say it
	}
	body, total, skipped, began := w.selection(), 0, 0, time.Now().UTC()
	for {
		answer, err := a.call(ctx, "POST", deadPath+"/"+what, nil, body)
		if err != nil {
			return inFlags(err, listFlags)
		}
		var bulk api.Bulk
		if err := json.Unmarshal(answer, &bulk); err != nil {
			return fmt.Errorf("read what was done: %w", err)
		}
		if a.JSON {
			if err := shown(e.stdout, true, answer); err != nil {
				return err
			}
		}
		total += bulk.Done
		skipped += bulk.Skipped
		for _, reason := range bulk.Reasons {
			fmt.Fprintln(notes, "skipped", reason)
		}
		if !bulk.More {
			break
		}
		fmt.Fprintf(text, "%d so far\n", total)
		body["after"] = bulk.Last
		if w.Until.IsZero() {
			body["to"] = began // not those that have died again meanwhile
		}
	}
	fmt.Fprintf(text, "%s %s, %d skipped\n", plural(total, "dead letter"), done, skipped)
	if total == 0 && skipped > 0 {
		return fmt.Errorf("none is %s: all were skipped", done)
	}
	return nil
}

type deadRetry struct {
	admin
	whichLetters
}

func (c *deadRetry) Run(ctx context.Context, e env) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Letter != nil {
		return c.one(ctx, &c.admin, e, "POST", "/retry")
	}
	return c.many(ctx, &c.admin, e, "retry", "on the way again")
}

type deadDelete struct {
	admin
	whichLetters
}

func (c *deadDelete) Run(ctx context.Context, e env) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Letter != nil {
		return c.one(ctx, &c.admin, e, "DELETE", "")
	}
	return c.many(ctx, &c.admin, e, "delete", "deleted")
}
