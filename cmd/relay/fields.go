package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// fields reads KEY=VALUE arguments as the body of a request whose form is t: KEY is a field, or header.NAME of a map; VALUE is
// taken as the field's kind wants it. Lists are parted by commas; @FILE is what stands in a file; null and "" take a setting back.
func fields(t reflect.Type, args []string) (map[string]any, error) {
	kinds := map[string]reflect.Type{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		kinds[name] = t.Field(i).Type
	}
	body := map[string]any{}
	for i, arg := range args {
		key, text, ok := strings.Cut(arg, "=")
		if !ok || !keyForm.MatchString(key) || strings.HasPrefix(key, "whs") { // a secret in base64 may end with a =
			return nil, usageError{fmt.Errorf("field %d of %d is no KEY=VALUE: write e.g. url=https://example.com, or secret=@FILE", i+1, len(args))}
		}
		if file, is := strings.CutPrefix(text, "@"); is {
			content, err := readValue(file)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			text = content
		}
		field, name, inMap := strings.Cut(key, ".")
		kind, known := kinds[field]
		if !known || inMap != (deref(kind).Kind() == reflect.Map) {
			return nil, usageError{unknownField(key, kinds)}
		}
		if !inMap {
			value, err := value(deref(kind), text)
			if err != nil {
				return nil, usageError{fmt.Errorf("%s: %w", key, err)}
			}
			body[field] = value
			continue
		}
		entries, _ := body[field].(map[string]any)
		if entries == nil {
			entries = map[string]any{}
			body[field] = entries
		}
		if entries[name] = text; text == "" {
			entries[name] = nil
		}
	}
	return body, nil
}

// keyForm is what a key looks like. What has another form is not quoted in an error: it may be a secret.
var keyForm = regexp.MustCompile(`^[a-zA-Z]+(_[a-zA-Z]+){0,3}(\..*)?$`)

func deref(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func readValue(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if info.Size() > 1<<20 {
		return "", fmt.Errorf("%s is over 1 MiB", file)
	}
	content, err := os.ReadFile(file)
	return strings.TrimRight(string(content), "\r\n"), err
}

// value is a text as a kind of field wants it.
func value(t reflect.Type, text string) (any, error) {
	switch t.Kind() {
	case reflect.Slice:
		if text == "" {
			return []string{}, nil
		}
		return strings.Split(text, ","), nil
	case reflect.Bool:
		if text != "true" && text != "false" {
			return nil, fmt.Errorf("%q: true or false is needed", text)
		}
		return text == "true", nil
	case reflect.Int:
		var n int
		if json.Unmarshal([]byte(text), &n) != nil {
			return nil, fmt.Errorf("%q: a whole number is needed", text)
		}
		return n, nil
	}
	return text, nil // a text, or what reads itself from one
}

func unknownField(key string, kinds map[string]reflect.Type) error {
	var names []string
	for name, kind := range kinds {
		if deref(kind).Kind() == reflect.Map {
			name += ".NAME"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return errors.New(key + ": no such field; there are " + strings.Join(names, ", "))
}
