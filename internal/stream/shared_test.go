package stream

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nex-crm/relay/internal/nexsim"
)

func TestNewsThatNexIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		closed := func(c <-chan struct{}) bool {
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		s := newShared(&Config{MaxDials: 1, MaxFetches: 1, DialsPerSecond: 1})
		s.succeeded()
		time.Sleep(outage)
		s.succeeded() // after a quiet time in which nobody failed
		waits := s.failed()
		if closed(waits) {
			t.Error("woken before anybody came up")
		}
		s.succeeded()
		if closed(waits) {
			t.Error("woken although others came up all the time")
		}
		also := s.failed()
		time.Sleep(outage)
		s.succeeded()
		if !closed(waits) || !closed(also) {
			t.Error("not woken after the outage")
		}
		if closed(s.failed()) {
			t.Error("the next to wait is woken at once")
		}
	})
}

// Of thirty dials one succeeds, all the time; then all do.
func TestNewsThatAPartialOutageIsOver(t *testing.T) {
	t.Parallel()
	s := newShared(&Config{MaxDials: 1, MaxFetches: 1, DialsPerSecond: 1})
	s.succeeded()
	var waits <-chan struct{}
	woken := func() bool {
		select {
		case <-waits:
			return true
		default:
			return false
		}
	}
	for range 10 {
		for range 29 {
			waits = s.failed()
		}
		s.succeeded()
		if woken() {
			t.Fatal("woken while most dials fail")
		}
	}
	needed := 0
	for ; !woken(); needed++ {
		if needed == 30 {
			t.Fatal("not woken although all dials succeed")
		}
		s.succeeded()
	}
	if needed < 3 {
		t.Errorf("%d dials that succeeded were enough", needed)
	}
	waits = s.failed()
	for range 30 {
		s.succeeded()
	}
	if woken() {
		t.Error("woken again although nothing was away")
	}
}

func TestPausesAreBounded(t *testing.T) {
	t.Parallel()
	for _, limits := range []Config{
		{ReconnectMin: time.Second, ReconnectMax: time.Minute}, {ReconnectMin: time.Minute, ReconnectMax: time.Minute},
	} {
		wait := (&stream{cfg: &limits}).reconnects()
		longest := time.Duration(0)
		for range 1000 {
			longest = max(longest, wait.NextBackOff())
		}
		if longest > limits.ReconnectMax || longest < limits.ReconnectMax*9/10 {
			t.Errorf("%v at most, %v asked for", longest, limits.ReconnectMax)
		}
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	var parts [4]int
	for i := range 1000 {
		parts[int(4*spread(fmt.Sprintf("ws-%03d", i)))]++
	}
	for i, n := range parts {
		if n < 100 {
			t.Errorf("%d of 1,000 names of one length in part %d of 4", n, i)
		}
	}
}

func TestTwoWorkspacesThatAreOneAtNex(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{Workspaces: []nexsim.Workspace{{Slug: "acme"}, {Slug: "beta"}}})
	if err := b.sim.SetKey("acme", nexsim.Key{Token: "second", Scopes: []string{nexsim.ScopeInsights}}); err != nil {
		t.Fatal(err)
	}
	again := Workspace{Name: "acme-two", Token: "acme-two", Key: "second"}
	b.start(workspace("acme"), workspace("beta"))
	b.eventually("it is known which of Nex's the first two are", func() bool {
		b.shared.mu.Lock()
		defer b.shared.mu.Unlock()
		return len(b.shared.holders) == 2
	})
	b.Apply([]Workspace{workspace("acme"), workspace("beta"), again})
	if data := b.news("acme-two", sameWorkspace, 1); data["other"] != "acme" || data["workspace_id"] == "" {
		t.Errorf("%v", data)
	}
	b.sim.Drop("acme", false)
	b.connected("acme", 2)
	b.eventually("both show it", func() bool { return b.status("acme").Warning != "" && b.status("acme-two").Warning != "" })
	b.news("acme", sameWorkspace, 1) // is told after it was said
	if w := b.status("beta").Warning; w != "" {
		t.Errorf("beta: %s", w)
	}
	if n := strings.Count(b.log.String(), "in the log twice"); n != 2 {
		t.Errorf("said %d times, once of each is enough:\n%s", n, b.log)
	}
	b.Apply([]Workspace{workspace("acme"), workspace("beta")})
	b.connected("acme", 1)
	b.sim.Drop("acme", false)
	b.eventually("it is gone", func() bool { return b.status("acme").Warning == "" })
}
