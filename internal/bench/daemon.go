package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"
)

// underTest is the relay, as `relay run` runs it.
type underTest struct {
	daemon Daemon
	stop   func() error
}

func (d *underTest) ops() map[string]handler {
	return map[string]handler{"start": op(d.start), "stop": op(d.end), "collect": op(collect), "heap": op(heap)}
}

type startArgs struct{ File string }

// reachable is where a relay answers.
type reachable struct{ HTTP, NATS string }

// readyTime bounds the start.
const readyTime = 60 * time.Second

func (d *underTest) start(ctx context.Context, a startArgs) (at reachable, err error) {
	ctx, cancel := context.WithCancel(ctx)
	up, done := make(chan reachable, 1), make(chan error, 1)
	go func() { done <- d.daemon(ctx, a.File, func(http, nats string) { up <- reachable{http, nats} }) }()
	d.stop = func() error {
		cancel()
		return <-done
	}
	timer := time.NewTimer(readyTime)
	defer timer.Stop()
	select {
	case at = <-up:
		return at, nil
	case err = <-done:
		d.stop = nil
		cancel()
		return at, errors.Join(errors.New("the relay ended by itself"), err)
	case <-timer.C:
		return at, errors.New("the relay is not up")
	}
}

func (d *underTest) end(context.Context, nothing) (nothing, error) {
	if d.stop == nil {
		return nothing{}, nil
	}
	stop := d.stop
	d.stop = nil
	return nothing{}, stop()
}

// close lets it be: what stands in its log is not needed any more, and the end of the process ends it at once.
func (d *underTest) close() {}

// collect gives back what is not used: what is resident then is what is held.
func collect(context.Context, nothing) (usage, error) {
	debug.FreeOSMemory()
	return measureUsage()
}

// shares is where the memory is that Go has from the system, in bytes.
type shares struct{ Objects, Fragments, Stacks, Free, Other int64 }

// heap writes a profile of the heap, and tells where memory is.
func heap(_ context.Context, a profileArgs) (in shares, err error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	in = shares{
		Objects: int64(m.HeapAlloc), Fragments: int64(m.HeapInuse - m.HeapAlloc), Stacks: int64(m.StackInuse),
		Free: int64(m.HeapIdle - m.HeapReleased), Other: int64(m.MSpanSys + m.MCacheSys + m.BuckHashSys + m.GCSys + m.OtherSys),
	}
	file, err := os.Create(filepath.Clean(a.File))
	if err != nil {
		return in, err
	}
	return in, errors.Join(pprof.WriteHeapProfile(file), file.Close())
}
