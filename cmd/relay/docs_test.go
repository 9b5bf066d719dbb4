package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/webhook"
)

var update = flag.Bool("update", false, "write what the commands of docs/cli.md print into it")

const cliDoc = "../../docs/cli.md"

var (
	consoleBlock = regexp.MustCompile("(?s)```console\n(.*?)```")
	// What is another in each run, as the document shows it.
	varying = []struct {
		pattern *regexp.Regexp
		as      string
	}{
		{regexp.MustCompile(`evt_[a-z2-7]{32}`), "evt_4mjtvs5rqk6xw2hq7bz3nfd6ya5cgpeu"},
		{regexp.MustCompile(`news_[a-z2-7]{26}`), "news_4mjtvs5rqk6xw2hq7bz3nfd6ya"},
		{regexp.MustCompile(`whev_[a-z2-7]+`), "whev_q4x7rjv2k5nwd6ym"},
		{regexp.MustCompile(`whsec_[A-Za-z0-9+/=]+`), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "2026-02-05T10:30:00Z"},
		{regexp.MustCompile(`(in )\d+\.\d( ms)`), "${1}1.5${2}"},
		{regexp.MustCompile(`(?m)^(trace +)\w{32}`), "${1}0af7651916cd43dd8448eb211c80319c"},
		{regexp.MustCompile(`(sequence )\d+`), "${1}4"},
		{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "2026-02-05 10:30:00"},
		{regexp.MustCompile(`"duration_ms": [\d.]+`), `"duration_ms": 1.5`},
		{regexp.MustCompile(`  \d+\.\d +(\w)`), "  1.5  ${1}"},
		{regexp.MustCompile(`MS +THEN`), "MS   THEN"},
		{regexp.MustCompile(`(?m)^\d+ +(2026-.*  1\.5  )`), "8   ${1}"}, // attempts at two endpoints mix
		{regexp.MustCompile(`(?m)^\w{12}: (running|waiting).*\n`), ""},
		{regexp.MustCompile(`\b\w{12}(: done,|  done  )`), "rwq5txk3vzma${1}"},
		{regexp.MustCompile(`\d+ of \d+ read`), "8 of 8 read"},
		{regexp.MustCompile(`(2026-02-05 10:30:00)  2 .*`), "${1}  2     9   8     3"},
		{regexp.MustCompile(`"to": \d+`), `"to": 9`},
		{regexp.MustCompile(`("sequence": )\d+`), "${1}4"},
		{regexp.MustCompile(`("revision": ?)\d+`), "${1}3"}, // other writes count too
		{regexp.MustCompile(`,"position":\d+`), ""},         // until it is given up
		{regexp.MustCompile(`(webhook-timestamp"?: "?)\d+`), "${1}1770287400"},
		{regexp.MustCompile(`(relay-sequence: )\d+`), "${1}4"},
		{regexp.MustCompile(`(traceparent"?: "?)[0-9a-f-]{55}`), "${1}00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{regexp.MustCompile(`("size": )\d+`), "${1}314"},
		{regexp.MustCompile(`("crc32c": )\d+`), "${1}331569352"},
		{regexp.MustCompile(`(date"?: "?).* GMT`), "${1}Thu, 05 Feb 2026 10:30:00 GMT"},
		{regexp.MustCompile(`(?m)^(\{"specversion":.{60}).*$`), "${1}…"}, // an event is long
		{regexp.MustCompile(`(?m)[ \t]+$`), ""},
	}
)

// TestCLIDocument runs every command that docs/cli.md shows, in its order, against one relay, and wants what it shows. With -update
// it writes it.
func TestCLIDocument(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(cliDoc)
	if err != nil {
		t.Fatal(err)
	}
	w := newCLIWorld(t)
	fresh := consoleBlock.ReplaceAllFunc(doc, func(block []byte) []byte {
		var out strings.Builder
		out.WriteString("```console\n")
		for line := range strings.Lines(string(consoleBlock.FindSubmatch(block)[1])) {
			if command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
				fmt.Fprintf(&out, "$ %s\n%s", command, w.run(command))
			}
		}
		return []byte(out.String() + "```")
	})
	if *update {
		if err := os.WriteFile(cliDoc, fresh, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(fresh, doc) {
		file := filepath.Join(t.TempDir(), "cli.md")
		_ = os.WriteFile(file, fresh, 0o600)
		old, now := strings.Split(string(doc), "\n"), strings.Split(string(fresh), "\n")
		for i := range max(len(old), len(now)) {
			if i >= len(old) || i >= len(now) || old[i] != now[i] {
				t.Fatalf("docs/cli.md is not what the commands print; go test ./cmd/relay -run CLIDocument -update writes it. Line %d:\n%s\nprinted:\n%s",
					i+1, strings.Join(old[i:min(i+3, len(old))], "\n"), strings.Join(now[i:min(i+3, len(now))], "\n"))
			}
		}
	}
}

// cliWorld is what the commands of the document are run against: a relay with one endpoint, and a receiver whose path /broken answers
// 500 until it is mended.
type cliWorld struct {
	t        *testing.T
	relay    string
	receiver string
	sim      string
	mended   chan struct{}
	seen     map[string]int // entries of each list
	died     string         // the id of an event that was a dead letter
}

func newCLIWorld(t *testing.T) *cliWorld {
	w := &cliWorld{t: t, mended: make(chan struct{}), seen: map[string]int{}}
	receiver := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-w.mended:
		default:
			if strings.HasPrefix(r.URL.Path, "/broken") {
				rw.WriteHeader(http.StatusInternalServerError)
			}
		}
	}))
	t.Cleanup(receiver.Close)
	w.receiver = strings.TrimPrefix(receiver.URL, "http://")
	sim := start(t, nil, "simulate", "--addr", "127.0.0.1:0", "--workspaces", "acme", "--rate", "0", "--size-max", "2048")
	base := sim.out.await(t, `base_url +(\S+)`)
	w.sim = strings.TrimSuffix(base, "/api/developers")
	dir := t.TempDir()
	for name, text := range map[string]string{"s.secret": webhook.GenerateSecret().Reveal(), "relay.yaml": fmt.Sprintf(`
nex: {base_url: "%s"}
workspaces: [{name: acme, api_key: %s}]
nats: {embedded: {listen: "", store_dir: "%s/nats"}}
webhooks: {allow_http: true, allow_networks: [127.0.0.0/8], schedule: [0s], jitter: 0}
endpoints: [{id: crm-sync, url: "%s/crm", secret_file: s.secret}]
http: {listen: "127.0.0.1:0", admin_token: a-token-of-the-test}
`, base, nexsim.DefaultKey("acme"), dir, receiver.URL)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	relay := start(t, []string{"RELAY_LOG__FORMAT=json"}, "run", "-c", filepath.Join(dir, "relay.yaml"))
	w.relay = "http://" + relay.err.await(t, `"relay is up".*"http":"([^"]+)"`)
	relay.err.await(t, `stream connected`)
	return w
}

