package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
)

// Daemon runs a relay as `relay run -c file` does, until ctx ends. It calls up once every part of it runs.
type Daemon func(ctx context.Context, file string, up func(http, nats string)) error

// Serve is a part, from inside: it takes a role and answers what it is asked on in, on out, until in ends or ctx does. The insights of
// its process have size bytes.
func Serve(ctx context.Context, role string, size int, in io.Reader, out io.Writer, daemon Daemon) error {
	asked.Store(int64(size))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ops map[string]handler
	var end func()
	switch role {
	case roleReceiver:
		collectRarely()
		r := newReceiver()
		ops, end = r.ops(), r.close
	case roleLoop:
		collectRarely()
		ops, end = loopOps(), func() {}
	case roleSource:
		s := &source{}
		ops, end = s.ops(), s.close
	case rolePublisher:
		p := &publisher{}
		ops, end = p.ops(), p.close
	case roleRelay:
		d := &underTest{daemon: daemon}
		ops, end = d.ops(), d.close
	default:
		return fmt.Errorf("role %q is not known", role)
	}
	defer end()
	ops["usage"] = op(func(context.Context, nothing) (usage, error) { return measureUsage() })
	profile := &profiler{}
	defer profile.stop()
	ops["profile"] = op(profile.start)
	ops["profiled"] = op(func(context.Context, nothing) (nothing, error) { return nothing{}, profile.stop() })
	return answerAll(ctx, cancel, ops, in, out)
}

// rarely is the GOGC of what stands beside the relay: with Go's own, a process that holds as little as they do collects garbage at every
// 4 MB, which the relay does not.
const rarely = 800

// collectRarely has this process collect its garbage as rarely as a relay does, where the environment does not say how often.
func collectRarely() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(rarely)
	}
}

// The roles of the parts.
const (
	roleReceiver, roleLoop, roleSource, rolePublisher, roleRelay = "receiver", "loop", "source", "publisher", "relay"
)

// roles are all roles that Serve takes.
var roles = []string{roleReceiver, roleLoop, roleSource, rolePublisher, roleRelay}

// KnowsRole tells whether [Serve] can take a role.
func KnowsRole(role string) bool { return slices.Contains(roles, role) }

// handler does one thing that a part can do.
type handler func(ctx context.Context, args json.RawMessage) (any, error)

func op[In, Out any](do func(context.Context, In) (Out, error)) handler {
	return func(ctx context.Context, args json.RawMessage) (any, error) {
		var in In
		if err := json.Unmarshal(args, &in); err != nil {
			return nil, err
		}
		return do(ctx, in)
	}
}

// answerAll reads ahead, so that the end of in ends what is under way.
func answerAll(ctx context.Context, cancel func(), ops map[string]handler, in io.Reader, out io.Writer) error {
	requests := make(chan request)
	go func() {
		defer close(requests)
		defer cancel()
		lines := bufio.NewReader(in)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var r request
			if json.Unmarshal(line, &r) != nil {
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	w := json.NewEncoder(out)
	for {
		select {
		case <-ctx.Done():
			return nil
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			if err := w.Encode(handle(ctx, ops, r)); err != nil {
				return err
			}
		}
	}
}

func handle(ctx context.Context, ops map[string]handler, r request) answer {
	do, ok := ops[r.Op]
	if !ok {
		return answer{Error: fmt.Sprintf("%q is nothing that it can do", r.Op)}
	}
	result, err := do(ctx, r.Args)
	if err != nil {
		return answer{Error: err.Error()}
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Result: raw}
}

// profiler writes processor profiles of this process.
type profiler struct{ file *os.File }

type profileArgs struct{ File string }

func (p *profiler) start(_ context.Context, a profileArgs) (nothing, error) {
	if err := p.stop(); err != nil {
		return nothing{}, err
	}
	var err error
	if p.file, err = os.Create(filepath.Clean(a.File)); err != nil {
		return nothing{}, err
	}
	return nothing{}, pprof.StartCPUProfile(p.file)
}

func (p *profiler) stop() error {
	if p.file == nil {
		return nil
	}
	pprof.StopCPUProfile()
	file := p.file
	p.file = nil
	return file.Close()
}

// usage is what a process has taken so far.
type usage struct {
	RSS int64   // resident memory, bytes
	CPU float64 // processor time, seconds
}

// heldByGo is the memory that Go has from the system, where the system itself does not tell what is resident.
func heldByGo() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
}
