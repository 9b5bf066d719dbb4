package endpoint

import (
	"slices"
	"time"

	"github.com/expr-lang/expr/vm"
)

// audience is the active endpoints at one subject. Members are numbers of endpoints in the snapshot's order.
type audience struct {
	everything []int32 // without a filter
	groups     []*group

	// Each group stands in one of these: under a condition that must hold, so that an event looks at those groups only
	// where it does, or in rest.
	equal  []equalIndex
	bounds []boundIndex
	texts  []textIndex
	rest   []*group
}

// group is the endpoints at one subject that have the same filter; it is evaluated once for all of them.
type group struct {
	filter  *Filter
	err     error   // instead of filter: it does not compile
	paths   []int32 // of filter.conditions, in the snapshot
	members []int32
}

// place is where a group can stand in the indexes of its audience.
type place struct {
	kind  placeKind
	path  int32
	value any    // of atValue
	gram  uint32 // of atGram
}

type placeKind uint8

const (
	atValue placeKind = iota // path == value
	above                    // path >= a number
	below                    // path <= a number
	atGram                   // path contains a text that has these four bytes
	anyGram                  // counts the texts of a path
)

// minTexts is how many groups must search one path for texts before it is searched for all of them at once.
const minTexts = 32

// index puts each group where the fewest others could stand: of event.type == "…" && event.data.customer == "…" at the
// customer, if most ask for the same type.
func (a *audience) index() {
	if len(a.groups) == 0 {
		return
	}
	count := make(map[place]int, len(a.groups))
	for _, g := range a.groups {
		g.alternatives(func(places []place) {
			for _, p := range places {
				count[p]++
			}
		})
	}
	b := indexBuilder{a, map[place]int{}}
	for _, g := range a.groups {
		var best []place
		least := 0
		g.alternatives(func(places []place) {
			if n := cost(places, count); n > 0 && (best == nil || n < least) {
				best, least = slices.Clone(places), n
			}
		})
		b.put(g, best)
	}
	for _, x := range a.bounds {
		x.sort()
	}
	for i := range a.texts {
		a.texts[i].finish()
	}
}

// cost is how many groups an event probably finds at places, 0 if a group cannot stand there.
func cost(places []place, count map[place]int) (n int) {
	for _, p := range places {
		switch p.kind {
		case atValue:
			n += count[p]
		case above, below: // half, for want of a better guess
			n += (count[p] + 1) / 2
		case atGram:
			if count[place{kind: anyGram, path: p.path}] >= minTexts {
				n += count[p]
			}
		}
	}
	return n
}

// alternatives calls with each set of places that the group could stand at: it must stand at all of a set. The slice is
// used again.
func (g *group) alternatives(call func([]place)) {
	if g.filter == nil {
		return
	}
	var places []place
	for i, c := range g.filter.conditions {
		path := g.paths[i]
		places = places[:0]
		switch c.op {
		case "==":
			for _, v := range c.values {
				places = append(places, place{kind: atValue, path: path, value: v})
			}
			call(places)
		case ">", ">=":
			call(append(places, place{kind: above, path: path}))
		case "<", "<=":
			call(append(places, place{kind: below, path: path}))
		case "contains", "startsWith", "endsWith":
			call(append(places, place{kind: anyGram, path: path}))
			for gram := range grams(c.values[0].(string)) {
				call(append(places, place{kind: atGram, path: path, gram: gram}))
			}
		}
	}
}

type indexBuilder struct {
	*audience
	at map[place]int // which index of its kind a path has
}

func (b *indexBuilder) put(g *group, places []place) {
	if places == nil {
		b.rest = append(b.rest, g)
		return
	}
	for _, p := range places {
		switch p.kind {
		case atValue:
			x := indexAt(b, &b.equal, p, equalIndex{path: p.path, groups: map[any][]*group{}})
			x.groups[p.value] = append(x.groups[p.value], g)
		case above, below:
			x := indexAt(b, &b.bounds, p, boundIndex{path: p.path, over: p.kind == above})
			x.intervals = append(x.intervals, g.interval(p.path))
		case atGram:
			x := indexAt(b, &b.texts, p, textIndex{path: p.path, groups: map[uint32]*textGroups{}})
			if x.groups[p.gram] == nil {
				x.groups[p.gram] = &textGroups{}
			}
			x.groups[p.gram].list = append(x.groups[p.gram].list, g)
		}
	}
}

// indexAt is the index of a path in list, added if it is new.
func indexAt[T any](b *indexBuilder, list *[]T, p place, fresh T) *T {
	key := place{kind: p.kind, path: p.path}
	i, ok := b.at[key]
	if !ok {
		i = len(*list)
		b.at[key] = i
		*list = append(*list, fresh)
	}
	return &(*list)[i]
}

// matching is the matching of one event, and its memory for the next one.
type matching struct {
	snapshot *Snapshot
	machine  vm.VM
	meet     func(*audience)

	audiences []*audience
	view      *View
	failed    func(*Endpoint, error)
	later     func(*Endpoint)
	spent     time.Duration // on filters, what was beyond quick of each
	dst       []*Endpoint

	values []pathValue // of snapshot.paths
	asked  []int32     // the values that are known
	// seen tells which members have been decided on in this round; it and results are used only for an event that meets
	// more than one audience.
	seen    []uint32
	round   uint32
	results map[*Filter]result
	found   map[*textGroups]struct{}
}

