package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const example = "../../config.example.yaml"

// An example that differs from the defaults tells its reader something wrong.
func TestExampleEqualsDefaults(t *testing.T) {
	t.Parallel()
	got, err := Load(Source{File: example})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	got.files = nil
	got.NATS.Embedded.StoreDir = want.NATS.Embedded.StoreDir // the loader makes it relative to the file
	got.Workspaces, got.Endpoints, got.Webhooks.AllowNetworks = orNil(got.Workspaces), orNil(got.Endpoints), orNil(got.Webhooks.AllowNetworks)
	got.Webhooks.AllowProxies = orNil(got.Webhooks.AllowProxies)
	got.Tokens = orNil(got.Tokens)
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("\ngot  %+v\nwant %+v", *got, want)
	}
}

func orNil[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

// keysOf lists the keys of a struct, those of list items behind "[]".
func keysOf(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("koanf")
		if tag == "" {
			continue
		}
		key, kind := prefix+tag, f.Type
		switch {
		case kind.Kind() == reflect.Slice && kind.Elem().Kind() == reflect.Struct:
			out = append(append(out, key), keysOf(kind.Elem(), key+"[].")...)
		case kind.Kind() == reflect.Struct && kind != reflect.TypeFor[Secret]():
			out = append(out, keysOf(kind, key+".")...)
		default:
			out = append(out, key)
		}
	}
	return out
}

var (
	exampleLine   = regexp.MustCompile(`^( *)(- )?([a-z_]+):`)
	commentedLine = regexp.MustCompile(`^#(  +.*)$`)
)

// uncomment is the example with the list entries that it shows in comments.
func uncomment(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSuffix(line, "\n")
		if m := commentedLine.FindStringSubmatch(line); m != nil {
			line = m[1]
		}
		switch line {
		case "workspaces: []", "endpoints: []", "tokens: []":
			line = strings.TrimSuffix(line, " []")
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n") + "\n"
}

func TestExampleNamesEveryKey(t *testing.T) {
	t.Parallel()
	var named []string
	var path []string // by depth
	for line := range strings.Lines(uncomment(t)) {
		m := exampleLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		depth := (len(m[1]) + len(m[2])) / 2
		key := m[3]
		if depth > 0 && slices.Contains([]string{"workspaces", "endpoints", "tokens"}, path[0]) {
			key, depth = path[0]+"[]."+m[3], 1
			named = append(named, key)
			continue
		}
		path = append(path[:depth], key)
		if rest := strings.TrimSpace(line[len(m[0]):]); rest != "" || depth == 0 && slices.Contains([]string{"workspaces", "endpoints", "tokens"}, key) {
			named = append(named, strings.Join(path, "."))
		}
	}
	want := keysOf(reflect.TypeFor[Config](), "")
	slices.Sort(named)
	slices.Sort(want)
	if !slices.Equal(named, want) {
		for _, k := range want {
			if !slices.Contains(named, k) {
				t.Errorf("%s is not in the example", k)
			}
		}
		for _, k := range named {
			if !slices.Contains(want, k) {
				t.Errorf("%s is in the example, but is no key", k)
			}
		}
		if !t.Failed() {
			t.Error("a key is in the example twice")
		}
	}
}

func TestExampleEntriesLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "relay.yaml")
	content := uncomment(t)
	content = strings.Replace(content, "    api_key_file: acme.key\n", "", 1) // one way for a secret is enough
	for name, text := range map[string]string{"relay.yaml": content, "crm-sync.secret": "whsec_" + strings.Repeat("A", 32), "crm-team.token": strings.Repeat("t", 20)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := Load(Source{File: file, Env: []string{"NEX_KEY_ACME=nex_key"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Workspaces) != 1 || cfg.Workspaces[0].APIKey.Reveal() != "nex_key" {
		t.Errorf("workspaces: %+v", cfg.Workspaces)
	}
	if len(cfg.Tokens) != 1 || cfg.Tokens[0].Token.Reveal() != strings.Repeat("t", 20) || cfg.Tokens[0].Access != AccessWrite {
		t.Errorf("tokens: %+v", cfg.Tokens)
	}
	if len(cfg.Endpoints) != 1 || cfg.Endpoints[0].Headers["X-Tenant"] != "acme" || !*cfg.Endpoints[0].Enabled {
		t.Errorf("endpoints: %+v", cfg.Endpoints)
	}
}

// The manifests' configurations refer to files that only a pod has: unreadable secrets are the only faults they may have.
func TestManifestConfigurationsLoad(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../deploy/k8s/*/relay.yaml")
	if err != nil {
		t.Fatal(err)
	}
	deeper, err := filepath.Glob("../../deploy/k8s/*/*/relay.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, deeper...)
	if len(files) == 0 {
		t.Fatal("no configuration found beside the manifests")
	}
	for _, file := range files {
		_, err := Load(Source{File: file})
		if err == nil {
			continue
		}
		for _, p := range err.(Problems) {
			if !strings.HasSuffix(p.Key, "_file") || !strings.Contains(p.Message, "no such file") {
				t.Errorf("%s: %v", file, p)
			}
		}
	}
}
