package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
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

	mu sync.Mutex // of one request and its answer
}

// stopTime is how long a part may take to end when asked to; a relay takes up to 30 s.
const stopTime = 40 * time.Second

func startPart(command []string, role, log string) (*part, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd := exec.Command(command[0], append(command[1:len(command):len(command)], role)...)
	cmd.Stderr = file
	p := &part{role: role, log: log, cmd: cmd}
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	return p, nil
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
	_ = p.in.Close()
	timer := time.AfterFunc(stopTime, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, p.out)
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) { // how it ended does not matter any more
		return nil
	}
	return err
}
