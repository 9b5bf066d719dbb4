//go:build unix

package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/porttest"
)

var (
	scale   = flag.Int("chaos.scale", 0, "workspaces of the scale runs; 0 skips them")
	logSize = flag.Int("chaos.log", 0, "events in the log of the run that reads it back; 0 skips it")
)

// scaled is a simulator with many workspaces and some relays on it.
type scaled struct {
	t      *testing.T
	n      int
	nex    *process
	nats   *process
	relays []*process
	apis   []string
}

func newScaled(t *testing.T, replicas int) *scaled {
	t.Helper()
	if *scale == 0 {
		t.Skip("asked for with -chaos.scale")
	}
	root := t.TempDir()
	binaries, err := Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	port := func() int {
		p, err := porttest.Free()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	s := &scaled{t: t, n: *scale}
	nexAddr := fmt.Sprintf("127.0.0.1:%d", port())
	s.nex = &process{name: "nex", log: filepath.Join(root, "nex.log"), args: []string{
		binaries.Relay, "simulate", "--addr", nexAddr, "--workspaces", "acme", "--count", fmt.Sprint(s.n - 1), "--rate", "50", "--size-max", "2048",
		"--journal", filepath.Join(root, "journal"), "--for", "20m",
	}}
	nats := fmt.Sprintf("nats: {embedded: {listen: \"\", store_dir: %q}}\n", filepath.Join(root, "store"))
	all := []*process{s.nex}
	if replicas > 1 {
		at := port()
		file := filepath.Join(root, "nats.conf")
		config := fmt.Sprintf("listen: 127.0.0.1:%d\nmax_payload: 8MB\njetstream { store_dir: %q }\n", at, filepath.Join(root, "nats"))
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		s.nats = &process{name: "nats", log: filepath.Join(root, "nats.log"), args: []string{binaries.NATS, "-c", file}}
		all = append(all, s.nats)
		nats = fmt.Sprintf("nats: {url: \"nats://127.0.0.1:%d\"}\n", at)
	}
	var list strings.Builder
	for i := range s.n {
		slug := "acme"
		if i > 0 {
			slug = fmt.Sprintf("ws-%d", i)
		}
		fmt.Fprintf(&list, "  - {name: %s, api_key: %s}\n", slug, nexsim.DefaultKey(slug))
	}
	for i := range replicas {
		at := port()
		config := fmt.Sprintf("nex: {base_url: \"http://%s/api/developers\"}\n%shttp: {listen: \"127.0.0.1:%d\"}\nlog: {level: warn}\nworkspaces:\n%s",
			nexAddr, nats, at, &list)
		file := filepath.Join(root, fmt.Sprintf("relay-%d.yaml", i))
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		s.apis = append(s.apis, fmt.Sprintf("http://127.0.0.1:%d", at))
		p := &process{name: "relay", log: filepath.Join(root, fmt.Sprintf("relay-%d.log", i)), args: []string{binaries.Relay, "run", "-c", file}}
		s.relays = append(s.relays, p)
		all = append(all, p)
	}
	for _, p := range all {
		t.Cleanup(p.kill)
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// metric sums a metric over the relays.
func (s *scaled) metric(name string) int {
	sum := 0
	for i, p := range s.relays {
		if p.running() {
			sum += s.metricOf(i, name)
		}
	}
	return sum
}

func (s *scaled) metricOf(i int, name string) int {
	resp, err := client.Get(s.apis[i] + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, _ := strconv.ParseFloat(value, 64)
			return int(f)
		}
	}
	return 0
}

// up waits until all streams are connected, and tells how long it took.
func (s *scaled) up(within time.Duration) time.Duration {
	s.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.t.Context(), within)
	defer cancel()
	err := until(ctx, func() error {
		if n := s.metric("relay_streams_connected"); n != s.n {
			return fmt.Errorf("%d of %d streams are up", n, s.n)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return time.Since(began)
}

// memory is the resident memory of a process in MB, now and at its highest since reset.
func memory(t *testing.T, p *process) (now, highest int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Skip("needs /proc")
	}
	for _, line := range strings.Split(string(status), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "VmRSS:":
			now = kb / 1024
		case "VmHWM:":
			highest = kb / 1024
		}
	}
	return now, highest
}

func resetHighest(p *process) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0o600)
}

// TestStorm is Nex going away and coming back for all streams of one relay.
func TestStorm(t *testing.T) {
	s := newScaled(t, 1)
	t.Logf("first start: all %d streams up in %v", s.n, s.up(3*time.Minute).Round(100*time.Millisecond))
	time.Sleep(20 * time.Second) // let the first gap checks pass
	before, _ := memory(t, s.relays[0])
	t.Logf("memory %d MB, %.1f KB a stream", before, float64(before)*1024/float64(s.n))
	for _, away := range []time.Duration{0, 30 * time.Second} {
		resetHighest(s.relays[0])
		s.nex.kill()
		time.Sleep(away)
		if err := s.nex.start(); err != nil {
			t.Fatal(err)
		}
		took := s.up(3 * time.Minute)
		time.Sleep(10 * time.Second)
		now, highest := memory(t, s.relays[0])
		t.Logf("away for %v: last stream back after %v; memory %d MB, %d MB at most (%+.0f %%)", away, took.Round(100*time.Millisecond), now, highest,
			100*float64(highest-before)/float64(before))
		if took > time.Minute {
			t.Errorf("the last stream was back after %v", took)
		}
		if highest > before*12/10 {
			t.Errorf("memory rose from %d to %d MB", before, highest)
		}
	}
}

