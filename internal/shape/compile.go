package shape

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template/parse"
	"unicode/utf8"
)

// Limits of a template's source. What it may do is limited in run.go.
const (
	// MaxTemplate is the largest source in bytes.
	MaxTemplate = 16 << 10
	// maxNesting bounds how deep blocks, parentheses and pipelines stand in each other.
	maxNesting = 32
	// maxParentheses bounds the opening parentheses, because the parser takes 2 KB of stack for each that stands in another.
	maxParentheses = 1000
	// maxVariables bounds the variables of one template: each use looks through those that are there.
	maxVariables = 50
	// maxFaults bounds the faults of a template that are told at once.
	maxFaults = 10
	// maxErrorText bounds a text in an error that somebody else has a say in, in bytes.
	maxErrorText = 300
)

// program is a checked template: every function in it is known and gets as many arguments as it takes, every template that is
// called exists, and none leads back to itself.
type program struct {
	source    string
	root      *parse.ListNode
	templates map[string]*parse.ListNode
}

// fault is something wrong at a place in the source.
type fault struct {
	pos  parse.Pos
	text string
}

func faultAt(n parse.Node, format string, args ...any) *fault {
	return &fault{n.Position(), fmt.Sprintf(format, args...)}
}

func (f *fault) Error() string { return f.text }

// located says where. Lines and columns count from 1, columns in characters.
func (p *program) located(f *fault) error {
	before := p.source[:min(max(int(f.pos), 0), len(p.source))]
	line := 1 + strings.Count(before, "\n")
	column := 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
	return fmt.Errorf("template: line %d, column %d: %s", line, column, shorten(f.text))
}

func shorten(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// compile parses with text/template/parse, so that the language is Go's to the letter, and checks what text/template would
// find out while it runs.
func compile(source string) (p *program, err error) {
	defer func() {
		if r := recover(); r != nil { // the parser has no known panic; foreign text must not find one
			p, err = nil, fmt.Errorf("template: cannot be parsed: %s", shorten(fmt.Sprint(r)))
		}
	}()
	switch {
	case strings.TrimSpace(source) == "":
		return nil, errors.New(`template: is empty: write e.g. {"text":{{.data.content | json}}}, or choose another shape`)
	case len(source) > MaxTemplate:
		return nil, fmt.Errorf("template: is %d bytes, at most %d", len(source), MaxTemplate)
	case !utf8.ValidString(source):
		return nil, errors.New("template: is not valid UTF-8")
	case strings.Count(source, "(") > maxParentheses:
		return nil, fmt.Errorf("template: has more than %d opening parentheses", maxParentheses)
	}
	trees := map[string]*parse.Tree{}
	tree := parse.New(parseName)
	tree.Mode = parse.SkipFuncCheck // the check below knows the column and a remedy
	if _, err := tree.Parse(source, "", "", trees); err != nil {
		return nil, parseError(err)
	}
	p = &program{source: source, templates: map[string]*parse.ListNode{}}
	for name, t := range trees {
		p.templates[name] = t.Root
	}
	p.root = tree.Root
	c := checker{program: p, calls: map[string][]*parse.TemplateNode{}}
	return p, c.check()
}

// parseName stands in the parser's errors, which begin with "template: <name>:<line>: ".
const parseName = "source"

func parseError(err error) error {
	text := err.Error()
	if rest, ok := strings.CutPrefix(text, "template: "+parseName+":"); ok {
		if line, message, ok := strings.Cut(rest, ": "); ok {
			return fmt.Errorf("template: line %s: %s", line, shorten(message))
		}
	}
	return fmt.Errorf("template: %s", shorten(strings.TrimPrefix(text, "template: ")))
}

// checker walks all templates once and collects the faults.
type checker struct {
	program   *program
	name      string                           // of the template being walked
	variables int                              // in it
	calls     map[string][]*parse.TemplateNode // by the template they stand in
	faults    []*fault
}

func (c *checker) fail(n parse.Node, format string, args ...any) {
	c.faults = append(c.faults, faultAt(n, format, args...))
}

// check walks every template, then follows the calls between them.
func (c *checker) check() error {
	names := slices.Sorted(maps.Keys(c.program.templates))
	for _, name := range names {
		c.name, c.variables = name, 0
		c.node(c.program.templates[name], 0)
	}
	for _, name := range names {
		for _, call := range c.calls[name] {
			if c.leads(call.Name, name, map[string]bool{}) {
				c.fail(call, "template %q leads back to itself: write a range instead", call.Name)
			}
		}
	}
	return c.err()
}

func (c *checker) err() error {
	slices.SortStableFunc(c.faults, func(a, b *fault) int { return int(a.pos - b.pos) })
	var all []error
	for i, f := range c.faults {
		if i == maxFaults {
			all = append(all, fmt.Errorf("template: and %d faults more", len(c.faults)-maxFaults))
			break
		}
		all = append(all, c.program.located(f))
	}
	return errors.Join(all...)
}

// leads tells whether one template calls another, directly or through others.
func (c *checker) leads(from, to string, seen map[string]bool) bool {
	if from == to {
		return true
	}
	if seen[from] {
		return false
	}
	seen[from] = true
	return slices.ContainsFunc(c.calls[from], func(call *parse.TemplateNode) bool { return c.leads(call.Name, to, seen) })
}

func (c *checker) node(n parse.Node, depth int) {
	if list, ok := n.(*parse.ListNode); ok && list == nil { // no else
		return
	}
	if depth > maxNesting {
		c.fail(n, "stands in more than %d blocks and parentheses", maxNesting)
		return
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			c.node(child, depth)
		}
	case *parse.TextNode, *parse.CommentNode, *parse.BreakNode, *parse.ContinueNode:
	case *parse.ActionNode:
		c.pipe(n.Pipe, depth)
	case *parse.IfNode:
		c.branch(&n.BranchNode, depth)
	case *parse.WithNode:
		c.branch(&n.BranchNode, depth)
	case *parse.RangeNode:
		c.branch(&n.BranchNode, depth)
	case *parse.TemplateNode:
		if _, ok := c.program.templates[n.Name]; !ok {
			c.fail(n, "there is no template %q: {{define}} it", n.Name)
		}
		c.calls[c.name] = append(c.calls[c.name], n)
		c.pipe(n.Pipe, depth)
	default:
		c.fail(n, "is not supported")
	}
}

