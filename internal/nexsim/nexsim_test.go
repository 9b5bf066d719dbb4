package nexsim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends a test that would hang.
const patience = 2 * time.Minute

// bundle is a simulator behind a real server, and a client for it.
type bundle struct {
	*Sim
	t      testing.TB
	url    string
	client *http.Client
}

func setup(t testing.TB, o Options) *bundle {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	client := &http.Client{
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		s.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return &bundle{s, t, server.URL, client}
}

func (b *bundle) context() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

// do sends a request; key "" sends none.
func (b *bundle) do(method, path, key, body string) *http.Response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// get returns status and body of a GET with acme's key.
func (b *bundle) get(path string) (int, []byte) {
	b.t.Helper()
	resp := b.do(http.MethodGet, path, DefaultKey("acme"), "")
	return resp.StatusCode, b.read(resp)
}

func (b *bundle) read(resp *http.Response) []byte {
	b.t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	resp.Body.Close()
	return body
}

// control posts to the control API and wants status 200.
func (b *bundle) control(path, body string) []byte {
	b.t.Helper()
	resp := b.do(http.MethodPost, path, "", body)
	answer := b.read(resp)
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("POST %s %s: %d %s", path, body, resp.StatusCode, answer)
	}
	return answer
}

func (b *bundle) wantStreams(n int) {
	b.t.Helper()
	if err := b.WaitConnected(b.context(), "acme", n); err != nil {
		b.t.Fatalf("waiting for %d streams: %v", n, err)
	}
}

// stream is an open stream as a client sees it.
type stream struct {
	t    testing.TB
	resp *http.Response
	r    *bufio.Reader
}

func (b *bundle) open() *stream {
	b.t.Helper()
	resp := b.do(http.MethodGet, "/v1/insights/stream", DefaultKey("acme"), "")
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("stream: %d %s", resp.StatusCode, b.read(resp))
	}
	return &stream{b.t, resp, bufio.NewReader(resp.Body)}
}

// readBlock reads up to the next blank line, LF line endings assumed.
func (s *stream) readBlock() (string, error) {
	var b strings.Builder
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("stream ended after %q: %w", b.String()+line, err)
		}
		if line == "\n" {
			return b.String(), nil
		}
		b.WriteString(line)
	}
}

// readEvent reads the next event, over comments and retry fields. It may be called from any goroutine.
func (s *stream) readEvent() (name, data string, err error) {
	for {
		block, err := s.readBlock()
		if err != nil {
			return "", "", err
		}
		if strings.HasPrefix(block, ":") || strings.HasPrefix(block, "retry:") {
			continue
		}
		first, rest, _ := strings.Cut(strings.TrimSuffix(block, "\n"), "\n")
		name, ok := strings.CutPrefix(first, "event: ")
		data, ok2 := strings.CutPrefix(rest, "data: ")
		if !ok || !ok2 || strings.Contains(data, "\n") {
			return "", "", fmt.Errorf("not an event: %q", block)
		}
		return name, data, nil
	}
}

func (s *stream) block() string {
	s.t.Helper()
	block, err := s.readBlock()
	if err != nil {
		s.t.Fatal(err)
	}
	return block
}

func (s *stream) event() (name, data string) {
	s.t.Helper()
	name, data, err := s.readEvent()
	if err != nil {
		s.t.Fatal(err)
	}
	return name, data
}

// live reads the next event, which must be a live batch.
func (s *stream) live() Batch {
	s.t.Helper()
	name, data := s.event()
	if name != "insight.batch.created" {
		s.t.Fatalf("event %q instead of a live batch", name)
	}
	return decode[Batch](s.t, []byte(data))
}

// rest reads what comes until the end.
func (s *stream) rest() (string, error) {
	b, err := io.ReadAll(s.r)
	return string(b), err
}

// bytes reads exactly n bytes.
func (s *stream) bytes(n int) string {
	s.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(s.r, b); err != nil {
		s.t.Fatalf("stream ended: %v", err)
	}
	return string(b)
}

func (s *stream) close() { s.resp.Body.Close() }

// decode wants that no field is unknown: what the simulator sends and what it declares are the same.
func decode[T any](t testing.TB, data []byte) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %.300s", err, data)
	}
	return v
}

func contents(insights []Insight) []string {
	list := make([]string, len(insights))
	for i, in := range insights {
		list[i] = in.Content
	}
	return list
}

// clock is a time that only tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func noon() *clock { return &clock{time.Date(2026, 2, 5, 12, 0, 0, 123456789, time.UTC)} }
