package endpoint

import (
	"cmp"
	"slices"
	"sort"

	"github.com/expr-lang/expr/vm"
)

// audience is the active endpoints at one subject. Members are numbers of endpoints in the snapshot's order.
type audience struct {
	everything []int32 // without a filter
	groups     []*group

	// Each group stands in one of these: under a condition that must hold, so that an event looks at those groups only
	// where it does, or in rest.
	equal []equalIndex
	bound []boundIndex
	rest  []*group
}

// group is the endpoints at one subject that have the same filter; it is evaluated once for all of them.
type group struct {
	filter  *Filter
	err     error   // instead of filter: it does not compile
	paths   []int32 // of filter.conditions, in the snapshot
	members []int32
}

// equalIndex finds the groups that have a condition path == value.
type equalIndex struct {
	path   int32
	groups map[any][]*group
}

// boundIndex finds the groups that have a condition path op number, for the op > and >= (over true) or < and <=. Those
// that hold are at the front: the lower a lower bound, the more numbers lie above it.
type boundIndex struct {
	path   int32
	over   bool
	bounds []bound
}

type bound struct {
	condition *condition
	group     *group
}

func (b bound) limit() float64 { return b.condition.values[0].(float64) }

// place names an entry of the indexes, to count how many groups could stand at it.
type place struct {
	path  int32
	over  bool
	value any // nil in a boundIndex
}

// index puts each group where the fewest others could stand: of event.type == "…" && event.data.customer == "…" the
// customer, if most ask for the same type.
func (a *audience) index() {
	count := map[place]int{}
	for _, g := range a.groups {
		g.places(func(_ int, places []place) {
			for _, p := range places {
				count[p]++
			}
		})
	}
	equals, bounds := map[int32]int{}, map[place]int{}
	for _, g := range a.groups {
		best, at, cost := -1, []place(nil), 0
		g.places(func(i int, places []place) {
			sum := 0
			for _, p := range places {
				if p.value == nil {
					sum += (count[p] + 1) / 2 // a bound holds for half of the events, for want of a better guess
				} else {
					sum += count[p]
				}
			}
			if best < 0 || sum < cost {
				best, at, cost = i, slices.Clone(places), sum
			}
		})
		switch {
		case best < 0:
			a.rest = append(a.rest, g)
		case at[0].value == nil:
			x := indexAt(&a.bound, bounds, at[0], boundIndex{path: at[0].path, over: at[0].over})
			x.bounds = append(x.bounds, bound{&g.filter.conditions[best], g})
		default:
			x := indexAt(&a.equal, equals, at[0].path, equalIndex{path: at[0].path, groups: map[any][]*group{}})
			for _, p := range at {
				x.groups[p.value] = append(x.groups[p.value], g)
			}
		}
	}
	for _, x := range a.bound {
		x.sort()
	}
}

// indexAt is the index in list that a key stands for, added if it is new.
func indexAt[T any, K comparable](list *[]T, known map[K]int, key K, fresh T) *T {
	i, ok := known[key]
	if !ok {
		i = len(*list)
		known[key] = i
		*list = append(*list, fresh)
	}
	return &(*list)[i]
}

// places calls with the entries that each condition of the group could stand at. The slice is used again.
func (g *group) places(call func(condition int, places []place)) {
	if g.filter == nil {
		return
	}
	var places []place
	for i, c := range g.filter.conditions {
		places = places[:0]
		switch c.op {
		case "==":
			for _, v := range c.values {
				places = append(places, place{path: g.paths[i], value: v})
			}
		case ">", ">=":
			places = append(places, place{path: g.paths[i], over: true})
		case "<", "<=":
			places = append(places, place{path: g.paths[i]})
		default:
			continue
		}
		call(i, places)
	}
}

// sort puts those first that hold for the most numbers; at one number >= holds before >.
func (x *boundIndex) sort() {
	slices.SortStableFunc(x.bounds, func(a, b bound) int {
		byLimit := cmp.Compare(a.limit(), b.limit())
		if !x.over {
			byLimit = -byLimit
		}
		return cmp.Or(byLimit, cmp.Compare(len(b.condition.op), len(a.condition.op)))
	})
}

func (x *boundIndex) holding(value any) []bound {
	if _, ok := value.(float64); !ok {
		return nil
	}
	n := sort.Search(len(x.bounds), func(i int) bool { return !x.bounds[i].condition.holds(value) })
	return x.bounds[:n]
}

func (x *equalIndex) holding(value any) []*group {
	switch value.(type) {
	case string, float64, bool:
		return x.groups[value]
	default: // lists and objects equal no literal, and cannot be looked up
		return nil
	}
}

// matching is the matching of one event, and its memory for the next one.
type matching struct {
	snapshot *Snapshot
	machine  vm.VM
	meet     func(*audience)

	audiences []*audience
	view      *View
	failed    func(*Endpoint, error)
	dst       []*Endpoint

	values []pathValue // of snapshot.paths
	asked  []int32     // the values that are known
	// seen tells which members have been decided on in this round; it and results are used only for an event that meets
	// more than one audience.
	seen    []uint32
	round   uint32
	results map[*Filter]result
}

type pathValue struct {
	value     any
	known, ok bool
}

type result struct {
	match bool
	err   error
}

func newMatching(s *Snapshot) *matching {
	m := &matching{snapshot: s, machine: vm.VM{MemoryBudget: maxElements}, values: make([]pathValue, len(s.paths)), results: map[*Filter]result{}}
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
			for _, g := range a.equal[i].holding(value) {
				m.decide(g)
			}
		}
	}
	for i := range a.bound {
		if value, ok := m.value(a.bound[i].path); ok {
			for _, b := range a.bound[i].holding(value) {
				m.decide(b.group)
			}
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
	for i := range g.filter.conditions {
		value, ok := m.value(g.paths[i])
		if !ok || !g.filter.conditions[i].holds(value) {
			return
		}
	}
	if g.filter.exact {
		m.takeGroup(g)
		return
	}
	r := m.evaluate(g.filter)
	switch {
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
	r.match, r.err = f.run(&m.machine, m.view)
	return r
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
	m.view, m.failed, m.dst = nil, nil, nil
	clear(m.results)
	clear(m.machine.Stack[:cap(m.machine.Stack)])
}
