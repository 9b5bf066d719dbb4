package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// part is a process of this binary in a role. It answers one request at a time, a line of JSON each, and ends when its standard input
// does: when this process ends, however it ends, the system closes that.
type part struct {
	role string
	log  string // file with what it says
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	pipe io.Closer // under out

	ending atomic.Bool   // it has been told to
	ended  chan struct{} // closed when it has ended, however
	how    string        // it ended; set before ended is closed

	mu sync.Mutex // of one request and its answer
}

// endedError says that a part ended that nobody had told to.
type endedError struct{ text string }

func (e *endedError) Error() string { return e.text }

// stopTime is how long a part may take to end when asked to; a relay takes up to 30 s.
const stopTime = 40 * time.Second

// startPart starts one. Where it ends though nobody has told it to, died hears of it.
func startPart(command []string, role, log string, died func(error)) (*part, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd := exec.Command(command[0], append(command[1:len(command):len(command)], role)...)
	cmd.Stderr = file
	p := &part{role: role, log: log, cmd: cmd, ended: make(chan struct{})}
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out, p.pipe = bufio.NewReader(out), out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	go p.watch(died)
	return p, nil
}

// watch is not cmd.Wait: that would throw away an answer that has not been read.
func (p *part) watch(died func(error)) {
	state, err := p.cmd.Process.Wait()
	if p.how = fmt.Sprint(state); err != nil {
		p.how = err.Error()
	}
	close(p.ended)
	if err := p.death(); err != nil {
		time.AfterFunc(interruptTime, func() { died(err) })
	}
}

// interruptTime is what an interrupt, which a terminal sends to all of its processes, has until the end of a part is taken for the cause.
const interruptTime = 50 * time.Millisecond

// death is nil for a part that runs, or was told to end.
func (p *part) death() error {
	select {
	case <-p.ended:
		if !p.ending.Load() {
			return &endedError{fmt.Sprintf("the %s ended: %s%s", p.role, p.how, p.lastWords())}
		}
	default:
	}
	return nil
}

// request is what a part is asked, answer what it says.
type request struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

type answer struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// ask has a part do something and waits for its answer. The end of ctx kills the part.
func ask[Out any](ctx context.Context, p *part, op string, args any) (out Out, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	raw, err := json.Marshal(args)
	if err != nil {
		return out, err
	}
	line, err := json.Marshal(request{Op: op, Args: raw})
	if err != nil {
		return out, err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	var got answer
	if _, err = p.in.Write(append(line, '\n')); err == nil {
		if line, err = p.out.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(line, &got)
		}
	}
	switch {
	case ctx.Err() != nil:
		return out, fmt.Errorf("%s %s: %w", p.role, op, context.Cause(ctx))
	case err != nil:
		return out, fmt.Errorf("%s %s: %w%s", p.role, op, err, p.lastWords())
	case got.Error != "":
		return out, fmt.Errorf("%s %s: %s%s", p.role, op, got.Error, p.lastWords())
	}
	return out, json.Unmarshal(got.Result, &out)
}

// do is ask where there is nothing to be told.
func do(ctx context.Context, p *part, op string, args any) error {
	_, err := ask[nothing](ctx, p, op, args)
	return err
}

type nothing struct{}

// lastWords is the end of what the part has logged.
func (p *part) lastWords() string {
	text, err := os.ReadFile(p.log)
	text = bytes.TrimSpace(text)
	if err != nil || len(text) == 0 {
		return ""
	}
	return "\nits log ends with:\n" + string(text[max(0, len(text)-2000):])
}

// end has the part end, and kills it if it does not.
func (p *part) end() error {
	p.ending.Store(true)
	_ = p.in.Close()
	timer := time.AfterFunc(stopTime, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, p.out)
	<-p.ended // how does not matter any more
	return p.pipe.Close()
}
