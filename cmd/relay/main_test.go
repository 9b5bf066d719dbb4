package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/webhook"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == benchPartName { // relay bench has started this binary
		main()
	}
	goleak.VerifyTestMain(m)
}

const patience = 2 * time.Minute

// output is what a command prints, readable while it runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await returns the first submatch of a pattern in what was printed.
func (o *output) await(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(o.String()); m != nil {
			return m[len(m)-1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q was not printed in:\n%s", pattern, o)
		}
	}
}

// command is a command under way.
type command struct {
	out, err *output
	stop     func() int
	wait     func() int // until it ends by itself
}

func start(t *testing.T, vars []string, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &command{out: &output{}, err: &output{}}
	code := make(chan int, 1)
	go func() { code <- run(ctx, args, env{vars: vars, stdout: c.out, stderr: c.err}) }()
	c.wait = sync.OnceValue(func() int { return <-code })
	c.stop = func() int { cancel(); return c.wait() }
	t.Cleanup(func() { c.stop() })
	return c
}

// call runs a command to its end.
func call(t *testing.T, vars []string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code = run(ctx, args, env{vars: vars, stdout: &o, stderr: &e})
	return code, o.String(), e.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	faulty := filepath.Join(dir, "faulty.yaml")
	if err := os.WriteFile(faulty, []byte("nex: {idle_timeout: soon}\nworkspaces: [{name: acme, api_key_env: NOT_SET}]\noops: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		want []string // in stdout for 0, else in stderr
	}{
		{"--help", 0, []string{"demo", "run", "check", "simulate", "listen", "tail", "bench", "version"}},
		{"", 0, []string{"relay demo"}},
		{"run --help", 0, []string{"SIGTERM", "--config", "RELAY_NATS__URL"}},
		{"check --help", 0, []string{"Exit code"}},
		{"simulate --help", 0, []string{"/_sim/"}},
		{"listen --help", 0, []string{"--secret-file", "--public-key"}},
		{"tail --help", 0, []string{"nex.*.insight.risk"}},
		{"demo --help", 0, []string{"--for"}},
		{"bench --help", 0, []string{"--only", "--scale", "--json", "beside a bound"}},
		{"version", 0, []string{"relay dev"}},
		{"nonsense", 2, []string{"nonsense", "--help"}},
		{"run --nonsense", 2, []string{"--nonsense"}},
		{"demo --for soon", 2, []string{"--for"}},
		{"demo --workspaces 99", 2, []string{"1 to 8"}},
		{"demo --rate -1", 2, []string{"--rate"}},
		{"bench --scale huge", 2, []string{"--scale", "standard"}},
		{"bench --size 0", 2, []string{"--size 0", "512"}},
		{"listen --status 99", 2, []string{"--status"}},
		{"listen --secret nonsense", 2, []string{"secret"}},
		{"listen --public-key whpk_sentinel", 2, []string{"public key"}},
		{"listen --public-key sentinel", 2, []string{"secret"}},
		{"listen --secret-file " + faulty, 2, []string{"secret"}},
		{"tail --since 1h --last", 2, []string{"--since"}},
		{"tail --nats nats://user:sentinel@127.0.0.1:1", 1, []string{"connect to NATS", "redacted"}},
		{"run -c " + dir + "/none.yaml", 2, []string{"none.yaml"}},
		{"run -c " + faulty, 2, []string{"nex.idle_timeout: ", "workspaces[0].api_key_env: ", "NOT_SET", "oops: unknown key"}},
		{"check -c " + faulty, 2, []string{"oops: unknown key"}},
		{"run -c " + faulty + " --set nonsense", 2, []string{"KEY=VALUE"}},
	} {
		code, out, errs := call(t, nil, strings.Fields(tt.args)...)
		text := errs
		if tt.code == 0 {
			text = out
		}
		for _, want := range tt.want {
			if code != tt.code || !strings.Contains(text, want) {
				t.Errorf("relay %s: exit %d, want %d with %q:\n%s%s", tt.args, code, tt.code, want, out, errs)
			}
		}
		if strings.Contains(out+errs, "sentinel") {
			t.Errorf("relay %s prints a secret", tt.args)
		}
	}
}

var summaryForm = regexp.MustCompile(`(?m)^summary: streams=(\d+) insights=(\d+) published=(\d+) delivered=(\d+)/(\d+) verified=(\d+) failed=(\d+) retried=(\d+) p50=([\d.]+)ms p99=([\d.]+)ms$`)

func TestDemo(t *testing.T) {
	t.Parallel()
	code, out, errs := call(t, nil, "demo", "--for", "3s", "--rate", "20", "--seed", "7")
	m := summaryForm.FindStringSubmatch(out)
	if code != 0 || m == nil || errs != "" {
		t.Fatalf("exit %d\n%s\n%s", code, out, errs)
	}
	n := make([]int, len(m))
	for i, s := range m {
		n[i], _ = strconv.Atoi(s)
	}
	if n[1] != 2 || n[2] == 0 || n[2] != n[3] || n[4] != n[5] || n[4] != n[6] || n[7] == 0 || n[7] != n[8] {
		t.Errorf("the figures do not fit together: %s", m[0])
	}
	if strings.Contains(out, "\x1b[") {
		t.Error("colours although it is no terminal")
	}
	for _, want := range []string{"started embedded NATS", "refused on purpose", "the retry succeeded", "nex.acme.insight."} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not shown", want)
		}
	}
}

