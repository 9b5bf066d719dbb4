package fanout

const (
	// laneBytes is what the events in a lane may take together, and a shareOf of what is left of three quarters of maxHeldBytes:
	// the more endpoints there are that hold much, the less each may hold, and there is always room to read what is for others.
	laneBytes, shareOf = 4 << 20, 16
	// provenShare times as much may one take that has just answered well and fast, and so many times as long may it wait: it empties its
	// lane within a moment, and what it does not take has to be stored and read again, which costs as much as half a webhook.
	provenShare = 2
	// unknownSize is what an event counts for that is still to be read, where none has been read before.
	unknownSize = laneBytes / 8
)

// weigh counts a delivery that enters the lane. One whose event is still to be read is taken to be like the last; mu is held.
func (l *lane) weigh(d *delivery) {
	if d.weight = l.lastSize; d.weight == 0 {
		d.weight = unknownSize
	}
	if d.reread = d.event == nil; !d.reread {
		d.weight = len(d.event.data)
		l.lastSize = d.weight
	}
	l.count(d.weight, d.reread)
}

// count counts bytes of an event in the lane, and in all where it was, or is to be, read for this delivery alone; mu is held.
func (l *lane) count(n int, reread bool) {
	l.bytes += n
	if reread {
		l.fanout.bodies.Add(int64(n))
	}
}

// share is what the events in the lane may take together now; mu is held.
func (l *lane) share() int {
	left := l.fanout.cfg.maxHeld/4*3 - l.fanout.bodies.Load()
	share := int(max(0, min(laneBytes, left/shareOf)))
	if l.proven {
		share *= provenShare
	}
	return share
}

// read hears how large the event of a delivery was, and answers whether it may stay: not if it is much
// larger than was thought, and the others fill the lane.
func (l *lane) read(d *delivery, size int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastSize = size
	l.count(-d.weight, d.reread)
	larger := size > 2*d.weight // to be stored and read once more costs more than a little too much
	if d.weight = 0; larger && l.running > 1 && l.bytes >= l.share() {
		return false
	}
	d.weight = size
	l.count(size, d.reread)
	return true
}