func (c *checker) branch(n *parse.BranchNode, depth int) {
	c.pipe(n.Pipe, depth)
	c.node(n.List, depth+1)
	c.node(n.ElseList, depth+1)
}

func (c *checker) pipe(n *parse.PipeNode, depth int) {
	if n == nil {
		return
	}
	if depth > maxNesting {
		c.fail(n, "stands in more than %d blocks and parentheses", maxNesting)
		return
	}
	if !n.IsAssign {
		if c.variables += len(n.Decl); c.variables > maxVariables {
			c.fail(n, "declares more than %d variables", maxVariables)
		}
	}
	for i, command := range n.Cmds {
		c.command(command, i > 0, depth)
	}
}

func (c *checker) command(n *parse.CommandNode, piped bool, depth int) {
	first, args := n.Args[0], n.Args[1:]
	name, isCall := first.(*parse.IdentifierNode)
	switch {
	case isCall:
		c.call(name, args, piped)
	case len(args) > 0 || piped:
		c.fail(first, "%s is no function and takes no arguments", shorten(first.String()))
	case first.Type() == parse.NodeNil:
		c.fail(first, "nil is no value to begin with")
	default:
		c.operand(first, depth)
	}
	for _, arg := range args {
		c.operand(arg, depth)
	}
}

func (c *checker) operand(n parse.Node, depth int) {
	switch n := n.(type) {
	case *parse.DotNode, *parse.NilNode, *parse.BoolNode, *parse.StringNode, *parse.FieldNode, *parse.VariableNode:
	case *parse.NumberNode:
		if n.IsComplex && !n.IsFloat || n.IsUint && !n.IsInt {
			c.fail(n, "%s is no whole number below 2^63 and no decimal one", shorten(n.Text))
		}
	case *parse.IdentifierNode:
		c.call(n, nil, false)
	case *parse.ChainNode:
		c.operand(n.Node, depth+1)
	case *parse.PipeNode:
		c.pipe(n, depth+1)
	default:
		c.fail(n, "is not supported")
	}
}

func (c *checker) call(name *parse.IdentifierNode, args []parse.Node, piped bool) {
	f, ok := functions[name.Ident]
	if !ok {
		remedy, known := missing[name.Ident]
		if !known {
			remedy = "is no function; there are " + strings.Join(slices.Sorted(maps.Keys(functions)), ", ")
		}
		c.faults = append(c.faults, &fault{name.Position(), name.Ident + ": " + remedy})
		return
	}
	n := len(args)
	if piped {
		n++
	}
	if n < f.min || n > f.max {
		c.fail(name, "%s gets %d arguments: write %s", name.Ident, n, f.usage)
	}
	if name.Ident == "printf" {
		c.format(name, args)
	}
}

func (c *checker) format(name *parse.IdentifierNode, args []parse.Node) {
	var literal *parse.StringNode
	if len(args) > 0 {
		literal, _ = args[0].(*parse.StringNode)
	}
	if literal == nil {
		c.fail(name, "printf takes its format first, as a literal text")
		return
	}
	if _, err := verbs(literal.Text); err != nil {
		c.fail(literal, "printf: %v", err)
	}
}
