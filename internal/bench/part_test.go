package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// partEnv makes the test binary a part, or one that has started a part and waits for it.
const partEnv = "BENCH_TEST_PART"

func TestMain(m *testing.M) {
	switch os.Getenv(partEnv) {
	case "":
		goleak.VerifyTestMain(m)
	case "parent":
		if err := parent(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	default:
		if err := Serve(context.Background(), os.Args[len(os.Args)-1], UsualSize, os.Stdin, os.Stdout, nil); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// parent starts a receiver, tells where it is, and waits for a webhook that never comes.
func parent() error {
	if err := os.Setenv(partEnv, "part"); err != nil {
		return err
	}
	p, err := startPart([]string{os.Args[0]}, roleReceiver, os.DevNull, func(error) {})
	if err != nil {
		return err
	}
	ctx := context.Background()
	urls, err := ask[[]string](ctx, p, "open", openArgs{Ports: 1})
	if err != nil {
		return err
	}
	fmt.Println(urls[0])
	if err := do(ctx, p, "watch", watchArgs{Name: "x", Marks: []int64{1}}); err != nil {
		return err
	}
	return do(ctx, p, "wait", waitArgs{Name: "x", Seconds: 600})
}

// A part ends with the process that started it, also where that is killed in the middle of a request.
func TestPartsEndWithTheirParent(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), partEnv+"=parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(strings.TrimSpace(line), "http://")
	if !answers(addr) {
		t.Fatalf("nothing is at %s", addr)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for deadline := time.Now().Add(30 * time.Second); answers(addr); {
		if time.Now().After(deadline) {
			t.Fatal("the receiver has outlived its parent")
		}
	}
}

// A part that dies ends what waits for another at once, and is named.
func TestPartDies(t *testing.T) {
	t.Setenv(partEnv, "part")
	report, began := &Report{}, time.Now()
	err := runOne(t.Context(), Options{Command: []string{os.Args[0]}, Size: UsualSize, Scale: Quick}, t.TempDir(), Scenario{Name: "x", run: func(ctx context.Context, s *stage) error {
		waits, _, err := s.receive(ctx, openArgs{Ports: 1})
		if err != nil {
			return err
		}
		dies, err := s.part(roleLoop)
		if err != nil {
			return err
		}
		if err := do(ctx, waits, "watch", watchArgs{Name: "x", Marks: []int64{1}}); err != nil {
			return err
		}
		if err := dies.cmd.Process.Kill(); err != nil {
			return err
		}
		return do(ctx, waits, "wait", waitArgs{Name: "x", Seconds: 60})
	}}, report)
	if err == nil || !strings.Contains(err.Error(), "the loop ended: signal: killed") || time.Since(began) > 30*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	err = runOne(t.Context(), Options{Command: []string{os.Args[0]}, Size: UsualSize, Scale: Quick}, t.TempDir(), Scenario{Name: "x", run: func(ctx context.Context, s *stage) error {
		dies, err := s.part(roleLoop)
		if err != nil {
			return err
		}
		_ = dies.cmd.Process.Kill()
		<-dies.ended
		return errors.New("what it had to do failed") // as a request over HTTP does, which knows nothing of processes
	}}, report)
	if err == nil || !strings.Contains(err.Error(), "the loop ended: signal: killed") || !strings.Contains(err.Error(), "what it had to do failed") {
		t.Error(err)
	}
}

func answers(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// serve answers one request after the other, in this process.
func serve(t *testing.T, role string, requests ...request) (list []answer) {
	t.Helper()
	in, to := io.Pipe()
	from, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), role, UsualSize, in, out, nil) }()
	lines := bufio.NewReader(from)
	for _, r := range requests {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write(append(text, '\n')); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	_ = to.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return list
}

func TestServe(t *testing.T) {
	t.Parallel()
	got := serve(t, roleLoop,
		request{Op: "nonsense"},
		request{Op: "post", Args: json.RawMessage(`{"URLs": 1}`)},
		request{Op: "usage", Args: json.RawMessage(`{}`)},
	)
	var u usage
	if err := json.Unmarshal(got[2].Result, &u); err != nil || u.RSS < 1<<20 || u.CPU <= 0 {
		t.Errorf("usage %s, %v", got[2].Result, err)
	}
	if !strings.Contains(got[0].Error, "nonsense") || got[1].Error == "" {
		t.Errorf("%+v", got[:2])
	}
	if err := Serve(t.Context(), "nobody", UsualSize, bytes.NewReader(nil), io.Discard, nil); err == nil {
		t.Error("a role that is not known is taken")
	}
}

// What a loop posts the receiver counts, at its marks.
func TestLoopAndReceiver(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	defer r.close()
	ctx := t.Context()
	urls, err := r.open(ctx, openArgs{Ports: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.watch(ctx, watchArgs{Name: "x", Marks: []int64{1, 50}, Timed: true}); err != nil {
		t.Fatal(err)
	}
	if done, err := postAll(ctx, postArgs{URLs: []string{urls[0] + "/x/", urls[1] + "/x/"}, N: 50, AtOnce: 4}); err != nil || done.PerSecond <= 0 || done.CPU <= 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	at, err := r.wait(ctx, waitArgs{Name: "x", Seconds: 30})
	if err != nil || len(at) != 2 || at[0] > at[1] || at[0] == 0 {
		t.Fatalf("marks %v, %v", at, err)
	}
	took, err := r.timed(ctx, watchArgs{Name: "x"})
	if err != nil || took.N != 50 || took.P50 <= 0 || took.P99 < took.P50 {
		t.Errorf("%+v, %v", took, err)
	}
	if _, err := postAll(ctx, postArgs{URLs: []string{urls[0] + "/x/fail"}, N: 5, AtOnce: 1}); err == nil {
		t.Error("a loop takes 500 for an answer")
	}
}

func TestJudging(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		value, bound float64
		reach        Reach
		lost         int
		compared     float64
		met          bool
	}{
		{80, 100, Reach{ShareAtLeast, 0.8}, 0, 0.8, true},
		{79, 100, Reach{ShareAtLeast, 0.8}, 0, 0.79, false},
		{90, 100, Reach{ShareAtLeast, 0.8}, 1, 0.9, false},
		{3, 2, Reach{TimesAtMost, 1.5}, 0, 1.5, true},
		{4, 2, Reach{TimesAtMost, 1.5}, 0, 2, false},
		{3, 2, Reach{MoreAtMost, 1}, 0, 1, true},
		{3.5, 2, Reach{MoreAtMost, 1}, 0, 1.5, false},
		{40, 0, Reach{AtMost, 40}, 0, 40, true},
		{41, 0, Reach{AtMost, 40}, 0, 41, false},
	} {
		s := &stage{report: &Report{}, opts: Options{Size: UsualSize, Scale: Standard}}
		s.add(Figure{Value: tt.value, Bound: &tt.bound, Reach: tt.reach, RecordsLost: tt.lost})
		if got := s.report.Figures[0]; got.Compared != tt.compared || got.Met != tt.met {
			t.Errorf("%+v: %v, met %v", tt, got.Compared, got.Met)
		}
	}
}