func TestDemoEndsAtCtrlC(t *testing.T) {
	t.Parallel()
	c := start(t, nil, "demo", "--rate", "50")
	address := c.out.await(t, `started dashboard +(\S+)`)
	c.out.await(t, `200 verified`)
	page, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	if page.StatusCode != http.StatusOK || !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") {
		t.Errorf("%s: %s %s", address, page.Status, page.Header.Get("Content-Type"))
	}
	if code := c.stop(); code != 0 || !summaryForm.MatchString(c.out.String()) {
		t.Errorf("exit %d\n%s%s", code, c.out, c.err)
	}
}

func TestSimulateRunListenTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := webhook.GenerateSecret()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secretFile := write("s.secret", secret.Reveal()+"\n")
	sim := start(t, nil, "simulate", "--addr", "127.0.0.1:0", "--workspaces", "acme,beta", "--rate", "0")
	base := sim.out.await(t, `base_url +(\S+)`)
	if key := sim.out.await(t, `key +acme +(\S+)`); key != nexsim.DefaultKey("acme") {
		t.Errorf("key %s", key)
	}
	listen := start(t, []string{}, "listen", "--addr", "127.0.0.1:0", "--secret-file", secretFile)
	receiver := listen.err.await(t, `listening on (http://\S+)`)
	file := write("relay.yaml", fmt.Sprintf(`
nex: {base_url: "%s"}
workspaces: [{name: acme, api_key_env: KEY_ACME}]
nats: {embedded: {listen: "127.0.0.1:0", store_dir: "%s/nats"}}
webhooks: {allow_http: true, allow_networks: [127.0.0.0/8]}
endpoints: [{id: mine, url: "%s/mine", secret_file: s.secret}]
http: {listen: "127.0.0.1:0"}
`, base, dir, receiver))
	vars := []string{"KEY_ACME=" + nexsim.DefaultKey("acme"), "RELAY_LOG__FORMAT=json"}

	code, out, errs := call(t, vars, "check", "-c", file)
	if code != 0 || !strings.Contains(out, "stream ok") || strings.Contains(out, "FAULT") {
		t.Errorf("check: exit %d\n%s%s", code, out, errs)
	}
	relay := start(t, vars, "run", "-c", file)
	natsURL := relay.err.await(t, `"nats":"(nats://[^"]+)"`)
	relay.err.await(t, `stream connected`)

	tail := start(t, nil, "tail", "nex.acme.insight.>", "--nats", natsURL, "--since", "1h", "-n", "2", "--json")
	emit(t, strings.TrimSuffix(base, "/api/developers"), 2)
	listen.out.await(t, `/mine 200  verified (.*\n.*){2}`)
	for deadline := time.Now().Add(patience); strings.Count(tail.out.String(), "\n") < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("tail printed %s%s", tail.out, tail.err)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(tail.out.String()), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("tail --json printed %q", line)
		}
	}
	if code := relay.stop(); code != 0 {
		t.Errorf("run: exit %d\n%s", code, relay.err)
	}
	if code := listen.stop(); code != 0 || !strings.Contains(listen.out.String(), "summary: received=2 verified=2 rejected=0 repeated=0") {
		t.Errorf("listen: exit %d\n%s", code, listen.out)
	}
	if code := sim.stop(); code != 0 {
		t.Errorf("simulate: exit %d", code)
	}
	code, out, _ = call(t, vars, "check", "-c", file)
	if code != 1 || !strings.Contains(out, "FAULT") {
		t.Errorf("check without Nex: exit %d\n%s", code, out)
	}
}

