package endpoint

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"
)

// Limits of a filter. Together with those of a [View] they bound one evaluation whatever the event: 0.3 s and 34 MB for
// the worst that is known (BenchmarkHostile, 4 MiB).
const (
	// MaxFilter is the largest source in bytes.
	MaxFilter = 4 << 10
	// maxNodes bounds the nodes of the syntax tree; literals inside [ ] do not count.
	maxNodes = 100
	// maxScans bounds the operations that may read the whole event: loops, lower and upper, == of two parts of the event.
	maxScans = 8
	// maxRegexp bounds the instructions of all regular expressions of a filter together, and maxRegexpEvent the bytes of an
	// event that they are tried on: their cost is the product of the two.
	maxRegexp, maxRegexpEvent = 100, 512 << 10
	// maxElements bounds the elements of all lists that one evaluation builds.
	maxElements = 200_000
	// maxErrorText bounds an error in bytes: a run-time error may quote the event.
	maxErrorText = 300
)

// loops are the functions that take a predicate, functions the others. What is missing either multiplies (repeat, join,
// split, flatten, sort, nested loops over groups), formats whole trees (string, toJSON) or gives another answer later
// (now): a replayed event meets the same filter as the first time.
var (
	loops     = []string{"all", "any", "none", "one", "count", "filter", "map", "find", "sum"}
	functions = []string{
		"len", "lower", "upper", "trim", "hasPrefix", "hasSuffix", "type", "int", "float", "abs", "ceil", "floor", "round",
		"min", "max", "first", "last", "date", "duration",
	}
	scanning = []string{"lower", "upper", "trim", "min", "max"}
)

// Filter is a compiled expression over an event, e.g. event.data.confidence >= 0.8. It is safe for concurrent use.
//
// The language is that of github.com/expr-lang/expr, cut down to what cannot grow. Measured against cel-go v0.32.0 with
// its cost limit (one core, same expressions): a comparison 0.10 µs to 0.73 µs, an equality and a contains 0.22 µs to
// 1.4 µs, any() over a list 0.4 µs to 3.7 µs, compiling 16-25 µs to 32-74 µs, 2.3 KB to 1.4 KB held per program, no
// dependency to seven. What CEL has and expr lacks is a limit on cost at run time; here the form of the expression bounds
// it beforehand: no loop in a loop, nothing but the element inside a loop, limits on nodes, scans and values.
type Filter struct {
	source  string
	program *vm.Program
	regexp  bool
	weight  weight
	known   experience
	// conditions must all hold for the filter to hold; exact tells that they are the whole filter.
	conditions []condition
	exact      bool
}

// FilterError is a fault of a filter, at its creation or at run time. Line and Column count from 1, in characters.
type FilterError struct {
	Line, Column int
	Message      string
}

