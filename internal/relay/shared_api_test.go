package relay_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/porttest"
	"github.com/nex-crm/relay/internal/relay"
	"github.com/nex-crm/relay/internal/webhook"
)

// cluster is a NATS of its own and the configuration of relays on it that have nothing but their API.
type cluster struct {
	t   *testing.T
	dir string
	url string
}

func newCluster(t *testing.T) *cluster {
	s := startNATS(t, server.RANDOM_PORT, t.TempDir())
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return &cluster{t: t, dir: t.TempDir(), url: s.ClientURL()}
}

// file is the configuration of a relay that listens on an address.
func (c *cluster) file(listen string) string {
	c.t.Helper()
	name := filepath.Join(c.dir, strings.NewReplacer(":", "-", ".", "-").Replace(listen)+".yaml")
	text := fmt.Sprintf("nats: {url: %q}\nwebhooks: {allow_http: true, allow_networks: [127.0.0.0/8], encryption_key: %s}\nhttp: {listen: %q}\n",
		c.url, base64.StdEncoding.EncodeToString(make([]byte, 32)), listen)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return name
}

// replica runs a relay in this process until the test ends.
func (c *cluster) replica() *running {
	c.t.Helper()
	w := &world{t: c.t, dir: c.dir, log: &logBuffer{}}
	if err := os.Rename(c.file("127.0.0.1:0"), filepath.Join(c.dir, "relay.yaml")); err != nil {
		c.t.Fatal(err)
	}
	return w.start()
}

// asFile is the variable that makes of a test a relay with that configuration.
const asFile = "RELAY_TEST_AS_FILE"

