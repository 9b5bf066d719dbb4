package shape

import (
	"errors"
	"fmt"
	"html"
	"math"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// function is one that a template can call. Its arguments are counted when the template is compiled.
type function struct {
	min, max int
	usage    string
	call     func(r *runner, args []any) (any, error)
	until    func(value any) bool // ends the evaluation of the arguments, for and and or
}

const many = math.MaxInt

// functions are all there are: those of text/template that mean something for JSON values, and those that JSON and chats need.
// Texts are counted in characters, never in bytes.
var functions = map[string]function{
	"and": {min: 1, max: many, usage: "and A B …", call: last, until: func(v any) bool { return !truth(v) }},
	"or":  {min: 1, max: many, usage: "or A B …", call: last, until: truth},
	"not": {min: 1, max: 1, usage: "not A", call: func(_ *runner, args []any) (any, error) { return !truth(args[0]), nil }},

	"eq": {min: 2, max: many, usage: "eq A B …", call: equal},
	"ne": {min: 2, max: 2, usage: "ne A B", call: func(r *runner, args []any) (any, error) {
		same, err := equal(r, args)
		return same != true, err
	}},
	"lt": {min: 2, max: 2, usage: "lt A B", call: ordered(func(order int) bool { return order < 0 })},
	"le": {min: 2, max: 2, usage: "le A B", call: ordered(func(order int) bool { return order <= 0 })},
	"gt": {min: 2, max: 2, usage: "gt A B", call: ordered(func(order int) bool { return order > 0 })},
	"ge": {min: 2, max: 2, usage: "ge A B", call: ordered(func(order int) bool { return order >= 0 })},

	"len":   {min: 1, max: 1, usage: "len X", call: length},
	"index": {min: 2, max: many, usage: "index LIST 0, or index OBJECT \"name\"", call: index},
	"slice": {min: 2, max: 3, usage: "slice X FROM [TO]", call: slice},

	"print":    {min: 1, max: many, usage: "print A B …", call: printAll},
	"printf":   {min: 1, max: many, usage: "printf \"%s: %.2f\" A B", call: printFormat},
	"html":     {min: 1, max: 1, usage: "html X", call: textual(html.EscapeString)},
	"urlquery": {min: 1, max: 1, usage: "urlquery X", call: textual(url.QueryEscape)},

	"json":     {min: 1, max: 1, usage: "json X", call: toJSON},
	"quote":    {min: 1, max: 1, usage: "quote X", call: textual(func(s string) string { return string(appendQuoted(nil, s)) })},
	"truncate": {min: 2, max: 2, usage: "truncate 100 X", call: truncate},
	"default":  {min: 2, max: 2, usage: "default \"none\" X", call: orDefault},
	"upper":    {min: 1, max: 1, usage: "upper X", call: textual(strings.ToUpper)},
	"lower":    {min: 1, max: 1, usage: "lower X", call: textual(strings.ToLower)},
	"trim":     {min: 1, max: 1, usage: "trim X", call: textual(strings.TrimSpace)},
	"oneline":  {min: 1, max: 1, usage: "oneline X", call: textual(oneLine)},
	"join":     {min: 2, max: 2, usage: "join \", \" LIST", call: join},
	"date":     {min: 2, max: 2, usage: "date \"2006-01-02 15:04\" .time", call: date},
	"slack":    {min: 1, max: 2, usage: "slack [100] X", call: escaping(slackRule)},
	"discord":  {min: 1, max: 2, usage: "discord [100] X", call: escaping(discordRule)},
	"teams":    {min: 1, max: 2, usage: "teams [100] X", call: escaping(teamsRule)},
}

// missing are functions of text/template that are left out, with what to do instead.
var missing = map[string]string{
	"call":    "is not offered: there are no functions in an event",
	"js":      `is not offered: its escapes are no JSON; write {{json .x}}, or "{{quote .x}}"`,
	"println": "is not offered: write print, and the end of the line where it shall be",
}

var errTooLong = fmt.Errorf("a text of more than %d bytes: truncate it first", MaxOutput)

// take pays for a text that a function reads or writes as a whole.
func (r *runner) take(s string) error {
	if len(s) > MaxOutput {
		return errTooLong
	}
	return r.spendText(len(s))
}

// textual makes a function of one that changes a text.
func textual(change func(string) string) func(*runner, []any) (any, error) {
	return func(r *runner, args []any) (any, error) {
		s, err := r.text(args[0])
		if err != nil {
			return nil, err
		}
		if err := r.take(s); err != nil {
			return nil, err
		}
		s = change(s)
		return s, r.take(s)
	}
}

func last(_ *runner, args []any) (any, error) { return args[len(args)-1], nil }

// equal tells whether the first is any of the others. Different kinds are different; nil is equal to nil, lists and objects to
// nothing.
func equal(r *runner, args []any) (any, error) {
	for _, other := range args[1:] {
		same, err := r.equal(args[0], other)
		if err != nil || same {
			return same, err
		}
	}
	return false, nil
}

func (r *runner) equal(a, b any) (bool, error) {
	switch x := a.(type) {
	case nil:
		return b == nil, nil
	case bool:
		y, ok := b.(bool)
		return ok && x == y, nil
	}
	order, ok, err := r.compare(a, b)
	return ok && order == 0, err
}

// ordered compares numbers with numbers and texts with texts; anything else has no order, and the answer is false.
func ordered(holds func(order int) bool) func(*runner, []any) (any, error) {
	return func(r *runner, args []any) (any, error) {
		order, ok, err := r.compare(args[0], args[1])
		return ok && holds(order), err
	}
}

func length(r *runner, args []any) (any, error) {
	switch v := args[0].(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), r.spendText(len(v))
	case []any:
		return int64(len(v)), nil
	case map[string]any:
		return int64(len(v)), nil
	}
	return int64(0), nil
}

