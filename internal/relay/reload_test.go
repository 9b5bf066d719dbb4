package relay_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// flow has Nex send insights one after the other, each twice: one that every filter takes, and one that only the wider takes.
type flow struct {
	w    *world
	sent atomic.Int64
	end  func()
}

// flow keeps no further ahead of what has been taken than a slow machine can make up for.
func (w *world) flow(taken func() int) *flow {
	const ahead = 50
	f := &flow{w: w}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-quit:
				return
			case <-time.After(2 * time.Millisecond):
			}
			if 2*n > taken()+2*ahead {
				n--
				continue
			}
			w.emit("acme", 0.9, high(n))
			w.emit("acme", 0.2, low(n))
			f.sent.Store(int64(n + 1))
		}
	})
	f.end = sync.OnceFunc(func() { close(quit); wg.Wait() })
	w.t.Cleanup(f.end)
	return f
}

func high(n int) string { return fmt.Sprintf("high-%05d", n) }
func low(n int) string  { return fmt.Sprintf("low-%05d", n) }

// next waits until so many more have been sent, and answers the number of the one that comes next.
func (f *flow) next(more int) int {
	f.w.t.Helper()
	want := f.sent.Load() + int64(more)
	eventually(f.w.t, "insights flow", func() bool { return f.sent.Load() >= want })
	return int(f.sent.Load())
}

// reload has the relay apply other endpoints, and answers when it has.
func (r *running) reload(w *world, endpoints ...string) {
	r.t.Helper()
	const said = "configuration applied"
	w.endpoints(endpoints...)
	r.hup <- struct{}{} // once this is taken, what is applied was read after it was written: the relay looks at its file by itself too
	before := strings.Count(w.log.String(), said)
	r.hup <- struct{}{}
	eventually(r.t, "the configuration is applied", func() bool { return strings.Count(w.log.String(), said) > before })
}

// endpoints writes a configuration with these endpoints alone.
func (w *world) endpoints(list ...string) {
	w.t.Helper()
	w.write("relay.yaml", fmt.Sprintf(`
nex: {base_url: %s/api/developers, reconnect_min: 20ms, reconnect_max: 200ms}
nats: {embedded: {listen: "127.0.0.1:0", store_dir: %s/nats}}
webhooks: {allow_http: true, allow_networks: [127.0.0.0/8], schedule: [0s, 1s, 1s]}
http: {listen: "127.0.0.1:0"}
workspaces: [{name: acme, api_key_file: acme.key}]
endpoints:
%s`, w.simURL, w.dir, strings.Join(list, "\n")))
}

