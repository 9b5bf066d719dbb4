package shape

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/template/parse"
)

// Limits of one rendering. Everything a template does is counted in steps: one for each part of the template that is
// evaluated, for each turn of a loop, and for each 16 bytes of text that a function reads or writes. The worst template that
// is known takes 10 ms and 4 MB for them beside what the decoded event needs (BenchmarkHostile).
const (
	// MaxOutput is the largest output in bytes, and the largest text that a function takes or gives.
	MaxOutput = 256 << 10
	maxSteps  = 50_000
	// stepBytes is how many bytes of text cost as much as evaluating a part of the template.
	stepBytes = 16
)

var errSteps = errors.New("the template does too much: shorten its loops, and truncate long texts before anything else")

// runner renders one event.
//
// It walks the tree that text/template would walk, because text/template itself cannot be bounded: it takes no context, calls
// methods by reflection, formats whole values before it writes them, sorts every map it ranges over, and since Go 1.24 ranges
// over integers. Here every step passes [runner.spend]. It also takes what is missing, or of another kind than expected, for
// nothing, where text/template prints "<no value>" or fails. TestLikeTextTemplate compares the two where they agree.
type runner struct {
	program   *program
	out       []byte
	steps     int // that are left
	variables []variable
	enough    int // how many bytes of JSON are wanted; 0 = all
}

type variable struct {
	name  string
	value any
}

// flow says how a node ended.
type flow int

const (
	onward flow = iota
	breaking
	continuing
)

func (p *program) run(dot any) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil { // there is no known panic; a foreign event must not find one
			out, err = nil, errors.New("template: cannot be rendered: a fault of the relay's")
		}
	}()
	r := &runner{program: p, out: make([]byte, 0, len(p.source)+512), steps: maxSteps, variables: []variable{{"$", dot}}}
	_, err = r.list(dot, p.root)
	var f *fault
	if errors.As(err, &f) {
		return nil, p.located(f)
	}
	return r.out, err
}

// spend takes n steps from what is left.
func (r *runner) spend(n int) error {
	if n < 0 || n > r.steps {
		r.steps = 0
		return errSteps
	}
	r.steps -= n
	return nil
}

// spendText takes the steps for n bytes of text.
func (r *runner) spendText(n int) error { return r.spend(n / stepBytes) }

// at gives an error its place, unless it has one.
func at(n parse.Node, err error) error {
	var f *fault
	if err == nil || errors.As(err, &f) {
		return err
	}
	return faultAt(n, "%v", err)
}

func (r *runner) list(dot any, list *parse.ListNode) (flow, error) {
	if list == nil {
		return onward, nil
	}
	for _, n := range list.Nodes {
		if err := r.spend(1); err != nil {
			return onward, at(n, err)
		}
		if flow, err := r.node(dot, n); err != nil || flow != onward {
			return flow, err
		}
	}
	return onward, nil
}

func (r *runner) node(dot any, n parse.Node) (flow, error) {
	switch n := n.(type) {
	case *parse.TextNode:
		return onward, at(n, r.write(string(n.Text)))
	case *parse.ActionNode:
		value, err := r.pipe(dot, n.Pipe)
		if err == nil && len(n.Pipe.Decl) == 0 {
			err = at(n, r.print(value))
		}
		return onward, err
	case *parse.IfNode:
		return r.branch(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return r.branch(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		return r.loop(dot, n)
	case *parse.TemplateNode:
		return onward, r.call(dot, n)
	case *parse.BreakNode:
		return breaking, nil
	case *parse.ContinueNode:
		return continuing, nil
	}
	return onward, nil // a comment; the check refused all others
}

// write appends to the output.
func (r *runner) write(s string) error {
	if len(r.out)+len(s) > MaxOutput {
		return fmt.Errorf("the output has more than %d bytes: truncate what is long", MaxOutput)
	}
	r.out = append(r.out, s...)
	return r.spendText(len(s))
}

func (r *runner) print(value any) error {
	s, err := r.text(value)
	if err != nil {
		return err
	}
	return r.write(s)
}

// branch is if and with: what variables are declared inside end with it.
func (r *runner) branch(dot any, n *parse.BranchNode, with bool) (flow, error) {
	mark := len(r.variables)
	defer func() { r.variables = r.variables[:mark] }()
	value, err := r.pipe(dot, n.Pipe)
	if err != nil {
		return onward, err
	}
	switch {
	case !truth(value):
		return r.list(dot, n.ElseList)
	case with:
		return r.list(value, n.List)
	}
	return r.list(dot, n.List)
}

func (r *runner) loop(dot any, n *parse.RangeNode) (flow, error) {
	mark := len(r.variables)
	defer func() { r.variables = r.variables[:mark] }()
	value, err := r.pipe(dot, n.Pipe)
	if err != nil {
		return onward, err
	}
	turns, err := r.turns(value)
	if err != nil {
		return onward, at(n.Pipe, err)
	}
	if turns.n == 0 {
		return r.list(dot, n.ElseList) // a break in there is the outer loop's
	}
	inner := len(r.variables)
	for i := range turns.n {
		key, element := turns.at(i)
		r.declare(n.Pipe, key, element)
		flow, err := r.list(element, n.List)
		r.variables = r.variables[:inner]
		if err != nil {
			return onward, err
		}
		if flow == breaking {
			break
		}
	}
	return onward, nil
}

// declare gives a loop's variables their values for one turn: the element to the only one, else the key to the first.
func (r *runner) declare(pipe *parse.PipeNode, key, element any) {
	values := []any{element}
	if len(pipe.Decl) == 2 {
		values = []any{key, element}
	}
	for i, v := range pipe.Decl {
		r.set(v.Ident[0], values[i])
	}
}

// turns is what a loop goes through.
type turns struct {
	n  int
	at func(i int) (key, element any)
}

// turns takes the steps for all turns at once, and for the sorting of an object's keys, before anything is done. What is no
// list, object or whole number has none.
func (r *runner) turns(value any) (turns, error) {
	switch v := value.(type) {
	case []any:
		return turns{len(v), func(i int) (any, any) { return i, v[i] }}, r.spend(len(v))
	case map[string]any:
		if err := r.spend(3 * len(v)); err != nil {
			return turns{}, err
		}
		keys := slices.Sorted(maps.Keys(v))
		return turns{len(keys), func(i int) (any, any) { return keys[i], v[keys[i]] }}, nil
	}
	n, _ := whole(value)
	if n = max(n, 0); n > maxSteps {
		return turns{}, errSteps
	}
	return turns{int(n), func(i int) (any, any) { return i, i }}, r.spend(int(n))
}

// call is {{template}}: nothing of the caller's variables is seen inside, and $ is the argument.
func (r *runner) call(dot any, n *parse.TemplateNode) error {
	var argument any
	if n.Pipe != nil {
		value, err := r.pipe(dot, n.Pipe)
		if err != nil {
			return err
		}
		argument = value
	}
	outer := r.variables
	r.variables = []variable{{"$", argument}}
	_, err := r.list(argument, r.program.templates[n.Name])
	r.variables = outer
	return err
}

func (r *runner) pipe(dot any, n *parse.PipeNode) (value any, err error) {
	for i, command := range n.Cmds {
		if value, err = r.command(dot, command, value, i > 0); err != nil {
			return nil, err
		}
	}
	for _, v := range n.Decl {
		if n.IsAssign {
			r.set(v.Ident[0], value)
		} else {
			r.variables = append(r.variables, variable{v.Ident[0], value})
		}
	}
	return value, nil
}
