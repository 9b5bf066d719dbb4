package lease

import "context"

// start has a write made in the background, one at a time for each key; mu is held.
func (t *Table) start(key string, write func(context.Context) error) {
	if t.busy[key] || t.closed {
		return
	}
	t.busy[key] = true
	t.queue = append(t.queue, job{key, write})
	if t.workers < writers {
		t.workers++
		t.work.Go(t.writeQueue)
	}
}

// writeQueue makes the writes that wait, until there are none.
func (t *Table) writeQueue() {
	for {
		j, ok := t.next()
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
		if err := j.write(ctx); err != nil {
			t.log.Debug("lease could not be written", "key", j.key, "error", err)
		}
		cancel()
		t.finished(j)
	}
}

func (t *Table) next() (job, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.workers--
		return job{}, false
	}
	j := t.queue[0]
	t.queue = t.queue[1:]
	return j, true
}

func (t *Table) finished(j job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, j.key)
	signal(t.wake)
}
