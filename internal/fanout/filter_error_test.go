package fanout_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
)

// lines is a log that is read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// How a filter failed quotes the event. It is told to those who see the endpoint only while such events are its business, and
// the log does not say it.
func TestFilterErrorStaysInItsWorkspace(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	b.stop()
	var log lines
	b.logger = slog.New(slog.NewTextHandler(&log, nil))
	b.start()
	const filter = `int(event.data.content) > 3`
	b.create(&endpoint.Endpoint{ID: "crm", URL: "http://127.0.0.1:1/", Workspaces: []string{"acme", "globex"}, Filter: filter})
	told := func() (string, int) {
		said, ok := b.relay.FilterError(b.registry.Snapshot().Get("crm"))
		if !ok {
			return "", 0
		}
		return said.Error, said.Count
	}
	fails := func(workspace, id string, count int) {
		t.Helper()
		b.publishOf(workspace, "person/john", id)
		eventually(t, "the filter has failed", func() bool {
			text, n := told()
			return strings.Contains(text, "secret of "+workspace) && n == count
		})
	}
	change := func(workspaces []string, filter string) {
		t.Helper()
		if err := b.registry.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) {
			e.Workspaces, e.Filter = workspaces, filter
			var err error
			e.Changed, _, err = b.relay.EndOfLog(t.Context())
			return true, err
		}); err != nil {
			t.Fatal(err)
		}
	}
	isTold := func(want bool, when string) {
		t.Helper()
		if text, _ := told(); (text != "") != want {
			t.Errorf("%s: %q", when, text)
		}
	}
	fails("acme", "a-1", 1)
	fails("acme", "a-2", 2)
	change([]string{"globex"}, filter)
	isTold(false, "moved to another workspace")
	change([]string{"acme"}, filter)
	isTold(true, "as before")
	change([]string{"acme"}, `event.data.confidence > 0`)
	isTold(false, "with another filter")
	change([]string{"acme", "globex"}, "true && "+filter)
	fails("globex", "g-1", 1)
	const line = "a filter fails on an event"
	eventually(t, "the log says so", func() bool { return strings.Count(log.String(), line) >= 2 }) // after it is told
	if text := log.String(); strings.Contains(text, "secret of") || strings.Count(text, line) != 2 || !strings.Contains(text, "event=a-1") {
		t.Errorf("the log, once for each filter and without the event's content: %s", text)
	}
	erase := func(workspace string) {
		t.Helper()
		if _, err := b.relay.Erase(t.Context(), fanout.Erasure{Workspace: workspace}); err != nil {
			t.Fatal(err)
		}
	}
	erase("acme")
	isTold(true, "after an erasure of another workspace")
	erase("globex")
	isTold(false, "after an erasure")
}
