package shape

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of an event that a template is told of: those of filters, far beyond what Nex sends.
const (
	// MaxEvent is the largest event in bytes.
	MaxEvent = 4 << 20
	// maxValues bounds its JSON values: each takes about 100 bytes decoded.
	maxValues = 100_000
)

// A value in a template is nil, bool, string, []any, map[string]any, or a number: json.Number where it comes from the event,
// so that it keeps its text, int64 and float64 where the template has it, int where a loop counts.

// decode is the event as a template sees it.
func decode(data []byte) (map[string]any, error) {
	if len(data) > MaxEvent {
		return nil, fmt.Errorf("event: has %d bytes, a template takes %d: use another shape for this endpoint", len(data), MaxEvent)
	}
	// Each value but the first of a list or object follows a comma, so this counts too many at worst.
	values := bytes.Count(data, []byte(",")) + bytes.Count(data, []byte("[")) + bytes.Count(data, []byte("{"))
	if values > maxValues {
		return nil, fmt.Errorf("event: has up to %d values, a template takes %d: use another shape for this endpoint", values, maxValues)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var dot map[string]any
	if err := dec.Decode(&dot); err != nil || dot == nil {
		return nil, errNoEvent
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errNoEvent
	}
	return dot, nil
}

func number[T int | uint64](n T) json.Number { return json.Number(fmt.Sprint(n)) }

// truth is what if and with ask: whether there is something. 0 and false are nothing, as in text/template.
func truth(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	case json.Number:
		return !isZero(string(v))
	case int:
		return v != 0
	case int64:
		return v != 0
	case float64:
		return v != 0
	}
	return true
}

// isZero tells whether a number's text is a form of zero: all of its digits before an exponent are. One of more digits than
// anything calculates with is not looked at.
func isZero(number string) bool {
	if len(number) > maxDigits {
		return false
	}
	mantissa := strings.TrimLeft(number, "-0.")
	return mantissa == "" || mantissa[0] == 'e' || mantissa[0] == 'E'
}

// whole is the value as an integer. Texts are no numbers, even if they look so.
func whole(value any) (int64, bool) {
	switch v := value.(type) {
	case int:
		return int64(v), true
	case int64:
		return v, true
	case json.Number:
		if len(v) > 20 { // longer than any, and an error of strconv's would copy it
			return 0, false
		}
		n, err := strconv.ParseInt(string(v), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// maxDigits bounds a number that is calculated with, in characters.
const maxDigits = 100

// decimal is the value as a float64; beyond its range it is infinite.
func decimal(value any) (float64, bool) {
	switch v := value.(type) {
	case float64:
		return v, true
	case json.Number:
		if len(v) > maxDigits {
			return 0, false
		}
		f, err := strconv.ParseFloat(string(v), 64)
		return f, err == nil || errors.Is(err, strconv.ErrRange)
	}
	n, ok := whole(value)
	return float64(n), ok
}

// compare orders two numbers or two texts. Whole numbers are compared exactly.
func (r *runner) compare(a, b any) (order int, ok bool, err error) {
	if x, isText := a.(string); isText {
		y, isText := b.(string)
		if !isText {
			return 0, false, nil
		}
		return strings.Compare(x, y), true, r.spendText(min(len(x), len(y)))
	}
	if x, ok := whole(a); ok {
		if y, ok := whole(b); ok {
			return compareOrdered(x, y), true, nil
		}
	}
	x, okX := decimal(a)
	y, okY := decimal(b)
	return compareOrdered(x, y), okX && okY, nil
}

func compareOrdered[T int64 | float64](x, y T) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// text is how a value is printed: nothing for nil, JSON for lists and objects.
func (r *runner) text(value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case json.Number:
		return string(v), nil
	case bool:
		return strconv.FormatBool(v), nil
	case int:
		return strconv.Itoa(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	}
	b, err := r.appendJSON(nil, value)
	return string(b), err
}

// beginning is the text of a value, of which no more than the first n characters are wanted: however large a list or object
// is, its beginning can be shown.
func (r *runner) beginning(value any, n int64) (string, error) {
	r.enough = int(min(n, MaxOutput/utf8.UTFMax)) * utf8.UTFMax
	s, err := r.text(value)
	r.enough = 0
	return s, err
}

// maxSorted is how many members an object may have of which the beginning is wanted.
const maxSorted = 1000

// appendJSON writes a value as JSON, the members of objects sorted by name.
func (r *runner) appendJSON(dst []byte, value any) ([]byte, error) {
	if err := r.spend(1); err != nil {
		return nil, err
	}
	switch {
	case r.enough > 0 && len(dst) > r.enough:
		return dst, nil
	case len(dst) > MaxOutput:
		return nil, errTooLong
	}
	switch v := value.(type) {
	case nil:
		return append(dst, "null"...), nil
	case string:
		if r.enough > 0 {
			v = v[:min(len(v), r.enough)] // what is cut in two lies beyond what is wanted
		}
		if err := r.take(v); err != nil {
			return nil, err
		}
		dst = append(dst, '"')
		dst = appendQuoted(dst, v)
		return append(dst, '"'), nil
	case []any:
		dst = append(dst, '[')
		for i, element := range v {
			var err error
			if i > 0 {
				dst = append(dst, ',')
			}
			if r.enough > 0 && len(dst) > r.enough {
				break
			}
			if dst, err = r.appendJSON(dst, element); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case map[string]any:
		return r.appendObject(dst, v)
	}
	s, err := r.text(value)
	if err == nil {
		err = r.take(s)
	}
	return append(dst, s...), err
}

func (r *runner) appendObject(dst []byte, object map[string]any) ([]byte, error) {
	if r.enough > 0 && len(object) > maxSorted {
		return append(dst, "{…}"...), nil
	}
	if err := r.spend(2 * len(object)); err != nil { // for the sorting
		return nil, err
	}
	dst = append(dst, '{')
	for i, name := range slices.Sorted(maps.Keys(object)) {
		var err error
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = r.appendJSON(dst, name); err != nil {
			return nil, err
		}
		if dst, err = r.appendJSON(append(dst, ':'), object[name]); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

// appendQuoted appends what stands between the quotes of a JSON string: no HTML escapes, but U+2028 and U+2029 escaped, which
// are line ends to JavaScript. What is no UTF-8 becomes U+FFFD. Beyond MaxOutput it stops: what is longer is refused anyway.
func appendQuoted(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s) && len(dst) <= MaxOutput; {
		c := s[i]
		if c >= utf8.RuneSelf {
			ch, size := utf8.DecodeRuneInString(s[i:])
			switch {
			case ch == '\u2028' || ch == '\u2029':
				dst = append(dst, `\u202`...)
				dst = append(dst, hex[ch&15])
			default:
				dst = utf8.AppendRune(dst, ch)
			}
			i += size
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c < ' ':
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
		i++
	}
	return dst
}

// checkJSON says where the output is no JSON. It has been written for somebody who expects some, and a receiver that refuses
// it would say less.
func checkJSON(out []byte) error {
	if json.Valid(out) {
		return nil
	}
	const remedy = `; write {{json .x}} for a value, and "{{quote .x}}" inside quotes`
	var syntax *json.SyntaxError
	var raw json.RawMessage
	if err := json.Unmarshal(out, &raw); !errors.As(err, &syntax) {
		return errors.New("template: the output is no JSON" + remedy)
	}
	before := string(out[:min(max(int(syntax.Offset)-1, 0), len(out))])
	return fmt.Errorf("template: the output is no JSON: line %d, column %d of it: %s%s", 1+strings.Count(before, "\n"),
		1+utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]), shorten(syntax.Error()), remedy)
}