func (e *FilterError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// CompileFilter checks and compiles an expression. An error is a [*FilterError].
func CompileFilter(source string) (f *Filter, err error) {
	defer func() {
		if r := recover(); r != nil { // the library has no known panic here; foreign text must not find one
			f, err = nil, &FilterError{1, 1, shorten(fmt.Sprintf("cannot be compiled: %v", r))}
		}
	}()
	switch {
	case strings.TrimSpace(source) == "":
		return nil, &FilterError{1, 1, "is empty: write e.g. event.data.confidence >= 0.8, or leave the filter out"}
	case len(source) > MaxFilter:
		return nil, &FilterError{1, 1, fmt.Sprintf("is %d bytes, at most %d", len(source), MaxFilter)}
	case !utf8.ValidString(source):
		return nil, &FilterError{1, 1, "is not valid UTF-8"}
	}
	tree, err := parser.Parse(source)
	if err != nil {
		return nil, filterError(err)
	}
	c := checker{source: source}
	if c.check(tree.Node, false); c.err != nil {
		return nil, c.err
	}
	program, err := expr.Compile(source, expr.Env(environment{}), expr.AsBool(), listFunction, expr.Patch(onlyLists{}))
	if err != nil {
		return nil, filterError(err)
	}
	if err := checkSums(source, program.Node()); err != nil {
		return nil, err
	}
	f = &Filter{source: source, program: program, regexp: c.regexp > 0, weight: c.weight()}
	f.conditions, f.exact = conditionsOf(tree.Node)
	return f, nil
}

// Source is the expression as it was given.
func (f *Filter) Source() string { return f.source }

var machines = sync.Pool{New: func() any { return &vm.VM{MemoryBudget: maxElements} }}

// Match tells whether the event passes. An error counts as no match: a member of something that is not there, types
// that do not compare, an event that no filter may look at (see [View]).
func (f *Filter) Match(view *View) (bool, error) {
	if err := view.decode(); err != nil {
		return false, err
	}
	m := machines.Get().(*vm.VM)
	defer machines.Put(m)
	match, _, err := f.run(m, view)
	return match, err
}

// run needs a decoded view. took is not measured, but 0, where it is [quick] at worst.
func (f *Filter) run(m *vm.VM, view *View) (match bool, took time.Duration, err error) {
	if f.regexp && len(view.data) > maxRegexpEvent {
		return false, 0, fmt.Errorf("the event has %d bytes: a filter with a regular expression looks at %d at most", len(view.data), maxRegexpEvent)
	}
	worst := f.weight.of(view)
	var start time.Time
	if worst > quick {
		start = time.Now()
	}
	out, err := m.Run(f.program, &view.env)
	if worst > quick {
		took = min(time.Since(start), worst) // what is beyond that was somebody else's turn of the processor
		f.known.learn(len(view.data), took)
	}
	if err != nil {
		return false, took, filterError(err)
	}
	return out == true, took, nil // anything but a truth value is an error of the machine's; nil is false
}

// filterError takes the position out of the library's errors and leaves its picture of the source away.
func filterError(err error) *FilterError {
	var fe *file.Error
	if !errors.As(err, &fe) {
		return &FilterError{1, 1, shorten(err.Error())}
	}
	text := fe.Message
	if strings.Contains(text, "time.Time and string") || strings.Contains(text, "string and time.Time") {
		text += `: write date("2026-01-31T12:00:00Z")`
	}
	return &FilterError{max(fe.Line, 1), fe.Column + 1, shorten(text)}
}

func shorten(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

func kindName(v any) string {
	switch v.(type) {
	case nil:
		return "nil"
	case string:
		return "a string"
	case float64, int:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	default:
		return fmt.Sprintf("%T", v)
	}
}

// checker refuses what could cost too much or means nothing, before the library sees it, with a remedy.
type checker struct {
	source       string
	nodes, scans int
	regexp       int // instructions
	searches     int // in texts
	copies       int // of texts
	looped       int // nodes inside loops
	err          *FilterError
}

func (c *checker) fail(n ast.Node, format string, args ...any) {
	if c.err == nil {
		c.err = errorAt(c.source, n, format, args...)
	}
}

func errorAt(source string, n ast.Node, format string, args ...any) *FilterError {
	e := &FilterError{1, 1, fmt.Sprintf(format, args...)}
	from := n.Location().From
	for _, r := range source {
		if from--; from < 0 {
			break
		}
		e.Column++
		if r == '\n' {
			e.Line, e.Column = e.Line+1, 1
		}
	}
	return e
}

func (c *checker) scan(n ast.Node) {
	if c.scans++; c.scans > maxScans {
		c.fail(n, "has more than %d operations that may read the whole event (loops, lower, upper, ==  between two parts of it)", maxScans)
	}
}

// check walks down; inLoop is true inside a predicate.
func (c *checker) check(n ast.Node, inLoop bool) {
	if c.err != nil {
		return
	}
	if c.nodes++; c.nodes > maxNodes {
		c.fail(n, "has more than %d operations and operands", maxNodes)
		return
	}
	if inLoop {
		c.looped++
	}
	switch n := n.(type) {
	case *ast.NilNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.StringNode:
	case *ast.IdentifierNode:
		c.identifier(n)
	case *ast.PointerNode:
		if n.Name != "" {
			c.fail(n, "#%s is not known: # is the element", n.Name)
		}
	case *ast.MemberNode:
		c.member(n, inLoop)
	case *ast.ChainNode:
		c.check(n.Node, inLoop)
	case *ast.UnaryNode:
		c.check(n.Node, inLoop)
	case *ast.BinaryNode:
		c.binary(n, inLoop)
	case *ast.ConditionalNode:
		c.check(n.Cond, inLoop)
		c.check(n.Exp1, inLoop)
		c.check(n.Exp2, inLoop)
	case *ast.ArrayNode:
		for _, element := range n.Nodes {
			if _, ok := literal(element); !ok {
				c.check(element, inLoop)
			}
		}
	case *ast.BuiltinNode:
		c.call(n, inLoop)
	case *ast.CallNode:
		if name, ok := n.Callee.(*ast.IdentifierNode); ok {
			c.fail(n, "%s is no function here; there are %s", name.Value, functionNames())
		} else {
			c.fail(n, "methods cannot be called; the functions are %s", functionNames())
		}
	case *ast.VariableDeclaratorNode:
		c.fail(n, "let is not allowed in a filter: write the expression out")
	default:
		c.fail(n, "%s is not allowed in a filter", nodeName(n))
	}
}

func nodeName(n ast.Node) string {
	switch n.(type) {
	case *ast.SliceNode:
		return "a slice [a:b]"
	case *ast.MapNode, *ast.PairNode:
		return "an object { }"
	case *ast.SequenceNode:
		return "a sequence with ;"
	case *ast.BytesNode:
		return "a byte string"
	default:
		return "this"
	}
}

func functionNames() string { return strings.Join(append(slices.Clone(loops), functions...), ", ") }

func (c *checker) identifier(n *ast.IdentifierNode) {
	if n.Value == "event" {
		c.fail(n, "event by itself is no value: write event.data or one of %s", strings.Join(attributeNames(), ", "))
		return
	}
	c.fail(n, "%s is not known: everything begins with event, e.g. event.data.%s; a text stands in quotes", n.Value, n.Value)
}

func (c *checker) member(n *ast.MemberNode, inLoop bool) {
	root, ok := n.Node.(*ast.IdentifierNode)
	if !ok || root.Value != "event" {
		c.check(n.Node, inLoop)
		c.check(n.Property, inLoop)
		return
	}
	name, ok := n.Property.(*ast.StringNode)
	switch {
	case !ok:
		c.fail(n.Property, "a field of event is named, e.g. event.type")
	case !slices.Contains(attributeNames(), name.Value):
		c.fail(n.Property, "event has no field %s%s; its fields are %s, and event.data holds the insight", name.Value, hint(name.Value),
			strings.Join(attributeNames(), ", "))
	case inLoop:
		c.fail(root, "inside a loop only the element is known: write .field or # for it, and compare with event outside")
	}
}

// hint names the attribute of which name is a shorter or mistyped form.
func hint(name string) string {
	for _, a := range attributeNames() {
		if len(name) > 1 && (strings.HasPrefix(a, name) || strings.HasPrefix(name, a) || strings.EqualFold(a, name)) {
			return ": did you mean event." + a + "?"
		}
	}
	return ""
}

func (c *checker) binary(n *ast.BinaryNode, inLoop bool) {
	switch n.Operator {
	case "matches":
		c.pattern(n)
	case "contains", "startsWith", "endsWith":
		c.searches++
	case "..":
		c.fail(n, "a range is not allowed in a filter: compare with >= and <=")
	case "==", "!=", "in", "not in":
		if !isConstant(n.Left) && !isConstant(n.Right) {
			c.scan(n)
		}
	}
	c.check(n.Left, inLoop)
	c.check(n.Right, inLoop)
}

func isConstant(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.ArrayNode:
		return !slices.ContainsFunc(n.Nodes, func(n ast.Node) bool { return !isConstant(n) })
	default:
		_, ok := literalOrNil(n)
		return ok
	}
}

func (c *checker) pattern(n *ast.BinaryNode) {
	text, ok := n.Right.(*ast.StringNode)
	if !ok {
		c.fail(n.Right, "a regular expression is a literal text")
		return
	}
	re, err := syntax.Parse(text.Value, syntax.Perl)
	if err != nil {
		c.fail(text, "%v", err)
		return
	}
	program, err := syntax.Compile(re.Simplify())
	if err != nil {
		c.fail(text, "%v", err)
		return
	}
	if c.regexp += len(program.Inst); c.regexp > maxRegexp {
		c.fail(text, "the regular expressions are too large: %d steps, at most %d; use contains, startsWith or shorter repetitions", c.regexp, maxRegexp)
	}
}

func (c *checker) call(n *ast.BuiltinNode, inLoop bool) {
	loop := slices.Contains(loops, n.Name)
	switch {
	case !loop && !slices.Contains(functions, n.Name):
		c.fail(n, "%s is not allowed in a filter; there are %s", n.Name, functionNames())
	case loop && isConstant(n.Arguments[0]): // the library makes a list of another kind of it
		c.fail(n, "%s loops over literals: write the result instead", n.Name)
	case loop && inLoop:
		c.fail(n, "%s stands inside another loop: loops cannot be nested", n.Name)
	case len(n.Arguments) != 1 && (n.Name == "date" || n.Name == "trim"): // a zone is a file, a set of characters multiplies
		c.fail(n, "%s takes one text here", n.Name)
	case inLoop && (n.Name == "date" || n.Name == "duration"):
		c.fail(n, "%s is not allowed inside a loop", n.Name)
	case loop || slices.Contains(scanning, n.Name):
		c.scan(n)
	}
	if !loop && slices.Contains(scanning, n.Name) {
		c.copies++
	}
	for _, a := range n.Arguments {
		if p, ok := a.(*ast.PredicateNode); ok {
			c.check(p.Node, true)
		} else {
			c.check(a, inLoop)
		}
	}
}

// checkSums refuses + of values whose types are only known at run time: a chain of them could be texts, each longer than
// the one before.
func checkSums(source string, root ast.Node) error {
	s := sums{source: source}
	ast.Walk(&root, &s)
	if s.err != nil {
		return s.err
	}
	return nil
}

type sums struct {
	source string
	err    *FilterError
}

func (s *sums) Visit(node *ast.Node) {
	n, ok := (*node).(*ast.BinaryNode)
	if !ok || n.Operator != "+" || s.err != nil {
		return
	}
	switch n.Type().String() {
	case "int", "float64", "time.Time", "time.Duration":
	default:
		s.err = errorAt(s.source, n, "+ adds numbers only: write float(event.data.a) + float(event.data.b)")
	}
}

// listFunction and onlyLists let loops run over lists alone. The library would also walk through a text byte by byte,
// and the number of bytes is bounded less tightly than the number of values.
var listFunction = expr.Function("list", func(args ...any) (any, error) {
	if list, ok := args[0].([]any); ok {
		return list, nil
	}
	return nil, fmt.Errorf("%s is no list", kindName(args[0]))
}, new(func(any) []any))

type onlyLists struct{}

func (onlyLists) Visit(node *ast.Node) {
	if n, ok := (*node).(*ast.BuiltinNode); ok && slices.Contains(loops, n.Name) {
		n.Arguments[0] = &ast.CallNode{Callee: &ast.IdentifierNode{Value: "list"}, Arguments: []ast.Node{n.Arguments[0]}}
	}
}