// index follows keys; what is not there is nil.
func index(r *runner, args []any) (any, error) {
	value := args[0]
	for _, key := range args[1:] {
		switch v := value.(type) {
		case []any:
			i, ok := whole(key)
			value = nil
			if ok && i >= 0 && i < int64(len(v)) {
				value = v[i]
			}
		case map[string]any:
			name, ok := key.(string)
			if !ok {
				return nil, nil
			}
			if err := r.spendText(len(name)); err != nil {
				return nil, err
			}
			value = v[name]
		default:
			return nil, nil
		}
	}
	return value, nil
}

// slice is the part of a text or list from one place up to another, which is left out; places beyond the end are the end.
func slice(r *runner, args []any) (any, error) {
	from, ok := whole(args[1])
	to, okTo := int64(math.MaxInt64), true
	if len(args) == 3 {
		to, okTo = whole(args[2])
	}
	if !ok || !okTo || from < 0 || to < from {
		return nil, errors.New("the places are whole numbers from 0, the second not below the first")
	}
	switch v := args[0].(type) {
	case []any:
		from, to = min(from, int64(len(v))), min(to, int64(len(v)))
		return v[from:to:to], nil
	case string:
		start := bytesOf(v, from)
		end := start + bytesOf(v[start:], to-from)
		return v[start:end], r.spendText(end)
	}
	return nil, nil
}

// bytesOf is the length of the first n characters in bytes.
func bytesOf(s string, n int64) int {
	if n >= int64(len(s)) {
		return len(s)
	}
	for i := range s {
		if n == 0 {
			return i
		}
		n--
	}
	return len(s)
}

func printAll(r *runner, args []any) (any, error) {
	var b strings.Builder
	for _, arg := range args {
		s, err := r.text(arg)
		if err == nil {
			err = r.take(s)
		}
		if err != nil {
			return nil, err
		}
		if b.WriteString(s); b.Len() > MaxOutput {
			return nil, errTooLong
		}
	}
	return b.String(), nil
}

func toJSON(r *runner, args []any) (any, error) {
	b, err := r.appendJSON(nil, args[0])
	if err == nil && len(b) > MaxOutput {
		err = errTooLong
	}
	return string(b), err
}

// truncate reads no more of the text than it keeps.
func truncate(r *runner, args []any) (any, error) {
	n, ok := whole(args[0])
	if !ok || n < 1 {
		return nil, errors.New("the first argument is how many characters to keep, from 1")
	}
	s, err := r.beginning(args[1], n)
	if err != nil {
		return nil, err
	}
	end := bytesOf(s, n)
	if err := r.spendText(end); err != nil || end == len(s) {
		return s, err
	}
	s = s[:bytesOf(s, n-1)] + "…"
	return s, r.take(s)
}

// orDefault replaces what is missing or empty. 0 and false are neither.
func orDefault(_ *runner, args []any) (any, error) {
	switch v := args[1].(type) {
	case nil:
		return args[0], nil
	case string, []any, map[string]any:
		if !truth(v) {
			return args[0], nil
		}
	}
	return args[1], nil
}

// oneLine makes one space of all white space and control characters in a row, and leaves none at the ends.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }), " ")
}

func join(r *runner, args []any) (any, error) {
	list, ok := args[1].([]any)
	if !ok {
		return args[1], nil
	}
	separator, err := r.text(args[0])
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, element := range list {
		s, err := r.text(element)
		if i > 0 {
			s = separator + s
		}
		if err == nil {
			err = r.spend(1)
		}
		if err == nil {
			err = r.take(s)
		}
		if err != nil {
			return nil, err
		}
		if b.WriteString(s); b.Len() > MaxOutput {
			return nil, errTooLong
		}
	}
	return b.String(), nil
}

// maxTime bounds a text that is read as a time, in bytes.
const maxTime = 64

// date writes an RFC 3339 time in UTC. What is no time stays as it is.
func date(r *runner, args []any) (any, error) {
	layout, ok := args[0].(string)
	if !ok {
		return nil, errors.New("the first argument is a layout such as \"2006-01-02 15:04\"")
	}
	s, ok := args[1].(string)
	if !ok || len(s) > maxTime {
		return args[1], nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return s, nil
	}
	if err := r.take(layout); err != nil {
		return nil, err
	}
	s = t.UTC().Format(layout)
	return s, r.take(s)
}
