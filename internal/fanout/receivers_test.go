package fanout_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// receiversEnv makes the test binary a process of receivers.
	receiversEnv = "FANOUT_TEST_RECEIVERS"
	// pacedPrefix begins the id of an event whose way is timed: when it was published follows, in Unix nanoseconds.
	pacedPrefix = "paced-"
)

// tally is what the healthy receivers have had.
type tally struct {
	Got      int
	P50, P99 time.Duration // of the paced events; 0 = none yet
}

// receivers is a process that answers for endpoints of every kind.
type receivers struct {
	t    *testing.T
	url  string
	stop func()
}

func startReceivers(t *testing.T) *receivers {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), receiversEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &receivers{t: t, stop: sync.OnceFunc(func() {
		_ = in.Close() // which ends it
		_ = cmd.Wait()
	})}
	t.Cleanup(r.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	r.url = strings.TrimSpace(line)
	return r
}

func (r *receivers) tally() (got tally) {
	r.t.Helper()
	resp, err := http.Get(r.url + "/tally")
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		r.t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return got
}

// serveReceivers is the process: it answers until its standard input ends.
func serveReceivers() {
	var mu sync.Mutex
	var got int
	var took []time.Duration
	gone := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /healthy", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		now := time.Now()
		at, timed := strings.CutPrefix(r.Header.Get("Webhook-Id"), pacedPrefix)
		nanos, _ := strconv.ParseInt(at, 10, 64)
		mu.Lock()
		defer mu.Unlock()
		got++
		if timed {
			took = append(took, now.Sub(time.Unix(0, nanos)))
		}
	})
	mux.HandleFunc("POST /hanging", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	})
	mux.HandleFunc("POST /failing", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusInternalServerError)
	})
	mux.HandleFunc("POST /flooded", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(500 * time.Millisecond): // what it takes to deal with one
		case <-gone:
		}
	})
	mux.HandleFunc("GET /tally", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		now := tally{Got: got}
		if len(took) > 0 {
			slices.Sort(took)
			now.P50, now.P99 = took[len(took)/2], took[len(took)*99/100]
		}
		_ = json.NewEncoder(w).Encode(now)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "receivers:", err)
		os.Exit(1)
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	fmt.Printf("http://%s\n", l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	close(gone)
	_ = server.Close()
}
