package endpoint

import (
	"fmt"
	"runtime"
	"testing"
)

// What a snapshot holds is not compiled again; what nothing holds is forgotten.
func TestCompiledFiltersAreShared(t *testing.T) {
	t.Parallel()
	c := newFilterCache()
	const source = `event.data.shared == 1`
	kept, err := c.get(source)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * minSweep {
		if i%minSweep == 0 {
			runtime.GC()
		}
		if _, err := c.get(fmt.Sprintf("event.data.x == %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := c.get(source); err != nil || again != kept {
		t.Errorf("compiled again: %v", err)
	}
	if n := len(c.compiled); n > 2*minSweep {
		t.Errorf("%d entries stay of %d filters that nothing holds", n, 3*minSweep)
	}
	if _, err := c.get("event.typ"); err == nil {
		t.Error("a wrong one was taken")
	}
	runtime.KeepAlive(kept)
}
