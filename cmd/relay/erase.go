package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nex-crm/relay/internal/api"
)

// eraseCmd removes what a running relay stores of a workspace, or of one of its subjects.
type eraseCmd struct {
	admin
	Workspace string `required:"" help:"The workspace, also one that is not configured any more."`
	Subject   string `help:"Only what is about this subject, e.g. 'person/John Smith'."`
	Overwrite bool   `help:"Have the bytes overwritten on disk at once: some 5 ms for each event, attempt and dead letter."`
	Yes       bool   `help:"Remove it. Without this it is only counted."`
}

func (c *eraseCmd) Run(ctx context.Context, e env) error {
	var total api.Erased
	for {
		answer, err := c.call(ctx, "POST", "/api/v1/erase", nil,
			api.Erase{Workspace: c.Workspace, Subject: c.Subject, DryRun: !c.Yes, Overwrite: c.Overwrite})
		if err != nil {
			return err
		}
		var part api.Erased
		if err := json.Unmarshal(answer, &part); err != nil {
			return fmt.Errorf("read what was erased: %w", err)
		}
		if c.Yes {
			part.Events += total.Events
			part.Attempts += total.Attempts
			part.Retries += total.Retries
			part.DeadLetters += total.DeadLetters
		}
		total = part
		if total.Done {
			break
		}
		if !c.Yes {
			return errors.New("there is more than can be counted in one request: give --yes to remove it, part by part")
		}
		fmt.Fprintln(e.stderr, "so far:", erased(&total))
	}
	if c.JSON {
		text, err := json.Marshal(total)
		if err != nil {
			return err
		}
		return shown(e.stdout, true, text)
	}
	if c.Yes {
		fmt.Fprintln(e.stdout, "erased:", erased(&total))
		return nil
	}
	fmt.Fprintln(e.stdout, "to be erased:", erased(&total))
	fmt.Fprintln(e.stdout, "nothing has been removed: --yes does")
	return nil
}

func erased(e *api.Erased) string {
	return fmt.Sprintf("%s, %s, %s, %s", plural(int(e.Events), "event"), plural(int(e.Attempts), "attempt"),
		plural(int(e.Retries), "delivery that waited", "deliveries that waited"), plural(int(e.DeadLetters), "dead letter"))
}
