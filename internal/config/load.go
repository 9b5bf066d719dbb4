package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	kyaml "github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

const (
	envPrefix = "RELAY_"
	// delim separates the levels of a key inside koanf. A dot would tear header names such as x.tenant apart.
	delim = "\x1f"
	// maxFile bounds the configuration file.
	maxFile = 8 << 20
)

// Source is where a configuration comes from: the defaults, then a YAML file, then the environment, then single keys. The
// later wins.
type Source struct {
	File string            // may be empty: none
	Env  []string          // as os.Environ gives it
	Set  map[string]string // key to value, e.g. nats.url
}

// Find is the file to use: explicit if it is not empty, else the first of ./relay.yaml and /etc/relay/relay.yaml.
func Find(explicit string) (string, error) {
	return find(explicit, "relay.yaml", "/etc/relay/relay.yaml")
}

func find(explicit string, candidates ...string) (string, error) {
	if explicit != "" {
		return explicit, nil
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return c, nil
		}
	}
	return "", fmt.Errorf("no configuration file: give one with -c, or put it at %s", strings.Join(candidates, " or "))
}

// Load reads a configuration. An error is [Problems], every fault at once; the configuration is returned beside it as far
// as it could be read, so that a caller can add its own problems.
func Load(s Source) (*Config, error) {
	var problems Problems
	raw, empty := s.merge(&problems)
	keepEmptyBounds(raw)
	schema().prune(raw, "", &problems)
	cfg := Default()
	decode(raw, &cfg, &problems)
	cfg.files, cfg.empty = nil, empty
	dir := "."
	if s.File != "" {
		cfg.files = append(cfg.files, s.File)
		dir = filepath.Dir(s.File)
	}
	cfg.resolveSecrets(s.Env, dir, &problems)
	cfg.validate(&problems)
	return &cfg, problems.Err()
}

// keepEmptyBounds makes an empty list of tokens[].workspaces with nothing behind it. Elsewhere that is as if the key were left out, but a
// token would see all workspaces then, that was to be bound to some: it is for validate to refuse.
func keepEmptyBounds(raw map[string]any) {
	tokens, _ := raw["tokens"].([]any)
	for _, one := range tokens {
		if token, ok := one.(map[string]any); ok {
			if bounds, given := token["workspaces"]; given && bounds == nil {
				token["workspaces"] = []any{}
			}
		}
	}
}

// merge puts the layers on each other; the defaults are not among them, since they are in the struct already. empty tells that there
// is a file that says nothing.
func (s Source) merge(p *Problems) (raw map[string]any, empty bool) {
	k := koanf.New(delim)
	if s.File != "" {
		empty = s.loadFile(k, p) && len(k.Raw()) == 0
	}
	known := schema()
	overrides := func(name, value string) (string, any) {
		path := strings.Split(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "__")
		if len(path) < 2 {
			return "", nil // RELAY_ADMIN_TOKEN and the like, and the links that Kubernetes makes for a Service
		}
		if fault := known.overridable(path); fault != "" {
			p.Addf(name, "the environment variable %s", fault)
			return "", nil
		}
		return strings.Join(path, delim), value
	}
	provider := env.Provider(delim, env.Opt{Prefix: envPrefix, TransformFunc: overrides, EnvironFunc: func() []string { return s.Env }})
	if err := k.Load(provider, nil); err != nil {
		p.Addf("", "environment: %v", err)
	}
	set := map[string]any{}
	for key, value := range s.Set {
		path := strings.Split(key, ".")
		if fault := known.overridable(path); fault != "" {
			p.Addf(key, "--set: %s", fault)
			continue
		}
		set[strings.Join(path, delim)] = value
	}
	if err := k.Load(confmap.Provider(set, delim), nil); err != nil {
		p.Addf("", "--set: %v", err)
	}
	return k.Raw(), empty
}

// overridable tells why a key cannot come from the environment or a flag; empty if it can.
func (n *node) overridable(path []string) string {
	for i := range path {
		if at := n.find(path[:i+1]); at != nil && at.item != nil {
			return "names a key of a list: " + path[0] + " can only stand in the file"
		}
	}
	switch found := n.find(path); {
	case found == nil:
		parent := n.find(path[:len(path)-1])
		if parent == nil || parent.children == nil {
			return "names no key of the configuration"
		}
		return "names no key of the configuration" + parent.suggest(path[len(path)-1], strings.Join(path[:len(path)-1], "."))
	case found.leaf == nil:
		return "names a section, not a key"
	}
	return ""
}