// TestAsRelay is no test: it is the relay that [cluster.process] starts.
func TestAsRelay(t *testing.T) {
	file := os.Getenv(asFile)
	if file == "" {
		t.Skip("it is started by another test")
	}
	cfg, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(relay.Options{Config: cfg, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(context.Background()); err != nil { // until it is killed
		t.Fatal(err)
	}
}

// process runs a relay in a process of its own until it is killed with SIGKILL.
func (c *cluster) process(listen string) (kill func()) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAsRelay$")
	cmd.Env = append(os.Environ(), asFile+"="+c.file(listen))
	var log logBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c.t.Cleanup(func() {
		kill()
		if c.t.Failed() {
			c.t.Logf("the killed relay's log:\n%s", &log)
		}
	})
	eventually(c.t, "the relay in its own process is up", func() bool {
		resp, err := http.Get("http://" + listen + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode == http.StatusOK
	})
	return kill
}

// ask makes a request of one of the relays and answers its status and ETag.
func (c *cluster) ask(addr, method, path, body, match string, into any) (code int, etag string) {
	c.t.Helper()
	req, err := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if match != "" {
		req.Header.Set("If-Match", match)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Error(err)
	}
	if into != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(content, into); err != nil {
			c.t.Errorf("%s %s: %v in %s", method, path, err, content)
		}
	}
	return resp.StatusCode, resp.Header.Get("ETag")
}

// publish writes n events with a content to the log and answers their ids.
func (c *cluster) publish(n int, content string) (ids []string) {
	c.t.Helper()
	nc, err := nats.Connect(c.url)
	if err != nil {
		c.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range n {
		e := &event.Event{Workspace: "acme", ID: fmt.Sprintf("evt_%05d", i), Type: "nex.insight.risk", Time: time.Now(), Data: []byte(`{"type":"risk","content":"` + content + `"}`), Traceparent: event.NewTraceparent()}
		msg := &nats.Msg{Subject: e.NATSSubject(), Data: e.JSON(), Header: nats.Header{nats.MsgIdHdr: {e.ID}}}
		if _, err := js.PublishMsgAsync(msg, jetstream.WithStallWait(patience)); err != nil {
			c.t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		c.t.Fatal("the log does not take the events")
	}
	return ids
}

// Two replicas have one API: what is made at one is known at the other, of two who change one revision one wins, and a replay that
// was begun at one is seen and canceled at the other.
func TestReplicasShareTheAPI(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.replica().Addr(), c.replica().Addr()
	c.publish(10, "x")
	const crm = "/api/v1/endpoints/crm"
	if code, _ := c.ask(a, "POST", "/api/v1/endpoints", `{"id":"crm","url":"http://127.0.0.1:9/","enabled":false}`, "", nil); code != http.StatusCreated {
		t.Fatalf("create: %d", code)
	}
	eventually(t, "the other replica knows it", func() bool {
		code, _ := c.ask(b, "GET", crm, "", "", nil)
		return code == http.StatusOK
	})
	const rounds = 50
	won := map[string]int{}
	for i := range rounds {
		_, etag := c.ask(a, "GET", crm, "", "", nil)
		var wg sync.WaitGroup
		codes := map[string]int{}
		var mu sync.Mutex
		for name, addr := range map[string]string{"a": a, "b": b} {
			wg.Go(func() {
				code, _ := c.ask(addr, "PATCH", crm, fmt.Sprintf(`{"description":"%s-%d"}`, name, i), etag, nil)
				mu.Lock()
				defer mu.Unlock()
				codes[name] = code
			})
		}
		wg.Wait()
		winner, loser := "a", "b"
		if codes["b"] == http.StatusOK {
			winner, loser = "b", "a"
		}
		if codes[winner] != http.StatusOK || codes[loser] != http.StatusPreconditionFailed {
			t.Fatalf("round %d: %v", i, codes)
		}
		won[winner]++
		eventually(t, "both show the winner's", func() bool {
			for _, addr := range []string{a, b} {
				var e api.Endpoint
				if c.ask(addr, "GET", crm, "", "", &e); e.Description != fmt.Sprintf("%s-%d", winner, i) {
					return false
				}
			}
			return true
		})
	}
	t.Logf("won: %v", won)

	var begun api.Replay
	if code, _ := c.ask(a, "POST", crm+"/replay", `{"after":0,"before":11}`, "", &begun); code != http.StatusAccepted {
		t.Fatalf("replay: %d", code)
	}
	state := func(addr string) string {
		var list struct{ Data []api.Replay }
		c.ask(addr, "GET", crm+"/replays", "", "", &list)
		for _, r := range list.Data {
			if r.ID == begun.ID {
				return r.State
			}
		}
		return ""
	}
	eventually(t, "the other replica sees it wait for the pause to end", func() bool { return state(b) == "waiting" })
	if code, _ := c.ask(b, "DELETE", crm+"/replays/"+begun.ID, "", "", nil); code != http.StatusNoContent {
		t.Errorf("cancel: %d", code)
	}
	eventually(t, "the first sees that it is canceled", func() bool { return state(a) == "canceled" })
	if code, _ := c.ask(a, "DELETE", crm+"/replays/"+begun.ID, "", "", nil); code != http.StatusNotFound {
		t.Errorf("cancel again: %d", code)
	}
}

// slowly is how many events with a content a filter is asked about for eight seconds at least: as many as it is when nothing else
// keeps this machine busy, since that may pass.
func slowly(t *testing.T, filter, content string) int {
	t.Helper()
	e := &endpoint.Endpoint{ID: "crm", URL: "https://example.com", Secrets: []webhook.Secret{webhook.GenerateSecret()}, Filter: filter}
	if err := e.Validate(endpoint.Limits{}); err != nil {
		t.Fatal(err)
	}
	fastest := time.Hour
	for range 50 {
		began := time.Now()
		if ok, err := e.WantsContent(endpoint.NewView("acme", []byte(`{"specversion":"1.0","data":{"content":"`+content+`"}}`))); !ok || err != nil {
			t.Fatalf("%v %v", ok, err)
		}
		fastest = min(fastest, time.Since(began))
	}
	return min(int(8*time.Second/fastest)+1, 10_000)
}

// A replay whose relay is killed in the middle goes on: when that is started again, and at another replica. Nothing is missing.
func TestReplayOutlivesItsRelay(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until a silent replica is given up")
	}
	t.Parallel()
	c := newCluster(t)
	var mu sync.Mutex
	got := map[string]int{}
	came := make(chan struct{}, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		got[r.Header.Get(webhook.HeaderID)]++
		select {
		case came <- struct{}{}:
		default:
		}
	}))
	t.Cleanup(receiver.Close)
	has := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(got)
	}
	listen, err := porttest.Free()
	if err != nil {
		t.Fatal(err)
	}
	first := net.JoinHostPort("127.0.0.1", fmt.Sprint(listen))
	kill := c.process(first)
	const filter = `event.data.content matches "(a|b|c|ab|bc)*d(a|b|c)*d$"` // takes all of them, and its time
	content := strings.Repeat("abcab", 4000) + "dd"
	n := slowly(t, filter, content)
	ids := c.publish(n, content)
	const crm = "/api/v1/endpoints/crm"
	if code, _ := c.ask(first, "POST", "/api/v1/endpoints", `{"id":"crm","url":"`+receiver.URL+`","max_in_flight":4}`, "", nil); code != http.StatusCreated {
		t.Fatalf("create: %d", code)
	}
	var begun api.Replay
	which := fmt.Sprintf(`{"after":0,"before":%d,"filter":%q}`, n+1, filter)
	if code, _ := c.ask(first, "POST", crm+"/replay", which, "", &begun); code != http.StatusAccepted {
		t.Fatalf("replay: %d", code)
	}
	running := func(addr string) (r api.Replay) {
		var list struct{ Data []api.Replay }
		c.ask(addr, "GET", crm+"/replays", "", "", &list)
		for _, r = range list.Data {
			if r.ID == begun.ID {
				return r
			}
		}
		t.Fatal("the replay is gone")
		return r
	}
	for life := range 2 {
		before := running(first)
		for begin := has(); has() < begin+20 && running(first).Read == before.Read; {
			time.Sleep(10 * time.Millisecond)
		}
		if r := running(first); r.State != "running" || has() == n {
			t.Fatalf("it was to be killed in the middle: %+v, %d delivered", r, has())
		}
		kill()
		if life == 0 {
			kill = c.process(first)
		}
	}
	second := c.replica().Addr()
	began := time.Now()
	// It waits for 15 s until it takes the dead one for dead.
	eventually(t, "the other replica ends it", func() bool { return running(second).State == "done" })
	t.Logf("done at the other replica after %v, %d have come", time.Since(began), has())
	// What the dead one had taken from the backlog comes again when JetStream no longer waits for it, after 30 s.
	for deadline := time.After(2 * patience); has() < n; {
		select {
		case <-came:
		case <-deadline:
			t.Fatalf("%d of %d have come", has(), n)
		}
	}
	t.Logf("all have come after %v", time.Since(began))
	mu.Lock()
	defer mu.Unlock()
	again := 0
	for _, id := range ids {
		if got[id] == 0 {
			t.Errorf("%s is missing", id)
		}
		again += got[id] - 1
	}
	t.Logf("%d of %d came, %d of them again", len(got), n, again)
}