// Endpoints of the file come, go, move and ask for other events while insights flow. The one that is not touched gets each once, the
// others none too few.
func TestReloadUnderFlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	at := func() *target {
		r := newTarget(t, webhook.Verifier{Secrets: []webhook.Secret{w.secret}}, nil)
		r.answer = func(content string, attempt int) int {
			if strings.HasSuffix(content, "7") && attempt == 1 { // so that some wait for their time while the endpoints change
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		}
		return r
	}
	kept, before, after, asks, leaves, comes := at(), at(), at(), at(), at(), at()
	one := func(id string, r *target, more string) string {
		return fmt.Sprintf("  - {id: %s, url: %q, secret_file: webhook.secret%s}", id, r.server.URL, more)
	}
	const narrow, wide = `, filter: "event.data.confidence >= 0.5"`, `, filter: "event.data.confidence >= 0.1"`
	w.endpoints(one("kept", kept, ""), one("moves", before, ""), one("asks", asks, narrow), one("leaves", leaves, ""))
	run := w.start()
	w.connected("acme")
	f := w.flow(func() int {
		kept.mu.Lock()
		defer kept.mu.Unlock()
		return len(kept.taken)
	})
	f.next(100)

	run.reload(w, one("kept", kept, ""), one("moves", before, ""), one("asks", asks, narrow), one("leaves", leaves, ""), one("comes", comes, ""))
	added := f.next(100)
	run.reload(w, one("kept", kept, ""), one("moves", after, ""), one("asks", asks, narrow), one("leaves", leaves, ""), one("comes", comes, ""))
	f.next(100)
	run.reload(w, one("kept", kept, ""), one("moves", after, ""), one("asks", asks, wide), one("leaves", leaves, ""), one("comes", comes, ""))
	widened := f.next(100)
	run.reload(w, one("kept", kept, ""), one("moves", after, ""), one("asks", asks, wide), one("comes", comes, ""))
	f.next(100)
	run.reload(w, one("kept", kept, ""), one("moves", after, ""), one("asks", asks, wide), one("leaves", leaves, ""), one("comes", comes, ""))
	f.next(100)
	f.end()
	sent := int(f.sent.Load())

	for _, tt := range []struct {
		name        string
		targets     []*target
		highs, lows int // from which on all must have come
	}{
		{name: "untouched", targets: []*target{kept}},
		{name: "moved", targets: []*target{before, after}},
		{name: "asks for more", targets: []*target{asks}, lows: widened},
		{name: "left and came back", targets: []*target{leaves}},
		{name: "added", targets: []*target{comes}, highs: added, lows: added},
	} {
		want := map[string]bool{}
		for n := tt.highs; n < sent; n++ {
			want[high(n)] = true
		}
		for n := tt.lows; n < sent; n++ {
			want[low(n)] = true
		}
		var taken map[string]int
		missing := func() (list []string) {
			taken = map[string]int{}
			for _, r := range tt.targets {
				r.mu.Lock()
				for _, content := range r.taken {
					taken[content]++
				}
				r.mu.Unlock()
			}
			for content := range want {
				if taken[content] == 0 {
					list = append(list, content)
				}
			}
			return list
		}
		least, deadline := len(want)+1, time.Time{} // as long as more comes it is waited for
		for n := len(missing()); n > 0; n = len(missing()) {
			if n < least {
				least, deadline = n, time.Now().Add(patience)
			} else if time.Now().After(deadline) {
				break
			}
			<-time.After(10 * time.Millisecond) // receivers take it, which have no other sign
		}
		if list := missing(); len(list) > 0 {
			t.Errorf("%s: %d of %d are missing, such as %s", tt.name, len(list), len(want), list[0])
		}
		again := 0
		for _, n := range taken {
			again += n - 1
		}
		t.Logf("%s: %d, %d of them again", tt.name, len(want), again)
	}
	if err := run.stop(); err != nil { // nothing is on its way any more
		t.Errorf("stop: %v", err)
	}
	if len(kept.taken) != 2*sent {
		t.Errorf("of the untouched one's %d webhooks %d have come", 2*sent, len(kept.taken))
	}
	if len(after.taken) == 0 || len(before.taken) == 0 {
		t.Errorf("%d at the former url, %d at the new one", len(before.taken), len(after.taken))
	}
}

// What a reload does not apply is named, a token that was changed or taken out too, and no secret with it.
func TestReloadNamesWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	tokens := func(list string) { w.configure([]string{"acme"}, "tokens: ["+list+"]\n") }
	const reads, writes = "{name: reads, token: secret-of-reads-0000000, access: read}", "{name: writes, token: secret-of-writes-000000, access: write}"
	tokens(reads + ", " + writes)
	run := w.start()
	applied := func() (since string) {
		t.Helper()
		before := w.log.String()
		run.hup <- struct{}{}
		run.hup <- struct{}{} // the first one has been applied, and all of it is said, when the relay takes another
		eventually(t, "the configuration is applied", func() bool {
			since = w.log.String()[len(before):]
			return strings.Contains(since, "configuration applied")
		})
		return since
	}
	const said = "from the next start on"
	if text := applied(); strings.Contains(text, said) {
		t.Errorf("nothing changed: %s", text)
	}
	for what, list := range map[string]string{
		"taken out": reads, "another secret": reads + ", " + strings.Replace(writes, "secret-of", "another-of", 1), "another access": reads + ", " + strings.Replace(writes, "access: write", "access: read", 1),
	} {
		tokens(list)
		if text := applied(); !strings.Contains(text, said) || !strings.Contains(text, "sections=[tokens]") || strings.Contains(text, "-of-") {
			t.Errorf("%s: %s", what, text)
		}
	}
}

// An empty file is what a file looks like that is being written: it takes nothing away.
func TestReloadRefusesAnEmptyFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	run := w.start()
	w.connected("acme")
	for i, content := range []string{"", "\n \n# nothing here\n"} {
		w.write("relay.yaml", content)
		run.hup <- struct{}{}
		eventually(t, "it is refused", func() bool { return strings.Count(w.log.String(), "the file is empty") > i })
	}
	w.emit("acme", 0.5, "still there")
	w.webhooks(1)
	w.configure([]string{"acme"}, "")
	run.hup <- struct{}{}
	eventually(t, "it is applied again", func() bool { return strings.Contains(w.log.String(), "configuration applied") })
}
