package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/porttest"
)

// away is the API over a NATS that is no more there, with an endpoint crm, an attempt and dead letters of it. leave has it go.
func away(t *testing.T, leave func(*bus.Bus, *gate), change func(*api.Config)) http.Handler {
	t.Helper()
	port, err := porttest.Free()
	if err != nil {
		t.Fatal(err)
	}
	cfg := bustest.Config(t)
	cfg.Embedded.Listen = fmt.Sprintf("127.0.0.1:%d", port)
	nats := bustest.Open(t, cfg)
	g := newGate(t, cfg.Embedded.Listen)
	cfg.URL, cfg.Embedded = "nats://"+g.Addr().String(), bus.Embedded{}
	h, _, log, _ := fanoutOver(t, bustest.Open(t, cfg), change)
	past(t, log, "acme")
	answer(t, authorized(h, "POST", "/api/v1/endpoints", `{"id":"crm","url":"https://example.com","filter":"event.data.n == 1"}`), http.StatusCreated)
	leave(nats, g)
	return h
}

// gate passes on what a client and NATS say, until it is shut: then it says nothing more, as a host that has lost its power.
type gate struct {
	net.Listener
	shut atomic.Bool
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := porttest.Listen()
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: l}
	var all sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer all.Done()
		defer func() { _, _ = to.Close(), from.Close() }()
		for part := make([]byte, 32<<10); ; {
			n, err := from.Read(part)
			if err != nil {
				return
			}
			if g.shut.Load() {
				continue
			}
			if _, err := to.Write(part[:n]); err != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			all.Add(2)
			go pass(server, client)
			go pass(client, server)
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return g
}

// Whatever needs NATS says so while NATS does not answer, and the log does not repeat it with each request.
func TestNATSDoesNotAnswer(t *testing.T) {
	t.Parallel()
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		nothingAnswers(t, func(nats *bus.Bus, _ *gate) {
			if err := nats.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		nothingAnswers(t, func(_ *bus.Bus, g *gate) { g.shut.Store(true) })
	})
}

func nothingAnswers(t *testing.T, leave func(*bus.Bus, *gate)) {
	var log logBuffer
	h := away(t, leave, func(c *api.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	needNothing := map[string]bool{ // the relay knows it by itself
		"listWorkspaces": true, "listEndpoints": true, "getEndpoint": true, "listReplays": true, "webhookKeys": true, "getToken": true,
		"testEndpoint": true,
	}
	bodies := map[string]string{
		"createEndpoint": `{"url":"https://example.com"}`, "changeEndpoint": `{"description":"x"}`, "retryDeadLetters": `{"all":true}`,
		"deleteDeadLetters": `{"all":true}`, "replay": `{"before":99}`, "erase": `{"workspace":"acme"}`, "try": `{}`,
	}
	var all sync.WaitGroup
	ask := func(name, method, target, body string, header ...string) {
		all.Go(func() {
			w := do(h, method, target, body, append([]string{"Authorization", "Bearer " + token, "If-Match", "*"}, header...)...)
			var e api.Error
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != http.StatusServiceUnavailable || !strings.Contains(e.Message, "try again") {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		})
	}
	asked := 0
	for path, item := range document(t, h).Paths.Map() {
		for method, op := range item.Operations() {
			target := strings.NewReplacer("{id}", "crm", "{sequence}", "1", "{attempt}", "1", "{letter}", "1", "{replay}", "none").Replace(path)
			if !needNothing[op.OperationID] {
				ask(op.OperationID, method, target, bodies[op.OperationID])
				asked++
			}
		}
	}
	ask("dry run", "POST", "/api/v1/endpoints/crm/replay", `{"before":99,"dry_run":true}`)
	ask("erase, dry", "POST", "/api/v1/erase", `{"workspace":"acme","dry_run":true}`)
	ask("with a key", "POST", "/api/v1/endpoints/crm/disable", "", "Idempotency-Key", "k-1")
	ask("attempts of one that there is not", "GET", "/api/v1/attempts?endpoint=none", "")
	all.Wait()
	if asked < 20 {
		t.Errorf("only %d operations were asked", asked)
	}
	if text := log.String(); strings.Contains(text, "level=ERROR") || strings.Count(text, "level=WARN") >= asked || !strings.Contains(text, "NATS does not answer") {
		t.Errorf("the log says:\n%s", text)
	}
}
