package nexsim

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

// BenchmarkEmit is one stream over a real socket, from the first emission until the reader has the last: insights of 1 KiB
// in batches of 5.
func BenchmarkEmit(b *testing.B) {
	bun := setup(b, Options{SizeMax: minSize, Buffer: 1 << 30, History: 1000, Remember: 1000})
	s := bun.open()
	bun.wantStreams(1)
	read := make(chan error)
	go func() {
		for {
			line, err := s.r.ReadSlice('\n')
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) || bytes.HasPrefix(line, []byte("event: end")) {
				read <- err
				return
			}
		}
	}()
	b.ReportAllocs()
	start := time.Now()
	for b.Loop() {
		bun.Emit("acme", 5)
	}
	bun.EmitRaw("acme", "end", nil)
	if err := <-read; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(5*b.N)/time.Since(start).Seconds(), "insights/s")
}

// BenchmarkGenerate is the contents alone, of the default sizes.
func BenchmarkGenerate(b *testing.B) {
	s := newSim(b, Options{History: 1000, Remember: 1000})
	b.ReportAllocs()
	for b.Loop() {
		s.Emit("acme", 1)
	}
}

// BenchmarkStreams reports what an open stream costs at rest, the client's bare socket included.
func BenchmarkStreams(b *testing.B) {
	const n = 2000
	for b.Loop() {
		workspaces := make([]Workspace, n)
		for i := range workspaces {
			workspaces[i].Slug = fmt.Sprintf("w%d", i)
		}
		s := newSim(b, Options{Workspaces: workspaces})
		server := httptest.NewServer(s.Handler())
		before := inUse()
		conns := make([]net.Conn, n)
		for i := range conns {
			conns[i] = rawStream(b, server.Listener.Addr().String(), DefaultKey(workspaces[i].Slug))
		}
		b.ReportMetric(float64(inUse()-before)/n, "bytes/stream")
		s.Close()
		for _, c := range conns {
			c.Close()
		}
		server.Close()
	}
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// rawStream opens a stream and reads its connect comment, without the memory of an HTTP client.
func rawStream(t testing.TB, addr, key string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET /v1/insights/stream HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer %s\r\n\r\n", key); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReaderSize(c, 256)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, ": connected") {
			return c
		}
	}
}
