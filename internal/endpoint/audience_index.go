package endpoint

import (
	"cmp"
	"iter"
	"math"
	"math/bits"
	"slices"
	"sort"
)

// equalIndex finds the groups that have a condition path == value.
type equalIndex struct {
	path   int32
	groups map[any][]*group
}

func (x *equalIndex) at(value any) []*group {
	switch value.(type) {
	case nil, string, float64, bool:
		return x.groups[value]
	default: // lists and objects equal no literal, and cannot be looked up
		return nil
	}
}

// boundIndex finds the groups that hold for an interval of numbers. Those whose near end holds are at the front: the
// lowest ends of lower bounds (over), the highest of upper ones. Their far ends lie beside them in memory: asking 5,000
// takes 10 µs.
type boundIndex struct {
	path      int32
	over      bool
	intervals []interval
}

// interval has its ends inside; without one it is infinite, which no number of JSON is.
type interval struct {
	low, high float64
	group     *group
}

// interval is what all conditions of the group on a path leave.
func (g *group) interval(path int32) interval {
	x := interval{math.Inf(-1), math.Inf(1), g}
	for i, c := range g.filter.conditions {
		number, ok := c.values[0].(float64)
		if g.paths[i] != path || !ok {
			continue
		}
		switch c.op { // beyond a float64 is from the next one on
		case ">":
			x.low = max(x.low, math.Nextafter(number, math.Inf(1)))
		case ">=":
			x.low = max(x.low, number)
		case "<":
			x.high = min(x.high, math.Nextafter(number, math.Inf(-1)))
		case "<=":
			x.high = min(x.high, number)
		}
	}
	return x
}

func (x *boundIndex) sort() {
	slices.SortStableFunc(x.intervals, func(a, b interval) int {
		if x.over {
			return cmp.Compare(a.low, b.low)
		}
		return cmp.Compare(b.high, a.high)
	})
}

func (x *boundIndex) each(value any, call func(*group)) {
	v, ok := value.(float64)
	if !ok {
		return
	}
	n := sort.Search(len(x.intervals), func(i int) bool {
		if x.over {
			return x.intervals[i].low > v
		}
		return x.intervals[i].high < v
	})
	for i := range x.intervals[:n] {
		if in := &x.intervals[i]; in.low <= v && v <= in.high {
			call(in.group)
		}
	}
}

// textIndex finds the groups that look for a text in the value: each stands at four bytes of its text, the rarest of
// them among all the texts that are looked for. One walk over the value (about 2 ns a byte) finds those that can be in it.
type textIndex struct {
	path   int32
	groups map[uint32]*textGroups
	// seen has a bit for the hash of each key of groups, so that most bytes of a value cost no look-up.
	seen  []uint64
	shift uint8
}

type textGroups struct{ list []*group }

// grams are the runs of four bytes in a text.
func grams(text string) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		var gram uint32
		for i := range len(text) {
			if gram = gram<<8 | uint32(text[i]); i >= 3 && !yield(gram) {
				return
			}
		}
	}
}

// finish makes seen: 16 bits for each key, so that one byte in 16 is looked up in vain.
func (x *textIndex) finish() {
	size := max(6, bits.Len(uint(16*len(x.groups))))
	x.shift = uint8(32 - size)
	x.seen = make([]uint64, 1<<(size-6))
	for gram := range x.groups {
		h := x.hash(gram)
		x.seen[h>>6] |= 1 << (h & 63)
	}
}

// hash multiplies with the golden ratio's 32 bits (Knuth, The Art of Computer Programming, 6.4).
func (x *textIndex) hash(gram uint32) uint32 { return gram * 2654435769 >> x.shift }

// each calls once for each group whose text can be in the value; done is used for that and left empty.
func (x *textIndex) each(value any, done map[*textGroups]struct{}, call func(*group)) {
	text, ok := value.(string)
	if !ok {
		return
	}
	defer clear(done)
	for gram := range grams(text) {
		h := x.hash(gram)
		if x.seen[h>>6]&(1<<(h&63)) == 0 {
			continue
		}
		found := x.groups[gram]
		if found == nil {
			continue
		}
		if _, again := done[found]; again {
			continue
		}
		done[found] = struct{}{}
		for _, g := range found.list {
			call(g)
		}
	}
}