// run runs one line of the document and answers what it prints, as the document shows it.
func (w *cliWorld) run(command string) string {
	w.t.Helper()
	switch command {
	case "# the receiver is mended":
		close(w.mended)
		return ""
	case "# three insights come":
		for range 3 { // one after the other: which one dies first is to be the same each time
			emit(w.t, w.sim, 1)
			w.await("deliveries", 2) // to two endpoints
			w.await("dead", 1)
		}
		return ""
	}
	command = strings.ReplaceAll(command, "127.0.0.1:9000", w.receiver)
	command = strings.ReplaceAll(command, "<an event that died>", w.died)
	if strings.Contains(command, "<a failed attempt>") {
		_, out, _ := call(w.t, nil, "deliveries", "--failed", "-n", "1", "--json", "--relay", w.relay, "--token", "a-token-of-the-test")
		var a struct{ ID uint64 }
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			w.t.Fatalf("%v in %s", err, out)
		}
		command = strings.ReplaceAll(command, "<a failed attempt>", strconv.FormatUint(a.ID, 10))
	}
	args := strings.Fields(command)
	if args[0] != "relay" {
		w.t.Fatalf("%q is no command of the relay", command)
	}
	if args = args[1:]; args[0] != "bench" { // which asks no relay
		args = append(args, "--relay", w.relay, "--token", "a-token-of-the-test")
	}
	_, out, errs := call(w.t, nil, args...)
	if m := regexp.MustCompile(`"event_id": "(evt_\w+)"`).FindStringSubmatch(out); m != nil && strings.HasPrefix(command, "relay dead retry") {
		w.died = m[1]
	}
	text := strings.ReplaceAll(out+errs, w.receiver, "127.0.0.1:9000")
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.as)
	}
	if n := againPattern.FindStringSubmatch(out); n != nil {
		more, _ := strconv.Atoi(n[1])
		w.await("deliveries", more)
	} else if strings.HasPrefix(command, "relay deliveries retry") || strings.HasPrefix(command, "relay endpoints test") || command == "relay dead retry 1" {
		w.await("deliveries", 1)
	}
	return text
}

// againPattern finds how many events a command has had delivered again.
var againPattern = regexp.MustCompile(`(\d+) (?:dead letters? on the way|queued\n$)`)

// await waits until a list has grown by so many entries since it was last waited for.
func (w *cliWorld) await(list string, more int) {
	w.t.Helper()
	w.seen[list] += more
	for deadline := time.Now().Add(patience); ; {
		_, out, errs := call(w.t, nil, list, "--json", "-n", "0", "--relay", w.relay, "--token", "a-token-of-the-test")
		if n := strings.Count(out, "\n"); n >= w.seen[list] {
			return
		} else if time.Now().After(deadline) {
			w.t.Fatalf("%d of %d %s: %s", n, w.seen[list], list, errs)
		}
	}
}
