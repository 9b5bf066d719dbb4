//go:build unix

package bench

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

func measureUsage() (usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return usage{}, err
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return usage{RSS: resident(), CPU: seconds(r.Utime) + seconds(r.Stime)}, nil
}

// resident reads what Linux says in /proc; other systems say it nowhere without cgo.
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if fields := bytes.Fields(text); err == nil && len(fields) > 1 {
		if pages, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
			return pages * int64(os.Getpagesize())
		}
	}
	return heldByGo()
}

// standStill has a part do nothing until goOn.
func (p *part) standStill() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

func (p *part) goOn() error { return p.cmd.Process.Signal(syscall.SIGCONT) }