type pathValue struct {
	value     any
	known, ok bool
}

type result struct {
	match bool
	later bool
	err   error
}

func newMatching(s *Snapshot) *matching {
	m := &matching{snapshot: s, machine: vm.VM{MemoryBudget: maxElements}, values: make([]pathValue, len(s.paths)), results: map[*Filter]result{}, found: map[*textGroups]struct{}{}}
	m.meet = func(a *audience) { m.audiences = append(m.audiences, a) }
	return m
}

func (m *matching) run() {
	if len(m.audiences) > 1 {
		m.round++
		if m.seen == nil || m.round == 0 {
			m.seen, m.round = make([]uint32, len(m.snapshot.order)), 1
		}
	}
	for _, a := range m.audiences {
		for _, member := range a.everything {
			m.take(member)
		}
		switch {
		case len(a.groups) == 0:
		case m.view == nil:
			m.takeAll(a.groups)
		default:
			m.filter(a)
		}
	}
}

// filter decides on the groups that the event's values lead to.
func (m *matching) filter(a *audience) {
	if err := m.view.decode(); err != nil {
		for _, g := range a.groups {
			m.fail(g, err)
		}
		return
	}
	for i := range a.equal {
		if value, ok := m.value(a.equal[i].path); ok {
			for _, g := range a.equal[i].at(value) {
				m.decide(g)
			}
		}
	}
	for i := range a.bounds {
		if value, ok := m.value(a.bounds[i].path); ok {
			a.bounds[i].each(value, m.decide)
		}
	}
	for i := range a.texts {
		if value, ok := m.value(a.texts[i].path); ok {
			a.texts[i].each(value, m.found, m.decide)
		}
	}
	for _, g := range a.rest {
		m.decide(g)
	}
}

func (m *matching) decide(g *group) {
	if g.err != nil {
		m.fail(g, g.err)
		return
	}
	decided := g.filter.exact
	for i := range g.filter.conditions {
		value, ok := m.value(g.paths[i])
		if !ok {
			return
		}
		if text, isText := value.(string); isText && len(text) > shortText && g.filter.conditions[i].searches() {
			decided = false // searching it is part of the evaluation, for which there is a limit
			continue
		}
		if !g.filter.conditions[i].holds(value) {
			return
		}
	}
	if decided {
		m.takeGroup(g)
		return
	}
	r := m.evaluate(g.filter)
	switch {
	case r.later:
		m.putOff(g)
	case r.err != nil:
		m.fail(g, r.err)
	case r.match:
		m.takeGroup(g)
	}
}

func (m *matching) evaluate(f *Filter) (r result) {
	if len(m.audiences) > 1 {
		if r, ok := m.results[f]; ok {
			return r
		}
		defer func() { m.results[f] = r }()
	}
	if m.later != nil && f.isLate(m.view, m.spent) {
		return result{later: true}
	}
	var took time.Duration
	r.match, took, r.err = f.run(&m.machine, m.view)
	m.spent += max(took-quick, 0)
	return r
}

func (m *matching) putOff(g *group) {
	for _, member := range g.members {
		if m.first(member) {
			m.later(m.snapshot.order[member])
		}
	}
}

// value is what a path leads to in the event, found once for all filters.
func (m *matching) value(id int32) (any, bool) {
	v := &m.values[id]
	if !v.known {
		v.known = true
		v.value, v.ok = m.snapshot.paths[id].value(m.view)
		m.asked = append(m.asked, id)
	}
	return v.value, v.ok
}

// first tells whether a member is decided on for the first time: two subjects of an endpoint may both meet the event.
func (m *matching) first(member int32) bool {
	if len(m.audiences) < 2 {
		return true
	}
	if m.seen[member] == m.round {
		return false
	}
	m.seen[member] = m.round
	return true
}

func (m *matching) take(member int32) {
	if m.first(member) {
		m.dst = append(m.dst, m.snapshot.order[member])
	}
}

func (m *matching) takeGroup(g *group) {
	for _, member := range g.members {
		m.take(member)
	}
}

func (m *matching) takeAll(groups []*group) {
	for _, g := range groups {
		m.takeGroup(g)
	}
}

func (m *matching) fail(g *group, err error) {
	if m.failed == nil {
		return
	}
	for _, member := range g.members {
		if m.first(member) {
			m.failed(m.snapshot.order[member], err)
		}
	}
}

// reset lets go of the event.
func (m *matching) reset() {
	for _, id := range m.asked {
		m.values[id] = pathValue{}
	}
	m.asked = m.asked[:0]
	clear(m.audiences)
	m.audiences = m.audiences[:0]
	m.view, m.failed, m.later, m.dst = nil, nil, nil, nil
	clear(m.results)
	clear(m.machine.Stack[:cap(m.machine.Stack)])
}
