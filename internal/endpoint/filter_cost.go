package endpoint

import (
	"math"
	"sync/atomic"
	"time"
)

// What filters may cost whoever matches an event for everybody, see [Snapshot.MatchQuick].
const (
	// quick is what handing a delivery to its lane costs there: it would be no help to put off what costs no more.
	quick = 10 * time.Microsecond
	// maxQuick is what one filter may cost, quickBudget what all together may beyond quick. maxSurprise is where those are left
	// too that cost little as a rule.
	maxQuick, quickBudget, maxSurprise = 200 * time.Microsecond, 2 * time.Millisecond, 5 * time.Millisecond
	// shortText is up to where texts are searched at once: 4 KiB at 1 ns a byte (see BenchmarkHostile).
	shortText = 4 << 10
)

// weight bounds what one evaluation costs: fixed, for each byte of the event, and for each value in it. The times per unit are
// those of BenchmarkHostile, rounded up.
type weight struct{ fixed, perByte, perValue time.Duration }

func (c *checker) weight() weight {
	return weight{
		fixed:    time.Duration(c.nodes) * 50,
		perByte:  time.Duration(5*c.regexp + c.searches + 4*c.copies),
		perValue: time.Duration(20*c.looped + 30*c.scans),
	}
}

func (w weight) of(v *View) time.Duration {
	return w.fixed + time.Duration(len(v.data))*w.perByte + time.Duration(v.values)*w.perValue
}

// experience is what evaluations of a filter have taken. It lives as long as the compiled filter, not as long as a snapshot.
type experience struct {
	size atomic.Int64 // bytes of the largest event
	rate atomic.Int64 // ns per KiB of an event, beyond quick; 0 before anything is known
}

const (
	// forget is how slowly the slowest evaluation is forgotten: half of it with every 44. Whoever wants to be slow once in a
	// while is slow once in hundreds of events.
	forget = 64
	// grown is how many times larger than any before an event may be for its evaluation to be foretold.
	grown = 4
)

func (x *experience) learn(size int, took time.Duration) {
	kib := int64(size)/1024 + 1
	rate := int64(max(took-quick, 0)) / kib
	before := x.rate.Load() // what two at once have learned is lost of one of them: it is an estimate
	x.rate.Store(max(rate, before-before/forget-1, 0))
	if int64(size) > x.size.Load() {
		x.size.Store(int64(size))
	}
}

// isLate tells whether an evaluation is to be left for later, when those before it have taken spent beyond quick.
func (f *Filter) isLate(v *View, spent time.Duration) bool {
	worst := f.weight.of(v)
	if worst <= quick {
		return false
	}
	cost := min(worst, f.expected(len(v.data)))
	return cost > maxQuick || cost > quick && spent+cost > quickBudget || spent > maxSurprise
}

// expected is what an evaluation will probably take, as far as that is known: of events about as large.
func (f *Filter) expected(size int) time.Duration {
	if int64(size) > grown*f.known.size.Load() {
		return math.MaxInt64
	}
	return quick + time.Duration(f.known.rate.Load()*(int64(size)/1024+1))
}
