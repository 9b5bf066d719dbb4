package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// unmarshal reads one JSON object into a struct, and names every fault with its key. What the struct does not know is refused, in
// another letter case too, which encoding/json would take: misspelt, it would be a setting that never holds.
func unmarshal(data []byte, into any) error {
	fields, faults, err := members(data)
	if err != nil {
		return err
	}
	target := reflect.ValueOf(into).Elem()
	if target.Kind() == reflect.Pointer {
		target.Set(reflect.New(target.Type().Elem()))
		target = target.Elem()
	}
	index := keysOf(target.Type())
	for _, f := range fields {
		at, known := index[f.key]
		if !known {
			faults = append(faults, unknownKey(f.key, index))
			continue
		}
		field := target.Field(at)
		if err := json.Unmarshal(f.value, field.Addr().Interface()); err != nil {
			faults = append(faults, f.key+": "+wrongKind(err, f.key, field.Type()))
		}
	}
	if len(faults) > 0 {
		return &Error{http.StatusBadRequest, strings.Join(faults, "; ")}
	}
	return nil
}

// member is one of a JSON object.
type member struct {
	key   string
	value json.RawMessage
}

// members are those of the one JSON object that data is, each key once; faults are of those that come again.
func members(data []byte) (list []member, faults []string, err error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	switch first, err := dec.Token(); {
	case err != nil:
		return nil, nil, noJSON(err, dec)
	case first != json.Delim('{'):
		return nil, nil, badRequest("body: a JSON object is needed: { and }, with the settings between them")
	}
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		var value json.RawMessage
		if err == nil {
			err = dec.Decode(&value)
		}
		if err != nil {
			return nil, nil, noJSON(err, dec)
		}
		name := key.(string) // the keys of an object are
		if seen[name] {
			faults = append(faults, shownKey(name)+": is given twice: leave one out")
		}
		seen[name] = true
		faults = append(faults, twiceIn(shownKey(name), value)...)
		list = append(list, member{name, value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, noJSON(err, dec)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, badRequest("body: more than one JSON value: send one object")
	}
	return list, faults, nil
}

// twiceMost bounds how many keys are named that a value holds twice.
const twiceMost = 10

// twiceIn names the keys that come again in one of the objects within the value of a key, of which encoding/json would take the last.
// It goes through the value once, however deep that is.
func twiceIn(key string, value json.RawMessage) (faults []string) {
	type level struct {
		seen  map[string]bool // nil = a list
		atKey bool
	}
	levels := []level{{}}
	dec := json.NewDecoder(bytes.NewReader(value))
	for token, err := dec.Token(); err == nil && len(faults) < twiceMost; token, err = dec.Token() {
		in := &levels[len(levels)-1]
		if name, text := token.(string); text && in.atKey {
			if in.seen[name] {
				faults = append(faults, key+": holds "+shownKey(name)+" twice: leave one out")
			}
			in.seen[name], in.atKey = true, false
			continue
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{map[string]bool{}, true})
			continue
		case json.Delim('['):
			levels = append(levels, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
		in = &levels[len(levels)-1] // in which a value has ended
		in.atKey = in.seen != nil
	}
	return faults
}

// noJSON says where a body stops to be JSON. The parser's own text may quote it.
func noJSON(err error, dec *json.Decoder) error {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return badRequest("body: ends before its JSON does: a brace, a bracket or a quote is missing")
	case errors.As(err, &syntax):
		return badRequest("body: is no JSON at byte %d: look at the quotes, commas and braces there", syntax.Offset)
	}
	return badRequest("body: is no JSON at byte %d: look at the quotes, commas and braces there", dec.InputOffset())
}

// keysOf are the JSON keys of a struct, each with its field.
func keysOf(t reflect.Type) map[string]int {
	index := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		index[key] = i
	}
	return index
}

// unknownKey says which key was perhaps meant.
func unknownKey(key string, known map[string]int) string {
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s)) }
	names := make([]string, 0, len(known))
	for name := range known {
		if plain(name) == plain(key) {
			return shownKey(key) + ": is not known: write " + name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return shownKey(key) + ": is not known: there are " + strings.Join(names, ", ")
}

// shownKey is a key as an error shows it: bounded, and in quotes where it is no word.
func shownKey(key string) string {
	if len(key) > 64 {
		key = strings.ToValidUTF8(key[:64], "") + "…"
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) || key == "" {
		return fmt.Sprintf("%q", key)
	}
	return key
}

// wrongKind says what a value is and what it should be, without the value: it may be a secret.
func wrongKind(err error, key string, field reflect.Type) string {
	for field.Kind() == reflect.Pointer {
		field = field.Elem()
	}
	var kind *json.UnmarshalTypeError
	switch {
	case field == reflect.TypeFor[time.Time]():
		return "is no time: write e.g. 2026-02-05T10:30:00Z"
	case !errors.As(err, &kind): // of a type with words of its own
		return strings.TrimPrefix(err.Error(), key+": ")
	}
	is, _, _ := strings.Cut(kind.Value, " ") // behind it a number's digits
	want := neededKind(kind.Type)
	switch {
	case is == "number" && want == "a whole number":
		return "is no whole number, or out of bounds: give " + want
	case kind.Type == field:
		return "is " + jsonKind(is) + ": give " + want
	}
	return "holds " + jsonKind(is) + " where " + want + " is needed"
}

// jsonKind is a kind of value in encoding/json's words, in ours.
func jsonKind(kind string) string {
	switch kind {
	case "string":
		return "a text"
	case "bool":
		return "true or false"
	case "array":
		return "a list"
	case "number":
		return "a number"
	}
	return "an object"
}

func neededKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Uint64:
		return "a whole number"
	}
	return "an object"
}

// nothingIn tells whether a body is empty, or the object that says nothing.
func nothingIn(body io.Reader) bool {
	if body == nil {
		return true
	}
	const enough = 64 // with white space around it
	begin, err := io.ReadAll(io.LimitReader(body, enough))
	text := string(bytes.TrimSpace(begin))
	return err == nil && len(begin) < enough && (text == "" || text == "{}")
}