// TestThreeReplicas is one of three replicas dying.
func TestThreeReplicas(t *testing.T) {
	s := newScaled(t, 3)
	t.Logf("all %d streams up in %v", s.n, s.up(5*time.Minute).Round(100*time.Millisecond))
	for i := range s.relays {
		now, highest := memory(t, s.relays[i])
		t.Logf("replica %d: %d streams, %d MB, %d MB at most", i, s.metricOf(i, "relay_streams_connected"), now, highest)
	}
	if err := s.relays[1].signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	took := s.up(3 * time.Minute)
	t.Logf("one killed: all up again after %v", took.Round(100*time.Millisecond))
	if took > time.Minute {
		t.Errorf("not within 60 s")
	}
	if err := s.relays[1].start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	err := until(ctx, func() error {
		if n := s.metricOf(1, "relay_streams_connected"); n < s.n/4 {
			return fmt.Errorf("it holds %d", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.up(time.Minute)
	t.Logf("started again: it had its share after %v", time.Since(began).Round(100*time.Millisecond))
}

// TestReadBack reads back what a workspace has in a large log, from a server in a process of its own, so that the memory
// measured is the relay's.
func TestReadBack(t *testing.T) {
	if *logSize == 0 {
		t.Skip("asked for with -chaos.log")
	}
	binaries, err := Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	port, err := porttest.Free()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	nats := &process{name: "nats", log: filepath.Join(root, "nats.log"), args: []string{
		binaries.NATS, "-js", "-a", "127.0.0.1", "-p", strconv.Itoa(port), "-sd", filepath.Join(root, "store"),
	}}
	t.Cleanup(nats.kill)
	if err := nats.start(); err != nil {
		t.Fatal(err)
	}
	log := bustest.Open(t, bus.Config{
		URL: fmt.Sprintf("nats://127.0.0.1:%d", port), Stream: bus.Limits{MaxAge: 24 * time.Hour, DuplicateWindow: time.Minute},
		Logger: slog.New(slog.DiscardHandler),
	})
	debug.SetGCPercent(50) // as relay run does
	at := time.Now()
	fillLog(t, log, *logSize, at)
	for _, c := range []struct {
		name, workspace string
		since           time.Time
	}{
		{"a workspace that wrote nearly all, the newest", "busy", time.Now()},
		{"the same, all of the last minutes", "busy", at.Add(-time.Hour)},
		{"one that wrote every 5,000th", "quiet", time.Now()},
		{"one that wrote before all others", "old", time.Now()},
		{"one that never wrote", "none", time.Now()},
		{"one that wrote the last fifth, all of the last minutes", "late", at.Add(-time.Hour)},
	} {
		var found int
		var took time.Duration
		peak := peakHeap(func() {
			began := time.Now()
			r, err := log.Recent(t.Context(), c.workspace, 24, c.since, 1<<14)
			if err != nil {
				t.Fatal(err)
			}
			found, took = len(r.Insights), time.Since(began)
		})
		t.Logf("%s: %d read back in %v, %.1f MB", c.name, found, took.Round(time.Millisecond), float64(peak)/(1<<20))
		if took > time.Second || peak > 20<<20 {
			t.Errorf("%s: over 1 s or 20 MB", c.name)
		}
	}
}

// fillLog puts n events into the log, four fifths of one workspace and then one of another, behind 500 of an old one, and
// each 5,000th of a quiet one.
func fillLog(t *testing.T, log *bus.Bus, n int, at time.Time) {
	t.Helper()
	var pending []*bus.Pending
	put := func(workspace string, i int) {
		id := fmt.Sprintf("%s-%d", workspace, i)
		e := &event.Event{
			Workspace: workspace, ID: id, Type: "nex.insight.risk", Time: at, Emitted: at, Fingerprint: event.Fingerprint(workspace, "risk", id),
			Data: json.RawMessage(`{"type":"risk","content":"` + strings.Repeat("x", 900) + `"}`),
		}
		p, err := log.PublishAsync(t.Context(), e, id)
		if err != nil {
			t.Fatal(err)
		}
		if pending = append(pending, p); len(pending) < 512 && i < n-1 {
			return
		}
		for _, p := range pending {
			if _, err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		pending = pending[:0]
	}
	for i := range 500 {
		put("old", i)
	}
	for i := range n {
		if i%5000 == 0 {
			put("quiet", i)
		}
		if i < n*4/5 {
			put("busy", i)
		} else {
			put("late", i)
		}
	}
}

// peakHeap is by how much the heap grew at most while f ran.
func peakHeap(f func()) uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, peak := m.HeapAlloc, m.HeapAlloc
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	f()
	close(done)
	<-stopped
	return peak - before
}
