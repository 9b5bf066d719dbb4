package bench

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/nex"
	"github.com/nex-crm/relay/internal/stream"
)

// What the bounds publish and post is what the relay makes of what the source sends.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 2, 5, 10, 30, 0, 123456789, time.UTC)
	for _, n := range []int{0, 7, 123456} {
		if got := len(appendInsight(nil, "risk", n)); got != insightSize() {
			t.Errorf("insight %d has %d bytes", n, got)
		}
		list, err := nex.ParsePayload(batch("ws-1", "risk", n, at))
		if err != nil || len(list.Insights) != 1 {
			t.Fatalf("insight %d: %d of it, %v", n, len(list.Insights), err)
		}
		want, got := stream.Normalize("ws-1", list.Insights[0], at), newEvent("ws-1", "risk", n, at)
		if !bytes.Equal(got.Data, want.Data) {
			t.Errorf("insight %d: data\n%s\nthe relay's is\n%s", n, got.Data, want.Data)
		}
		if got.NATSSubject() != want.NATSSubject() || got.Subject != want.Subject || len(got.JSON()) != len(want.JSON()) || !got.Time.Equal(want.Time) {
			t.Errorf("insight %d: %+v, the relay's is %+v", n, got, want)
		}
		if when, ok := emittedAt(string(got.JSON())); !ok || !when.Equal(at) {
			t.Errorf("insight %d: emitted at %v, %v", n, when, ok)
		}
	}
	if _, ok := emittedAt(strings.Repeat("x", 10)); ok {
		t.Error("what is no event has a time")
	}
}
