package stream

import (
	"testing"
	"testing/synctest"
	"time"
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