func (s Source) loadFile(k *koanf.Koanf, p *Problems) (read bool) {
	info, err := os.Stat(s.File)
	if err == nil && info.Size() > maxFile {
		p.Addf("", "%s: is %d bytes, at most %d", s.File, info.Size(), maxFile)
		return false
	}
	content, err := os.ReadFile(s.File)
	if err != nil {
		p.Addf("", "configuration file: %v", err)
		return false
	}
	if err := singleDocument(content); err != nil {
		p.Addf("", "%s: %v", s.File, err)
		return false
	}
	if err := k.Load(rawbytes.Provider(content), kyaml.Parser()); err != nil {
		p.Addf("", "%s: %s", s.File, strings.TrimPrefix(err.Error(), "yaml: "))
		return false
	}
	return true
}

// singleDocument refuses a second document, which would be ignored without a word.
func singleDocument(content []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var first, second yaml.Node
	if err := dec.Decode(&first); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(first.Content) == 1 && first.Content[0].Kind != yaml.MappingNode && first.Content[0].Tag != "!!null" {
		return errors.New("must be a mapping of sections such as \"nats:\"")
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return errors.New("holds more than one YAML document (---): only one is read, so put all into it")
	}
	return nil
}

func decode(raw map[string]any, into *Config, p *Problems) {
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: into, TagName: "koanf", WeaklyTypedInput: true, ZeroFields: true,
		// A list in one text comes first: "0s,5s" is two durations, not a bad one.
		DecodeHook: mapstructure.ComposeDecodeHookFunc(splitList, decodeValue),
	})
	if err != nil {
		p.Addf("", "%v", err)
		return
	}
	collect(dec.Decode(raw), p)
}

// collect turns mapstructure's tree of errors into problems.
func collect(err error, p *Problems) {
	var at *mapstructure.DecodeError
	var many interface{ Unwrap() []error }
	switch {
	case err == nil:
	case errors.As(err, &many) && !isDecodeError(err):
		for _, one := range many.Unwrap() {
			collect(one, p)
		}
	case errors.As(err, &at):
		inner := at.Unwrap()
		for deeper := (*mapstructure.DecodeError)(nil); errors.As(inner, &deeper); {
			at, inner = deeper, deeper.Unwrap()
		}
		p.Addf(strings.TrimPrefix(at.Name(), "."), "%s", explain(inner))
	default:
		p.Addf("", "%v", err)
	}
}

func isDecodeError(err error) bool {
	_, ok := err.(*mapstructure.DecodeError) //nolint:errorlint // whether err itself is one decides
	return ok
}

// explain says in our words what mapstructure says in terms of Go types.
func explain(err error) string {
	var parse *mapstructure.ParseError
	var kind *mapstructure.UnconvertibleTypeError
	switch {
	case errors.As(err, &parse):
		return "must be " + kindName(parse.Expected.Type())
	case errors.As(err, &kind):
		return "must be " + kindName(kind.Expected.Type())
	default:
		return err.Error()
	}
}

func splitList(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String || to.Kind() != reflect.Slice {
		return data, nil
	}
	parts := slices.DeleteFunc(strings.Split(data.(string), ","), func(s string) bool { return strings.TrimSpace(s) == "" })
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts, nil
}

func decodeValue(from, to reflect.Type, data any) (any, error) {
	text, isText := data.(string)
	switch {
	case to == reflect.TypeFor[time.Duration]():
		if !isText {
			if n, ok := data.(int); ok && n == 0 {
				return time.Duration(0), nil
			}
			return nil, fmt.Errorf("%v has no unit; write e.g. 5s, 5m, 2h, 7d", data)
		}
		return ParseDuration(text)
	case to == reflect.TypeFor[ByteSize]() && isText:
		return parseByteSize(text)
	case to == reflect.TypeFor[ByteSize]() && from.Kind() == reflect.Int:
		if n := data.(int); n < 0 {
			return nil, errors.New("must not be negative")
		}
		return ByteSize(data.(int)), nil
	case to == reflect.TypeFor[Secret]():
		if !isText { // 0123 would be another number by now
			return nil, errors.New("must be a text: put it in quotes")
		}
		return NewSecret(text), nil
	case to.Kind() == reflect.String && from.Kind() == reflect.Bool:
		return fmt.Sprint(data), nil // mapstructure would make "1" of true
	}
	return data, nil
}
