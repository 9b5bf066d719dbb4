package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/config"
)

const endpointsPath = "/api/v1/endpoints"

// endpointsCmd is the endpoints of a running relay.
type endpointsCmd struct {
	List         endpointsList        `cmd:"" default:"withargs" help:"List them."`
	Show         endpointsShow        `cmd:"" help:"Show one."`
	Undelivered  endpointsUndelivered `cmd:"" help:"Count what one is still to get, and how old the oldest of it is."`
	Retry        endpointsRetry       `cmd:"" help:"Try now what has failed at one and waits for its next attempt."`
	Create       endpointsCreate      `cmd:"" help:"Make one: relay endpoints create url=https://… events=nex.insight.risk"`
	Change       endpointsChange      `cmd:"" help:"Change one: relay endpoints change crm rate_limit=10/s headers.X-Tenant=acme"`
	Delete       endpointsDelete      `cmd:"" help:"Delete one, with what waits for it."`
	Enable       endpointsEnable      `cmd:"" help:"Let one go on that was paused or disabled."`
	Disable      endpointsPause       `cmd:"" help:"Pause one: it keeps its place in the log."`
	Test         endpointsTest        `cmd:"" help:"Send one a test event, and show what it answers."`
	RotateSecret endpointsRotate      `cmd:"" help:"Replace its secrets; the old ones sign on for a while."`
}

type oneEndpoint struct {
	ID ident `arg:"" help:"The endpoint's id."`
}

func (e oneEndpoint) path(more ...string) string {
	return endpointsPath + "/" + string(e.ID) + strings.Join(more, "")
}

type endpointsList struct {
	admin
	Workspace string `help:"Only those that get events of this workspace."`
	State     string `help:"Only those that are active, paused or disabled."`
	Source    string `help:"Only those of the config file (config), or made over the API (api)."`
	Limit     uint   `short:"n" help:"At most so many; 0 = all."`
}

func (c *endpointsList) Run(ctx context.Context, e env) error {
	query := url.Values{}
	for key, value := range map[string]string{"workspace": c.Workspace, "state": c.State, "source": c.Source} {
		if value != "" {
			query.Set(key, value)
		}
	}
	err := listed(ctx, &c.admin, e.stdout, endpointsPath, query, int(c.Limit), "ID\tSTATE\tSOURCE\tEVENTS\tWORKSPACES\tURL", func(one *api.Endpoint) []any {
		workspaces := "all"
		if len(one.Workspaces) > 0 {
			workspaces = strings.Join(one.Workspaces, ",")
		}
		return []any{one.ID, one.State, one.Source, strings.Join(one.Events, ","), workspaces, printable(one.URL, 80)}
	})
	return inFlags(err, listFlags)
}

type endpointsShow struct {
	admin
	oneEndpoint
}

func (c *endpointsShow) Run(ctx context.Context, e env) error {
	return c.do(ctx, e, "GET", c.path(), nil)
}

type endpointsUndelivered struct {
	admin
	oneEndpoint
}

func (c *endpointsUndelivered) Run(ctx context.Context, e env) error {
	return c.do(ctx, e, "GET", c.path("/undelivered"), nil)
}

type endpointsRetry struct {
	admin
	oneEndpoint
	Since since `help:"Only what failed then or later: 2h, or a time."`
}

func (c *endpointsRetry) Run(ctx context.Context, e env) error {
	body := api.RetryWaiting{}
	if !c.Since.IsZero() {
		at := c.Since.UTC()
		body.Since = &at
	}
	for total := uint64(0); ; {
		answer, err := c.call(ctx, "POST", c.path("/retry"), nil, body)
		if err != nil {
			return err
		}
		var part api.Retried
		if err := json.Unmarshal(answer, &part); err != nil {
			return fmt.Errorf("read what is tried now: %w", err)
		}
		if total += part.Retried; part.More {
			continue
		}
		if c.JSON {
			return shown(e.stdout, true, fmt.Appendf(nil, `{"retried":%d}`, total))
		}
		fmt.Fprintf(e.stdout, "%s tried now\n", plural(int(total), "delivery is", "deliveries are"))
		return nil
	}
}

// do makes a request and prints the answer.
func (a *admin) do(ctx context.Context, e env, method, path string, body any, header ...string) error {
	answer, err := a.call(ctx, method, path, nil, body, header...)
	if err != nil {
		return err
	}
	return shown(e.stdout, a.JSON, answer)
}

