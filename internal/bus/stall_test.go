package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/event"
)

// The connection to NATS stalls in the middle of a reading, for longer than what should come is waited for: what is
// answered has no holes, and if something is missing there is an error.
func TestConnectionStallsWhileTheLogIsRead(t *testing.T) {
	t.Parallel()
	const total = 1500
	open := func(t *testing.T, cfg Config) *Bus {
		cfg.Stream, cfg.Logger = Limits{MaxAge: time.Hour, DuplicateWindow: time.Minute}, slog.New(slog.DiscardHandler)
		b, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
		return b
	}
	server := open(t, Config{Embedded: Embedded{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"}})
	address := strings.TrimPrefix(server.ClientURL(), "nats://")
	begin := time.Now()
	for i := range total {
		e := &event.Event{Workspace: "acme", ID: fmt.Sprint("ins_", i), Type: "nex.insight.risk", Data: json.RawMessage(`{}`)}
		if _, err := server.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	for name, read := range map[string]func(b *Bus, each func(uint64)) error{
		"Recent": func(b *Bus, each func(uint64)) error {
			r, err := b.Recent(t.Context(), "acme", 24, begin.Add(-time.Minute), 1<<14)
			for _, k := range r.Insights {
				each(k.Sequence)
			}
			return err
		},
		"Scan": func(b *Bus, each func(uint64)) error {
			return b.Scan(t.Context(), "acme", begin.Add(-time.Minute), 1<<14, func(k Known) bool { each(k.Sequence); return true })
		},
		"After": func(b *Bus, each func(uint64)) error {
			list, _, err := b.After(t.Context(), "nex.acme.insight.risk", 0)
			for _, k := range list {
				each(k.Sequence)
			}
			return err
		},
		"Read": func(b *Bus, each func(uint64)) error {
			return b.Read(t.Context(), []string{"nex.acme.insight.>"}, 1, total, func(s Stored) error { each(s.Sequence); return nil })
		},
		"Walk": func(b *Bus, each func(uint64)) error {
			return b.Walk(t.Context(), Query{Stream: StreamNex, Oldest: true}, func(s Stored) (bool, error) { each(s.Sequence); return true, nil })
		},
		"Walk, newest first": func(b *Bus, each func(uint64)) error {
			return b.Walk(t.Context(), Query{Stream: StreamNex}, func(s Stored) (bool, error) { each(total + 1 - s.Sequence); return true, nil })
		},
	} {
		for _, after := range []int64{60_000, 150_000, 250_000} {
			t.Run(fmt.Sprintf("%s after %d bytes", name, after), func(t *testing.T) {
				t.Parallel()
				p := newStalling(t, address, drainTime+drainTime/4)
				b := open(t, Config{URL: "nats://" + p.address})
				p.left.Store(after)
				count := func() (n uint64, err error) {
					err = read(b, func(sequence uint64) {
						if n++; sequence != n {
							t.Errorf("%d is the %d.", sequence, n)
						}
					})
					return n, err
				}
				if n, err := count(); err == nil && n != total {
					t.Errorf("%d of %d, and no error", n, total)
				}
				if p.left.Load() >= 0 {
					t.Fatal("nothing stalled: this is no test")
				}
				n, err := count()
				for tries := 0; err != nil && tries < 20; tries++ { // a machine that stands still is a connection that does
					n, err = count()
				}
				if err != nil || n != total {
					t.Errorf("again: %d of %d, %v", n, total, err)
				}
			})
		}
	}
}

// stalling passes on what a client and NATS say, and says nothing to the client for a time after so many bytes.
type stalling struct {
	address string
	left    atomic.Int64 // bytes; negative = does not stall
}

func newStalling(t *testing.T, to string, pause time.Duration) *stalling {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &stalling{address: l.Addr().String()}
	p.left.Store(-1)
	var all sync.WaitGroup
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
			all.Go(func() {
				_, _ = io.Copy(server, client)
				_ = server.Close()
			})
			all.Go(func() {
				defer client.Close()
				buf := make([]byte, 4096)
				for {
					n, err := server.Read(buf)
					if left := p.left.Load(); n > 0 && left >= 0 && p.left.Add(-int64(n)) < 0 {
						time.Sleep(pause)
					}
					if _, failed := client.Write(buf[:n]); err != nil || failed != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return p
}
