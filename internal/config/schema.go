package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// node is a key of the configuration: a section has children, a list of sections has item, anything else is a leaf.
type node struct {
	children map[string]*node
	item     *node
	leaf     reflect.Type
}

// schema is the tree of all keys, read off the structs' tags so that it cannot differ from them.
func schema() *node { return nodeOf(reflect.TypeFor[Config]()) }

func nodeOf(t reflect.Type) *node {
	switch {
	case t.Kind() == reflect.Struct && t != reflect.TypeFor[Secret]():
		n := &node{children: map[string]*node{}}
		for f := range fieldsOf(t) {
			n.children[f.Tag.Get("koanf")] = nodeOf(f.Type)
		}
		return n
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return &node{item: nodeOf(t.Elem())}
	default:
		return &node{leaf: t}
	}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("koanf") != "" && !yield(f) {
				return
			}
		}
	}
}

// find is the node of a path, nil if there is none.
func (n *node) find(path []string) *node {
	for _, p := range path {
		if n == nil {
			return nil
		}
		n = n.children[p]
	}
	return n
}

// prune removes from raw what the schema does not know, and reports it.
func (n *node) prune(raw map[string]any, at string, p *Problems) {
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		path := key
		if at != "" {
			path = at + "." + key
		}
		child := n.children[key]
		if child == nil {
			p.Addf(path, "unknown key%s", n.suggest(key, at))
			delete(raw, key)
			continue
		}
		child.pruneValue(raw, key, path, p)
	}
}

// pruneValue looks into raw[key]; a value of the wrong kind is removed with a problem.
func (n *node) pruneValue(raw map[string]any, key, path string, p *Problems) {
	switch value := raw[key].(type) {
	case nil: // "key:" with nothing behind it: the default holds
		delete(raw, key)
	case map[string]any:
		switch {
		case n.children != nil:
			n.prune(value, path, p)
		case n.item != nil:
			p.Addf(path, "must be a list: begin each item with \"- \"")
			delete(raw, key)
		case n.leaf.Kind() != reflect.Map:
			p.Addf(path, "must be %s, not a section", kindName(n.leaf))
			delete(raw, key)
		}
	case []any:
		switch {
		case n.item != nil:
			n.pruneItems(raw, key, path, value, p)
		case n.children != nil:
			p.Addf(path, "must be a section with keys, not a list")
			delete(raw, key)
		case n.leaf.Kind() != reflect.Slice:
			p.Addf(path, "must be %s, not a list", kindName(n.leaf))
			delete(raw, key)
		}
	default:
		if n.leaf == nil || n.leaf.Kind() == reflect.Map {
			p.Addf(path, "must be a section or a list, not a single value")
			delete(raw, key)
		}
	}
}

func (n *node) pruneItems(raw map[string]any, key, path string, items []any, p *Problems) {
	kept := make([]any, 0, len(items))
	for i, item := range items {
		m, ok := item.(map[string]any)
		if !ok {
			p.Addf(fmt.Sprintf("%s[%d]", path, i), "must be a section with keys")
			m = map[string]any{} // its place is kept, so that the indexes of the others stay true
		}
		n.item.prune(m, fmt.Sprintf("%s[%d]", path, i), p)
		kept = append(kept, m)
	}
	raw[key] = kept
}

func kindName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[ByteSize]():
		return "a size such as 4MiB"
	case t.String() == "time.Duration":
		return "a duration such as 5s"
	case t.Kind() == reflect.Bool || t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() == reflect.Slice:
		return "a list"
	default:
		return "a text"
	}
}

// suggest names the nearest key, if one is near.
func (n *node) suggest(key, at string) string {
	best, distance := "", len(key)/3+2
	for candidate := range n.children {
		if d := editDistance(key, candidate); d < distance || d == distance && candidate < best {
			best, distance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	if at != "" {
		best = at + "." + best
	}
	return "; did you mean " + best + "?"
}

// editDistance counts the insertions, deletions, replacements and swaps of neighbours between two keys (optimal string
// alignment): a swap is the slip of the fingers that is made most often.
func editDistance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