func emit(t *testing.T, sim string, n int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(sim+"/_sim/emit", "application/json", strings.NewReader(fmt.Sprintf(`{"workspace":"acme","count":%d}`, n)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("emit: %d %s", resp.StatusCode, body)
	}
}

func TestListenRejectsAForgery(t *testing.T) {
	t.Parallel()
	listen := start(t, []string{}, "listen", "--addr", "127.0.0.1:0", "--secret", webhook.GenerateSecret().Reveal())
	url := listen.err.await(t, `listening on (http://\S+)`)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(url+"/\x1b[31m", "application/json", strings.NewReader(`{"type":"\u001b[31mred"}`))
	if err == nil {
		_ = resp.Body.Close()
		t.Error("a path with a control character was sent")
	}
	resp, err = client.Post(url+"/x", "application/json", strings.NewReader(`{"type":"\u001b[31mred"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("answered %d", resp.StatusCode)
	}
	listen.out.await(t, `REJECTED`)
	if strings.Contains(listen.out.String(), "\x1b") {
		t.Error("what comes from outside steers the terminal")
	}
}

func TestListenVerifiesByPublicKey(t *testing.T) {
	t.Parallel()
	key, other, secret := webhook.GenerateSigningKey(), webhook.GenerateSigningKey(), webhook.GenerateSecret()
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(secret.Reveal()+"\n"+key.Public().String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for name, tt := range map[string]struct {
		args   []string
		takes  []webhook.Secret
		denies []webhook.Secret
	}{
		"a key":                {[]string{"--public-key", key.Public().String()}, []webhook.Secret{key}, []webhook.Secret{other, secret}},
		"two keys":             {[]string{"--public-key", key.Public().String() + "," + other.Public().String()}, []webhook.Secret{key, other}, []webhook.Secret{secret}},
		"secret and key, file": {[]string{"--secret-file", file}, []webhook.Secret{key, secret}, []webhook.Secret{other}},
	} {
		listen := start(t, []string{}, append([]string{"listen", "--addr", "127.0.0.1:0"}, tt.args...)...)
		url := listen.err.await(t, `listening on (http://\S+)`)
		send := func(by webhook.Secret) int {
			t.Helper()
			body := `{"type":"nex.insight.risk"}`
			req, err := http.NewRequest("POST", url, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			webhook.SetHeaders(req.Header, "evt_1", time.Now(), []byte(body), by)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			return resp.StatusCode
		}
		for _, by := range tt.takes {
			if code := send(by); code != http.StatusOK {
				t.Errorf("%s: what a %s signed is answered %d", name, by.Scheme(), code)
			}
		}
		for _, by := range tt.denies {
			if code := send(by); code != http.StatusUnauthorized {
				t.Errorf("%s: what another %s signed is answered %d", name, by.Scheme(), code)
			}
		}
		if code := listen.stop(); code != 0 || strings.Contains(listen.err.String(), "not verified") ||
			!strings.Contains(listen.out.String(), fmt.Sprintf("verified=%d rejected=%d", len(tt.takes), len(tt.denies))) {
			t.Errorf("%s: exit %d\n%s%s", name, code, listen.err, listen.out)
		}
	}
}

func TestListenConsents(t *testing.T) {
	t.Parallel()
	listen := start(t, []string{}, "listen", "--addr", "127.0.0.1:0")
	target, err := webhook.ValidateURL(listen.err.await(t, `listening on (http://\S+)`)+"/x", true)
	if err != nil {
		t.Fatal(err)
	}
	sender := webhook.NewSender(webhook.SenderConfig{Guard: webhook.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), AllowHTTP: true})
	defer sender.CloseIdle()
	if v, err := sender.Validate(t.Context(), &webhook.ValidationRequest{URL: target, Origin: "relay.example.com"}); err != nil || v.Rate != 0 {
		t.Errorf("%+v %v", v, err)
	}
}

func TestBusyPort(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"simulate", "listen"} {
		if code, _, errs := call(t, nil, name, "--addr", l.Addr().String()); code != 1 || !strings.Contains(errs, "address already in use") {
			t.Errorf("%s: exit %d %s", name, code, errs)
		}
	}
}

func TestViewFitsTheTerminal(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	v := &view{out: &b, width: 100, color: true}
	v.answer(answer{at: time.Now(), subject: "nex.acme.insight.risk", content: strings.Repeat("long ", 50), endpoint: "crm-sync", status: 200, note: "verified", latency: time.Millisecond})
	line := regexp.MustCompile("\x1b\\[\\d+m").ReplaceAllString(strings.TrimSpace(b.String()), "")
	if n := len([]rune(line)); n > 100 {
		t.Errorf("%d columns: %s", n, line)
	}
	if !strings.Contains(b.String(), "\x1b[32m") {
		t.Error("no colour")
	}
	if c := (newView(env{stdout: &b, vars: []string{"NO_COLOR=1"}})).color; c {
		t.Error("colours for what is no terminal")
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"a\x1b[2Jb": "a [2Jb", " x\n ": "x", "äöü": "äöü", "123456789": "1234567…"} {
		if got := printable(in, 8); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
