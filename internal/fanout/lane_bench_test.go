package fanout

import (
	"testing"
	"time"
)

// BenchmarkHandOff is what it costs to hand a delivery over: from the reader of the log through an endpoint's queue to one of its
// workers, and straight to a worker among the young ones.
func BenchmarkHandOff(b *testing.B) {
	d := &delivery{endpoint: "crm", sequence: 1, event: &message{data: make([]byte, 1024)}}
	b.Run("queue", func(b *testing.B) {
		l := busyLane(time.Now(), 32, 0, time.Microsecond)
		b.ReportAllocs()
		for b.Loop() {
			if !l.offer(b.Context(), d, true) || l.next(0, false) != d {
				b.Fatal("it was not handed over")
			}
			l.bytes = 0 // of the attempt that next counts as begun
		}
	})
	b.Run("young", func(b *testing.B) {
		y := newYoung(maxYoung)
		b.ReportAllocs()
		for b.Loop() {
			y.enter(b.Context()).end()
		}
	})
}