type endpointsCreate struct {
	admin
	Fields         []string `arg:"" name:"field=value" help:"As in POST /api/v1/endpoints; lists by commas, headers.NAME=…, @FILE for what stands in a file."`
	IdempotencyKey string   `help:"A name for this request: who repeats it with the same makes nothing twice."`
}

func (c *endpointsCreate) Run(ctx context.Context, e env) error {
	body, err := fields(reflect.TypeFor[api.NewEndpoint](), c.Fields)
	if err != nil {
		return err
	}
	var header []string
	if c.IdempotencyKey != "" {
		header = []string{"Idempotency-Key", c.IdempotencyKey}
	}
	return c.do(ctx, e, "POST", endpointsPath, body, header...)
}

type endpointsChange struct {
	admin
	oneEndpoint
	Fields   []string `arg:"" name:"field=value" help:"What changes. headers.NAME= removes one."`
	Revision uint64   `help:"Only if this is still its revision; else the one that it has now."`
}

func (c *endpointsChange) Run(ctx context.Context, e env) error {
	body, err := fields(reflect.TypeFor[api.ChangeEndpoint](), c.Fields)
	if err != nil {
		return err
	}
	given := c.Revision != 0
	if !given {
		answer, err := c.call(ctx, "GET", c.path(), nil, nil)
		if err != nil {
			return err
		}
		var now api.Endpoint
		if err := json.Unmarshal(answer, &now); err != nil {
			return err
		}
		c.Revision = now.Revision
	}
	match := fmt.Sprintf("%q", fmt.Sprint(c.Revision))
	if c.Revision == 0 { // of the config file: the relay says so
		match = "*"
	}
	err = c.do(ctx, e, "PATCH", c.path(), body, "If-Match", match)
	var r *refusal
	switch {
	case !errors.As(err, &r) || r.status != http.StatusPreconditionFailed:
		return err
	case given:
		return fmt.Errorf("--revision %d is not the endpoint's: it was changed since; look at it with relay endpoints show %s, and give the one that it has", c.Revision, c.ID)
	}
	return fmt.Errorf("%s was changed by somebody else just now: look at it with relay endpoints show %s, and try again", c.ID, c.ID)
}

type endpointsDelete struct {
	admin
	oneEndpoint
}

func (c *endpointsDelete) Run(ctx context.Context, e env) error {
	return c.do(ctx, e, "DELETE", c.path(), nil)
}

type endpointsEnable struct {
	admin
	oneEndpoint
	Resume string `help:"What it gets of what came meanwhile: all, newest-first, latest-per-target, skip; else as it says itself."`
}

func (c *endpointsEnable) Run(ctx context.Context, e env) error {
	return inFlags(c.do(ctx, e, "POST", c.path("/enable"), api.Enable{Resume: c.Resume}), map[string]string{"resume": "--resume"})
}

type endpointsPause struct {
	admin
	oneEndpoint
}

func (c *endpointsPause) Run(ctx context.Context, e env) error {
	return c.do(ctx, e, "POST", c.path("/disable"), nil)
}

type endpointsTest struct {
	admin
	oneEndpoint
}

func (c *endpointsTest) Run(ctx context.Context, e env) error {
	answer, err := c.call(ctx, "POST", c.path("/test"), nil, nil)
	if err != nil {
		return err
	}
	var result api.TestResult
	if err := json.Unmarshal(answer, &result); err != nil {
		return err
	}
	if err := shown(e.stdout, c.JSON, answer); err != nil || result.Delivered {
		return err
	}
	return errors.New("the test was not delivered: " + string(result.Outcome))
}

type endpointsRotate struct {
	admin
	oneEndpoint
	Fields []string `arg:"" optional:"" name:"field=value" help:"secret=@FILE, signing_key=@FILE, signatures=v1,v1a, overlap=24h or 7d, revoke=true."`
}

func (c *endpointsRotate) Run(ctx context.Context, e env) error {
	body, err := fields(reflect.TypeFor[api.RotateSecret](), c.Fields)
	if err != nil {
		return err
	}
	if text, ok := body["overlap"].(string); ok {
		if d, err := config.ParseDuration(text); err == nil { // with days, as in the file
			body["overlap"] = d.String()
		}
	}
	return c.do(ctx, e, "POST", c.path("/rotate-secret"), body)
}
