package relay_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/nex-crm/relay/internal/lease"
	"github.com/nex-crm/relay/internal/porttest"
	"github.com/nex-crm/relay/internal/relay"
)

func startNATS(t *testing.T, port int, dir string) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("nats-server does not start")
	}
	return s
}

// replica runs a relay on a NATS of others until the function that it returns is called.
func (w *world) replica(url string) (*relay.Relay, func()) {
	w.t.Helper()
	cfg, err := w.load()
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.NATS.URL = url
	r, err := relay.New(relay.Options{Config: cfg, Logger: slog.New(slog.NewTextHandler(w.log, nil)), Version: "test"})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	}
}

func readiness(t *testing.T, r *relay.Relay) (code int, checks map[string]bool) {
	t.Helper()
	resp, err := http.Get("http://" + r.Addr() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Checks map[string]bool `json:"checks"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer.Checks
}

// Readiness tells the truth while NATS is away for longer than a lease, and the replicas go on afterwards.
func TestReplicasWhileNATSIsAway(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer than a lease")
	}
	t.Parallel()
	w := newWorld(t, "acme", "globex", "initech")
	dir := t.TempDir()
	port, err := porttest.Free() // it comes back there
	if err != nil {
		t.Fatal(err)
	}
	s := startNATS(t, port, dir)
	url := s.ClientURL()
	a, stopA := w.replica(url)
	defer stopA()
	b, stopB := w.replica(url)
	defer stopB()
	ready := func() bool {
		codeA, _ := readiness(t, a)
		codeB, _ := readiness(t, b)
		return codeA == 200 && codeB == 200 && a.Connected()+b.Connected() == 3
	}
	eventually(t, "both are ready and hold all", ready)
	if len(a.Workspaces()) != 3 || len(b.Workspaces()) != 3 {
		t.Errorf("each shows all workspaces: %d and %d", len(a.Workspaces()), len(b.Workspaces()))
	}
	w.sim.Emit("acme", 2)
	w.webhooks(2)

	s.Shutdown()
	s.WaitForShutdown()
	eventually(t, "both say that NATS is away", func() bool {
		codeA, checksA := readiness(t, a)
		codeB, checksB := readiness(t, b)
		return codeA == 503 && codeB == 503 && !checksA["nats"] && !checksB["nats"]
	})
	eventually(t, "neither believes to hold anything", func() bool {
		_, checksA := readiness(t, a)
		_, checksB := readiness(t, b)
		return !checksA["leases"] && !checksB["leases"] && a.Connected()+b.Connected() == 0
	})
	if lease.TTL > 20*time.Second {
		t.Error("a dead replica's streams must be held again within 20 s")
	}
	w.sim.Emit("globex", 30)
	s = startNATS(t, port, dir)
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	eventually(t, "both are ready again", ready)
	w.webhooks(30)
}
