//go:build unix

package chaos

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/nexsim"
)

var scale = flag.Int("chaos.scale", 0, "workspaces of the scale runs; 0 skips them")

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
		p, err := freePort()
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
