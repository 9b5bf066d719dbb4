package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/nexsim"
)

// source is Nex: the simulator, told what to emit.
type source struct {
	sim     *nexsim.Sim
	slugs   []string
	opened  []int // streams that each workspace had opened when they were dropped
	sent    int   // insights so far: none says what another said, or it would be the same
	server  *http.Server
	serving sync.WaitGroup
}

func (s *source) ops() map[string]handler {
	return map[string]handler{"open": op(s.open), "connected": op(s.connected), "emit": op(s.emit), "pace": op(s.pace), "drop": op(s.drop)}
}

func (s *source) close() {
	if s.sim != nil {
		s.sim.Close()
		_ = s.server.Close()
		s.serving.Wait()
	}
}

type sourceArgs struct{ Slugs []string }

// sourceBuffer is what may wait for one stream: a whole burst, so that the reader alone decides how fast it goes.
const sourceBuffer = 2 << 30

// open answers the base URL.
func (s *source) open(_ context.Context, a sourceArgs) (base string, err error) {
	opts := nexsim.Options{Buffer: sourceBuffer}
	for _, slug := range a.Slugs {
		opts.Workspaces = append(opts.Workspaces, nexsim.Workspace{Slug: slug})
	}
	if s.sim, err = nexsim.New(opts); err != nil {
		return "", err
	}
	s.slugs = a.Slugs
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.server = &http.Server{Handler: s.sim.Handler(), ReadHeaderTimeout: time.Minute}
	s.serving.Go(func() { _ = s.server.Serve(l) })
	return "http://" + l.Addr().String() + "/api/developers", nil
}

// connectedEvery is how often the open streams are counted: at 10,000 that takes a few milliseconds.
const connectedEvery = 50 * time.Millisecond

type connectedArgs struct{ Seconds float64 }

// connected waits until every workspace has a stream, and answers when, in Unix nanoseconds.
func (s *source) connected(ctx context.Context, a connectedArgs) (at int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.Seconds*float64(time.Second)))
	defer cancel()
	ticker := time.NewTicker(connectedEvery)
	defer ticker.Stop()
	for {
		n := s.up()
		if n == len(s.slugs) {
			return time.Now().UnixNano(), nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d streams are up after %.0f s", n, len(s.slugs), a.Seconds)
		}
	}
}

// up is how many workspaces have a stream that was opened since the last drop.
func (s *source) up() (n int) {
	for i, w := range s.sim.State().Workspaces {
		if w.Connections == 1 && (s.opened == nil || w.Requests.Stream[http.StatusOK] > s.opened[i]) {
			n++
		}
	}
	return n
}

type emitArgs struct {
	N     int // of all workspaces together
	Kinds int // types of insight, in turn; 1 if 0
}

// emit sends insights over all streams in turn, as fast as they are taken. It answers when it began, in Unix nanoseconds.
func (s *source) emit(_ context.Context, a emitArgs) (began int64, err error) {
	list := make([][]byte, a.N)
	now := time.Now()
	for i := range list {
		list[i] = batch(s.slugs[i%len(s.slugs)], kindOf(i%max(a.Kinds, 1)), s.sent+i, now)
	}
	s.sent += a.N
	began = time.Now().UnixNano()
	for i, data := range list {
		s.sim.EmitRaw(s.slugs[i%len(s.slugs)], liveBatch, data)
	}
	return began, nil
}

// liveBatch is the name of Nex's live events.
const liveBatch = "insight.batch.created"

// pace emits at a steady rate.
func (s *source) pace(ctx context.Context, a paceArgs) (sent int, err error) {
	return paced(ctx, a.Rate, a.Seconds, func(int) {
		slug := s.slugs[s.sent%len(s.slugs)]
		s.sim.EmitRaw(slug, liveBatch, batch(slug, "risk", s.sent, time.Now()))
		s.sent++
	}), ctx.Err()
}

// drop breaks every stream, and answers when, in Unix nanoseconds.
func (s *source) drop(context.Context, nothing) (at int64, err error) {
	s.opened = nil
	for _, w := range s.sim.State().Workspaces {
		s.opened = append(s.opened, w.Requests.Stream[http.StatusOK])
	}
	at = time.Now().UnixNano()
	if n := s.sim.Drop("", true); n != len(s.slugs) {
		return 0, fmt.Errorf("%d streams were open, not %d", n, len(s.slugs))
	}
	return at, nil
}
