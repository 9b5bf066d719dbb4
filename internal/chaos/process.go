//go:build unix

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// process is a program that can be killed, stopped for a while, and started again with the same arguments.
type process struct {
	name string
	args []string
	env  []string
	log  string

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{} // closed when cmd has ended
	stopped bool
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = endWithUs()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	p.cmd, p.done, p.stopped = cmd, done, false
	return nil
}

// signal sends sig; SIGKILL and SIGTERM wait for the end.
func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && p.alive() {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	switch sig {
	case syscall.SIGSTOP:
		p.stopped = true
	case syscall.SIGCONT:
		p.stopped = false
	case syscall.SIGKILL, syscall.SIGTERM:
		select {
		case <-p.done:
		case <-time.After(40 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
			return fmt.Errorf("%s did not end within 40 s of a signal", p.name)
		}
		p.cmd = nil
	}
	return nil
}

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// died tells whether the process ended by itself, as after a panic.
func (p *process) died() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && !p.alive()
}

// running tells whether it was started, lives, and is not stopped.
func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && !p.stopped && p.alive()
}

func (p *process) kill() { _ = p.signal(syscall.SIGKILL) }

// Binaries are the programs that the processes run.
type Binaries struct{ Relay, NATS string }

// Build makes the programs from this module, with extra flags for the relay.
func Build(dir string, flags ...string) (Binaries, error) {
	b := Binaries{filepath.Join(dir, "relay"), filepath.Join(dir, "nats-server")}
	relay := append(append([]string{"build", "-o", b.Relay}, flags...), "github.com/nex-crm/relay/cmd/relay")
	for _, args := range [][]string{relay, {"build", "-o", b.NATS, "github.com/nats-io/nats-server/v2"}} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return b, fmt.Errorf("go %v: %w\n%s", args, err, out)
		}
	}
	return b, nil
}
