package lease

// Replicas is how many replicas have a session now, this one among them; 1 where none is known.
func (t *Table) Replicas() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(1, len(t.sessions))
}
