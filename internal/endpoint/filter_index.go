package endpoint

import (
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// A condition is one conjunct of a filter in a form that can be looked up, or at least asked without the expression's
// machine: a path compared with literals. It holds exactly where the conjunct, evaluated by the machine, is true; where
// that is false or fails at run time the condition does not hold.
type condition struct {
	path path
	op   string // ==, !=, <, <=, >, >=, contains, startsWith, endsWith
	// values are string, float64, bool, or nil for == and !=: several for == only, one of which must be equal.
	values []any
}

// path leads from the event to a value: an attribute, and steps into event.data.
type path struct {
	key       string // one for each different path
	attribute string
	steps     []step
	lower     bool // lower(path)
}

type step struct {
	name     string
	optional bool // a?.b: nil, and so is the whole path, where a is nil
}

// value is what the path leads to in a decoded view; false where the machine would fail.
func (p *path) value(v *View) (any, bool) {
	value, ok := p.walk(v)
	if !p.lower || !ok {
		return value, ok
	}
	text, ok := value.(string)
	return strings.ToLower(text), ok
}

func (p *path) walk(v *View) (any, bool) {
	if p.attribute != "data" {
		return *v.env.Event.text(p.attribute), true
	}
	value := v.env.Event.Data
	for _, s := range p.steps {
		if value == nil && s.optional {
			return nil, true
		}
		object, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		value = object[s.name]
	}
	return value, true
}

func (c *condition) holds(value any) bool {
	switch c.op {
	case "==":
		return slices.ContainsFunc(c.values, func(want any) bool { return equal(value, want) })
	case "!=":
		return !equal(value, c.values[0])
	}
	switch want := c.values[0].(type) {
	case float64:
		have, ok := value.(float64)
		return ok && compare(have, c.op, want)
	case string:
		have, ok := value.(string)
		return ok && search(have, c.op, want)
	default:
		return false
	}
}

// searches tells whether the condition looks for a text in another.
func (c *condition) searches() bool { return c.op == "contains" }

// equal compares a JSON value with a literal; lists and objects equal none.
func equal(value, want any) bool {
	switch value.(type) {
	case nil, string, float64, bool:
		return value == want
	default:
		return false
	}
}

func compare(have float64, op string, want float64) bool {
	switch op {
	case "<":
		return have < want
	case "<=":
		return have <= want
	case ">":
		return have > want
	default:
		return have >= want
	}
}

func search(have, op, want string) bool {
	switch op {
	case "contains":
		return strings.Contains(have, want)
	case "startsWith":
		return strings.HasPrefix(have, want)
	default:
		return strings.HasSuffix(have, want)
	}
}

// conditionsOf takes the conditions out of a filter's top-level conjuncts. exact tells that nothing else is in it.
func conditionsOf(n ast.Node) (list []condition, exact bool) {
	if b, ok := n.(*ast.BinaryNode); ok && (b.Operator == "&&" || b.Operator == "and") {
		left, exactLeft := conditionsOf(b.Left)
		right, exactRight := conditionsOf(b.Right)
		return append(left, right...), exactLeft && exactRight
	}
	if c, ok := conditionOf(n); ok {
		return []condition{c}, true
	}
	return nil, false
}

func conditionOf(n ast.Node) (condition, bool) {
	if p, ok := pathOf(n); ok {
		return condition{p, "==", []any{true}}, true
	}
	switch n := n.(type) {
	case *ast.UnaryNode:
		p, ok := pathOf(n.Node)
		return condition{p, "==", []any{false}}, ok && (n.Operator == "!" || n.Operator == "not")
	case *ast.BinaryNode:
		switch n.Operator {
		case "||", "or":
			return eitherOf(n)
		case "in":
			return oneOf(n)
		default:
			return comparisonOf(n)
		}
	default:
		return condition{}, false
	}
}

// mirrored are the operators that can be read from right to left.
var mirrored = map[string]string{"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

func comparisonOf(n *ast.BinaryNode) (condition, bool) {
	op := n.Operator
	p, ok := pathOf(n.Left)
	want, isLiteral := literalOrNil(n.Right)
	if !ok {
		op = mirrored[op]
		p, ok = pathOf(n.Right)
		want, isLiteral = literalOrNil(n.Left)
	}
	if !ok || !isLiteral {
		return condition{}, false
	}
	c := condition{p, op, []any{want}}
	switch op {
	case "==", "!=":
		return c, true
	case "<", "<=", ">", ">=": // texts compare too, but not often enough for an index
		_, ok = want.(float64)
		return c, ok
	case "contains", "startsWith", "endsWith":
		_, ok = want.(string)
		return c, ok
	default:
		return condition{}, false
	}
}

// oneOf reads path in [literals]. A list with an empty text is left to the machine, for which nil is in it.
func oneOf(n *ast.BinaryNode) (condition, bool) {
	p, ok := pathOf(n.Left)
	array, isArray := n.Right.(*ast.ArrayNode)
	if !ok || !isArray || len(array.Nodes) == 0 {
		return condition{}, false
	}
	c := condition{path: p, op: "=="}
	for _, element := range array.Nodes {
		want, ok := literal(element)
		if !ok || want == "" {
			return condition{}, false
		}
		c.add(want)
	}
	return c, true
}

// eitherOf reads an or of plain equalities over one path. Nothing else can stand in it: in and a bare truth value fail at
// run time for values of another type, and then the whole or does.
func eitherOf(n *ast.BinaryNode) (condition, bool) {
	left, ok := equalityOf(n.Left)
	if !ok {
		return condition{}, false
	}
	right, ok := equalityOf(n.Right)
	if !ok || right.path.key != left.path.key {
		return condition{}, false
	}
	for _, want := range right.values {
		left.add(want)
	}
	return left, true
}

func equalityOf(n ast.Node) (condition, bool) {
	b, ok := n.(*ast.BinaryNode)
	if !ok {
		return condition{}, false
	}
	switch b.Operator {
	case "==":
		return comparisonOf(b)
	case "||", "or":
		return eitherOf(b)
	default:
		return condition{}, false
	}
}

func (c *condition) add(want any) {
	if !slices.Contains(c.values, want) {
		c.values = append(c.values, want)
	}
}

// literal is a text, a number or a truth value. Numbers become float64, as the machine makes them when it compares them
// with a number of JSON.
func literal(n ast.Node) (any, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.BoolNode:
		return n.Value, true
	case *ast.IntegerNode:
		return float64(n.Value), true
	case *ast.FloatNode:
		return n.Value, true
	case *ast.UnaryNode:
		v, ok := literal(n.Node)
		number, isNumber := v.(float64)
		return -number, ok && isNumber && n.Operator == "-"
	default:
		return nil, false
	}
}

func literalOrNil(n ast.Node) (any, bool) {
	if _, ok := n.(*ast.NilNode); ok {
		return nil, true
	}
	return literal(n)
}

// pathOf reads event.type, event.data.a.b, event.data?.a["b"], and lower() of one.
func pathOf(n ast.Node) (path, bool) {
	if call, ok := n.(*ast.BuiltinNode); ok && call.Name == "lower" && len(call.Arguments) == 1 {
		p, ok := pathOf(call.Arguments[0])
		p.key, p.lower = "lower "+p.key, true
		return p, ok
	}
	if chain, ok := n.(*ast.ChainNode); ok {
		n = chain.Node
	}
	var p path
	for {
		m, ok := n.(*ast.MemberNode)
		if !ok {
			return path{}, false
		}
		name, ok := m.Property.(*ast.StringNode)
		if !ok {
			return path{}, false
		}
		if root, ok := m.Node.(*ast.IdentifierNode); ok {
			p.attribute = name.Value
			slices.Reverse(p.steps)
			return p.finish(root.Value)
		}
		p.steps = append(p.steps, step{name.Value, m.Optional})
		n = m.Node
	}
}

func (p path) finish(root string) (path, bool) {
	if root != "event" || p.attribute != "data" && (len(p.steps) > 0 || (&eventFields{}).text(p.attribute) == nil) {
		return path{}, false
	}
	key := []byte(p.attribute)
	for _, s := range p.steps {
		if s.optional {
			key = append(key, '?')
		}
		key = strconv.AppendQuote(append(key, '.'), s.name)
	}
	p.key = string(key)
	return p, true
}
