package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/api"
)

type deliveriesShow struct {
	admin
	Attempt uint64 `arg:"" help:"The attempt's id, as deliveries list shows it."`
}

// bodyShown is how much of a body is printed for people to read, in characters.
const bodyShown = 400

func (c *deliveriesShow) Run(ctx context.Context, e env) error {
	answer, err := c.call(ctx, "GET", fmt.Sprint("/api/v1/attempts/", c.Attempt), nil, nil)
	if err != nil {
		return err
	}
	if c.JSON {
		return shown(e.stdout, true, answer)
	}
	var a api.OneAttempt
	if err := json.Unmarshal(answer, &a); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "%s  attempt %d of %s at %s\n\n", a.At.Local().Format(time.DateTime), a.Attempt.Attempt.Attempt, a.EventID, a.Endpoint)
	printRequest(e.stdout, &a)
	printAnswer(e.stdout, &a)
	return nil
}

func printRequest(out io.Writer, a *api.OneAttempt) {
	if a.Request == nil {
		fmt.Fprintln(out, "request: not recorded, or none could be made")
		return
	}
	fmt.Fprintf(out, "%s %s\n", a.Request.Method, a.Request.URL)
	printHeaders(out, a.Request.Headers)
	body := &a.RequestBody
	switch {
	case body.Missing != "":
		fmt.Fprintf(out, "\n(%d bytes; %s)\n", a.Request.Size, body.Missing)
	case !body.Exact:
		fmt.Fprintf(out, "\n(%d bytes; not as below, the endpoint has another shape by now)\n%s\n", a.Request.Size, printable(body.Text, bodyShown))
	case body.Base64 != nil:
		fmt.Fprintf(out, "\n(%d bytes, no text; --json shows them)\n", a.Request.Size)
	default:
		fmt.Fprintf(out, "\n%s\n", printable(body.Text, bodyShown))
	}
}

func printAnswer(out io.Writer, a *api.OneAttempt) {
	fmt.Fprintf(out, "\n%s\n", attempted(&a.Attempt))
	printHeaders(out, a.ResponseHeaders)
	if a.Response != "" {
		fmt.Fprintf(out, "\n%s\n", printable(a.Response, bodyShown))
	}
}

func printHeaders(out io.Writer, headers map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		fmt.Fprintf(out, "%s: %s\n", printable(name, 100), printable(headers[name], 300))
	}
}
