package fanout

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestYoung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		y := newYoung(2)
		first, second := y.try(), y.try()
		if first == nil || second == nil || y.try() != nil {
			t.Fatal("there is not room for two")
		}
		first.end()
		first.end()
		third := y.try()
		if third == nil || y.try() != nil {
			t.Fatal("one that ends does not make room for one")
		}
		began := time.Now()
		fourth := y.enter(t.Context()) // second is old by then
		if took := time.Since(began); fourth == nil || took != youngFor {
			t.Fatalf("entered after %v", took)
		}
		second.end() // long gone
		fifth := y.enter(t.Context())
		if fifth == nil || y.try() != nil {
			t.Fatal("one that ends after it was old makes room twice")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if y.enter(ctx) != nil {
			t.Error("entered although the context had ended and there was no room")
		}
		var none *newborn
		none.end()
		fourth.end()
		fifth.end()
	})
}
