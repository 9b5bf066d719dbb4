package bench

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// What comes again is no throughput: it reaches no mark, and is told.
func TestDoubles(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	defer r.close()
	ctx := t.Context()
	urls, err := r.open(ctx, openArgs{Ports: 2})
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	postTo := func(host, path string, m *message) {
		t.Helper()
		to, err := parseAll([]string{host + path})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.post(ctx, transport, to[0]); err != nil && path != "/x/fail?e=1" {
			t.Error(err)
		}
	}
	post := func(path string, m *message) { t.Helper(); postTo(urls[0], path, m) }
	one, other := newMessage(1, time.Now()), newMessage(2, time.Now())
	if _, err := r.watch(ctx, watchArgs{Name: "x", Marks: []int64{4}}); err != nil {
		t.Fatal(err)
	}
	post("/x/fail?e=1", one) // a refusal is tried again
	post("/x/?e=1", one)
	post("/x/?e=2", one)
	postTo(urls[1], "/x/?e=1", one) // another endpoint: its host is
	post("/x/?e=1", one)            // a double
	post("/"+boundName+"/", one)
	post("/"+boundName+"/", one)
	soon, cancel := context.WithCancel(ctx)
	cancel()
	if at, err := r.wait(soon, waitArgs{Name: "x", Seconds: 30}); err == nil {
		t.Errorf("three webhooks and a double have reached the fourth mark: %v", at)
	}
	post("/x/?e=1", other)
	if at, err := r.wait(ctx, waitArgs{Name: "x", Seconds: 30}); err != nil {
		t.Errorf("%v, %v", at, err)
	}
	if _, err := r.watch(ctx, watchArgs{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	post("/x/?e=1", other) // also where it is counted anew
	if got, err := r.answered(ctx, nothing{}); err != nil || got != (answered{N: 6, Doubled: 2}) {
		t.Errorf("%+v, %v", got, err)
	}
	if one.header.Get(webhook.HeaderID) == "" {
		t.Error("a loop's posts have no id")
	}
}
