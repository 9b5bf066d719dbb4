package shape

import (
	"strings"
	"text/template/parse"
)

// command evaluates one command of a pipeline; final is the value of the one before it, if it is piped.
func (r *runner) command(dot any, n *parse.CommandNode, final any, piped bool) (any, error) {
	if name, ok := n.Args[0].(*parse.IdentifierNode); ok {
		return r.apply(dot, name, n.Args[1:], final, piped)
	}
	return r.operand(dot, n.Args[0])
}

func (r *runner) operand(dot any, n parse.Node) (any, error) {
	if err := r.spend(1); err != nil {
		return nil, at(n, err)
	}
	switch n := n.(type) {
	case *parse.DotNode:
		return dot, nil
	case *parse.BoolNode:
		return n.True, nil
	case *parse.StringNode:
		return n.Text, nil
	case *parse.NumberNode:
		if n.IsInt && !isFloatLiteral(n.Text) {
			return n.Int64, nil
		}
		return n.Float64, nil
	case *parse.FieldNode:
		return r.members(dot, n, n.Ident)
	case *parse.VariableNode:
		return r.members(r.lookup(n.Ident[0]), n, n.Ident[1:])
	case *parse.ChainNode:
		value, err := r.operand(dot, n.Node)
		if err != nil {
			return nil, err
		}
		return r.members(value, n, n.Field)
	case *parse.PipeNode:
		return r.pipe(dot, n)
	case *parse.IdentifierNode:
		return r.apply(dot, n, nil, nil, false)
	}
	return nil, nil // nil itself; the check refused all others
}

// isFloatLiteral tells 1e6 and 1.0, which are floats to text/template, from 1000000, 0x1e6 and '.'.
func isFloatLiteral(text string) bool {
	digits := strings.TrimLeft(text, "+-")
	if strings.HasPrefix(digits, "'") || strings.HasPrefix(strings.ToLower(digits), "0x") {
		return strings.ContainsAny(digits, "pP") && digits[0] != '\''
	}
	return strings.ContainsAny(digits, ".eE")
}

// members follows a path. What is not there is nil, and so is every member of what is no object.
func (r *runner) members(value any, n parse.Node, names []string) (any, error) {
	if err := r.spend(len(names)); err != nil {
		return nil, at(n, err)
	}
	for _, name := range names {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value, nil
}

// lookup is the innermost variable of a name; the parser refuses names that are not declared.
func (r *runner) lookup(name string) any {
	for i := len(r.variables) - 1; i >= 0; i-- {
		if r.variables[i].name == name {
			return r.variables[i].value
		}
	}
	return nil
}

func (r *runner) set(name string, value any) {
	for i := len(r.variables) - 1; i >= 0; i-- {
		if r.variables[i].name == name {
			r.variables[i].value = value
			return
		}
	}
}

// apply calls a function. The check saw to it that there is one, with as many arguments as it takes.
func (r *runner) apply(dot any, name *parse.IdentifierNode, args []parse.Node, final any, piped bool) (any, error) {
	if err := r.spend(2); err != nil {
		return nil, at(name, err)
	}
	f := functions[name.Ident]
	values := make([]any, 0, len(args)+1)
	for _, arg := range args {
		value, err := r.operand(dot, arg)
		if err != nil {
			return nil, err
		}
		if f.until != nil && f.until(value) { // and, or: the rest is not evaluated
			return value, nil
		}
		values = append(values, value)
	}
	if piped {
		values = append(values, final)
	}
	value, err := f.call(r, values)
	if err != nil {
		return nil, faultAt(name, "%s: %v", name.Ident, err)
	}
	return value, nil
}
