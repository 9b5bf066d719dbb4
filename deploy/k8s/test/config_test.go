package k8s_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// config is relay.yaml as plain YAML. Whether the relay knows each key is for the relay's own tests.
type config map[string]any

// inlineSecrets are keys that would put a secret into the ConfigMap; each has a twin with _file.
var inlineSecrets = []string{
	"admin_token", "api_key", "encryption_key", "password", "previous_secret", "secret", "token",
}

func parseConfig(t *testing.T, text string) config {
	t.Helper()
	var cfg config
	if err := yaml.UnmarshalStrict([]byte(text), &cfg); err != nil {
		t.Fatalf("relay.yaml: %v", err)
	}
	if len(cfg) == 0 {
		t.Fatal("relay.yaml is empty")
	}
	return cfg
}

// str is the value of a dotted key, or "".
func (c config) str(key string) string {
	var at any = map[string]any(c)
	for name := range strings.SplitSeq(key, ".") {
		m, _ := at.(map[string]any)
		at = m[name]
	}
	s, _ := at.(string)
	return s
}

// fileProblems lists every *_file that is not a key of the Secret as mounted, and every secret that is no file. Without
// known keys (nil) only the place is checked.
func fileProblems(cfg config, keys []string) []string {
	var bad []string
	visit("", map[string]any(cfg), func(key string, value any) {
		name := key[strings.LastIndexAny(key, ".")+1:]
		if slices.Contains(inlineSecrets, name) || strings.HasSuffix(name, "_env") {
			bad = append(bad, key+": a secret belongs into a file")
		}
		if !strings.HasSuffix(name, "_file") {
			return
		}
		file := fmt.Sprint(value)
		if !path.IsAbs(file) {
			file = path.Join(configDir, file)
		}
		if path.Dir(file) != secretsDir {
			bad = append(bad, fmt.Sprintf("%s: %s is not in %s", key, file, secretsDir))
		} else if keys != nil && !slices.Contains(keys, path.Base(file)) {
			bad = append(bad, fmt.Sprintf("%s: the Secret has no key %s", key, path.Base(file)))
		}
	})
	return bad
}

// visit calls f for every key with a plain value, lists included.
func visit(key string, value any, f func(key string, value any)) {
	switch value := value.(type) {
	case map[string]any:
		for name, v := range value {
			visit(strings.TrimPrefix(key+"."+name, "."), v, f)
		}
	case []any:
		for i, v := range value {
			visit(fmt.Sprintf("%s[%d]", key, i), v, f)
		}
	default:
		f(key, value)
	}
}

// listenProblems lists each listener that others can reach but that has no token, or another port than wanted.
func listenProblems(cfg config, listen, token, wantPort string) []string {
	host, port, err := net.SplitHostPort(cfg.str(listen))
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", listen, err)}
	}
	var bad []string
	if port != wantPort {
		bad = append(bad, fmt.Sprintf("%s: port %s, the container's is %s", listen, port, wantPort))
	}
	if addr, err := netip.ParseAddr(host); host != "" && (err != nil || !addr.IsUnspecified()) {
		bad = append(bad, fmt.Sprintf("%s: %s is not reached through a Service", listen, host))
	}
	if cfg.str(token) == "" {
		bad = append(bad, fmt.Sprintf("%s: others can connect and %s is missing", listen, token))
	}
	return bad
}

func configText(t *testing.T, in *installation) string {
	t.Helper()
	if len(in.configMaps) != 1 || len(in.configMaps[0].Data) != 1 || in.configMaps[0].Data["relay.yaml"] == "" {
		t.Fatalf("one ConfigMap with relay.yaml alone expected")
	}
	return in.configMaps[0].Data["relay.yaml"]
}

func TestBaseConfig(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../base/relay.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg := parseConfig(t, string(text))
	for _, problem := range fileProblems(cfg, nil) {
		t.Error(problem)
	}
	for _, problem := range listenProblems(cfg, "http.listen", "http.admin_token_file", "8080") {
		t.Error(problem)
	}
	if cfg.str("nats.url") == "" {
		t.Error("nats.url is empty: base has no disk for a log of its own")
	}
}

func TestStandaloneConfig(t *testing.T) {
	t.Parallel()
	in := renderedStandalone(t)
	if len(in.secrets) != 1 {
		t.Fatalf("%d Secrets, want 1", len(in.secrets))
	}
	var keys []string
	for key := range in.secrets[0].Data {
		keys = append(keys, key)
	}
	cfg := parseConfig(t, configText(t, in))
	problems := slices.Concat(fileProblems(cfg, keys),
		listenProblems(cfg, "http.listen", "http.admin_token_file", "8080"),
		listenProblems(cfg, "nats.embedded.listen", "nats.embedded.token_file", "4222"))
	for _, problem := range problems {
		t.Error(problem)
	}
	if url := cfg.str("nats.url"); url != "" {
		t.Errorf("nats.url is %q: the server inside would not start", url)
	}
	used := configText(t, in)
	for _, key := range keys {
		if !strings.Contains(used, "secrets/"+key+"\n") {
			t.Errorf("the Secret's key %s is used by nothing", key)
		}
	}
}

// TestConfigProblemsAreFound breaks each rule once.
func TestConfigProblemsAreFound(t *testing.T) {
	t.Parallel()
	keys := []string{"a"}
	tests := []struct{ name, yaml, want string }{
		{"good", "http: {listen: '0.0.0.0:1', x_file: secrets/a}", ""},
		{"good, absolute", "http: {listen: '[::]:1', x_file: /etc/relay/secrets/a}", ""},
		{"no such key", "http: {listen: ':1', x_file: secrets/b}", "http.x_file: the Secret has no key b"},
		{"in a list", "l: [{x_file: secrets/b}]\nhttp: {listen: ':1', x_file: secrets/a}", "l[0].x_file: the Secret"},
		{"elsewhere", "http: {listen: ':1', x_file: a}", "http.x_file: /etc/relay/a is not in"},
		{"escapes", "http: {listen: ':1', x_file: secrets/../../a}", "/etc/a is not in"},
		{"inline", "http: {listen: ':1', x_file: secrets/a, token: t}", "http.token: a secret belongs"},
		{"inline in a list", "l: [{secret: t}]\nhttp: {listen: ':1', x_file: secrets/a}", "l[0].secret: a secret"},
		{"environment", "http: {listen: ':1', x_file: secrets/a, token_env: T}", "http.token_env: a secret belongs"},
		{"no token", "http: {listen: ':1'}", "http.x_file is missing"},
		{"other port", "http: {listen: ':2', x_file: secrets/a}", "port 2"},
		{"loopback", "http: {listen: '127.0.0.1:1', x_file: secrets/a}", "127.0.0.1 is not reached"},
		{"by name", "http: {listen: 'localhost:1', x_file: secrets/a}", "localhost is not reached"},
		{"no listener", "http: {x_file: secrets/a}", "http.listen: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := parseConfig(t, tt.yaml)
			problems := append(fileProblems(cfg, keys), listenProblems(cfg, "http.listen", "http.x_file", "1")...)
			if tt.want == "" {
				if len(problems) > 0 {
					t.Errorf("problems %q, want none", problems)
				}
				return
			}
			if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, tt.want) }) {
				t.Errorf("problems %q, want one with %q", problems, tt.want)
			}
		})
	}
}
