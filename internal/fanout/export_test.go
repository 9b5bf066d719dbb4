package fanout

// LaneBytes is the weight of the lane that holds most.
func (f *Fanout) LaneBytes() (most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.lanes {
		l.mu.Lock()
		most = max(most, l.bytes)
		l.mu.Unlock()
	}
	return most
}

// HoldsAtMost tells whether the events that are held take n bytes at most.
func (f *Fanout) HoldsAtMost(n int64) bool {
	if !f.heldBytes.TryAcquire(maxHeldBytes - n) {
		return false
	}
	f.heldBytes.Release(maxHeldBytes - n)
	return true
}
