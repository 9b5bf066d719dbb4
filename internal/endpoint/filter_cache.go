package endpoint

import (
	"sync"
	"weak"
)

// filters holds what is compiled, by source: endpoints of equal filters share one, and a snapshot made anew after one
// change (see [Registry]) compiles that one. It keeps nothing alive; the snapshots do.
var filters = newFilterCache()

type filterCache struct {
	mu       sync.Mutex
	compiled map[string]weak.Pointer[Filter]
	sweepAt  int // entries at which the dead ones are removed
}

const minSweep = 1024

func newFilterCache() *filterCache {
	return &filterCache{compiled: map[string]weak.Pointer[Filter]{}}
}

func (c *filterCache) get(source string) (*Filter, error) {
	c.mu.Lock()
	f := c.compiled[source].Value()
	c.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := CompileFilter(source) // unlocked: a second one of the same source does no harm
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compiled[f.source] = weak.Make(f)
	c.sweep()
	return f, nil
}

// sweep costs a constant per entry added: it waits until the map has doubled.
func (c *filterCache) sweep() {
	if len(c.compiled) < max(c.sweepAt, minSweep) {
		return
	}
	for source, p := range c.compiled {
		if p.Value() == nil {
			delete(c.compiled, source)
		}
	}
	c.sweepAt = 2 * len(c.compiled)
}
