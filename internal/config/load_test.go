package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// write makes a configuration file and answers its path.
func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "relay.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func problemsOf(t *testing.T, err error) Problems {
	t.Helper()
	if err == nil {
		return nil
	}
	var p Problems
	if !errors.As(err, &p) || len(p) == 0 {
		t.Fatalf("not a list of problems: %#v", err)
	}
	return p
}

func has(p Problems, key, part string) bool {
	return slices.ContainsFunc(p, func(one Problem) bool { return one.Key == key && strings.Contains(one.Message, part) })
}

// scalars is every key that is no list of sections: a value other than the default, as it is written and as it is read.
var scalars = map[string]struct {
	text string
	want any
}{
	"nex.base_url":                          {"http://127.0.0.1:9/api", "http://127.0.0.1:9/api"},
	"nex.max_event_size":                    {"1MiB", MiB},
	"nex.idle_timeout":                      {"31s", 31 * time.Second},
	"nex.connect_timeout":                   {"7s", 7 * time.Second},
	"nex.unauthorized_retry":                {"6m", 6 * time.Minute},
	"nex.reconnect_min":                     {"2s", 2 * time.Second},
	"nex.reconnect_max":                     {"3m", 3 * time.Minute},
	"nex.identity_window":                   {"11m", 11 * time.Minute},
	"nex.backfill":                          {"2d", 48 * time.Hour},
	"nex.gap_check_interval":                {"0s", time.Duration(0)},
	"nex.gap_overlap":                       {"1m", time.Minute},
	"nats.url":                              {"nats://127.0.0.1:9", "nats://127.0.0.1:9"},
	"nats.credentials_file":                 {"/c.creds", "/c.creds"},
	"nats.user":                             {"u", "u"},
	"nats.password":                         {"pw", NewSecret("pw")},
	"nats.password_env":                     {"V", "V"},
	"nats.password_file":                    {"/f", "/f"},
	"nats.token":                            {"tok", NewSecret("tok")},
	"nats.token_env":                        {"V", "V"},
	"nats.token_file":                       {"/f", "/f"},
	"nats.tls.ca_file":                      {"/ca.pem", "/ca.pem"},
	"nats.tls.cert_file":                    {"/c.pem", "/c.pem"},
	"nats.tls.key_file":                     {"/k.pem", "/k.pem"},
	"nats.replicas":                         {"3", 3},
	"nats.publish_max_pending":              {"7", 7},
	"nats.embedded.listen":                  {"127.0.0.1:0", "127.0.0.1:0"},
	"nats.embedded.store_dir":               {"/srv/nats", "/srv/nats"},
	"nats.embedded.sync":                    {"always", "always"},
	"nats.embedded.token":                   {"tok", NewSecret("tok")},
	"nats.embedded.token_env":               {"V", "V"},
	"nats.embedded.token_file":              {"/f", "/f"},
	"stream.max_age":                        {"30d", 30 * 24 * time.Hour},
	"stream.max_bytes":                      {"20GiB", 20 * GiB},
	"stream.duplicate_window":               {"1h", time.Hour},
	"webhooks.timeout":                      {"5s", 5 * time.Second},
	"webhooks.schedule":                     {"[0s, 1s]", []time.Duration{0, time.Second}},
	"webhooks.jitter":                       {"0.3", 0.3},
	"webhooks.max_in_flight":                {"5", 5},
	"webhooks.retry_after_max":              {"2h", 2 * time.Hour},
	"webhooks.allow_http":                   {"true", true},
	"webhooks.allow_networks":               {"[10.0.0.0/8, 127.0.0.1]", []string{"10.0.0.0/8", "127.0.0.1"}},
	"webhooks.encryption_key":               {"key", NewSecret("key")},
	"webhooks.encryption_key_env":           {"V", "V"},
	"webhooks.encryption_key_file":          {"/f", "/f"},
	"webhooks.previous_encryption_key":      {"key", NewSecret("key")},
	"webhooks.previous_encryption_key_env":  {"V", "V"},
	"webhooks.previous_encryption_key_file": {"/f", "/f"},
	"webhooks.disable_after":                {"2d", 48 * time.Hour},
	"webhooks.loss_warning":                 {"3h", 3 * time.Hour},
	"webhooks.secret_overlap":               {"3h", 3 * time.Hour},
	"webhooks.ca_file":                      {"/ca.pem", "/ca.pem"},
	"webhooks.allow_proxies":                {"[proxy.internal:3128]", []string{"proxy.internal:3128"}},
	"webhooks.origin":                       {"relay.example.com", "relay.example.com"},
	"http.listen":                           {"127.0.0.1:9", "127.0.0.1:9"},
	"http.admin_token":                      {"0123456789abcdef", NewSecret("0123456789abcdef")},
	"http.admin_token_env":                  {"V", "V"},
	"http.admin_token_file":                 {"/f", "/f"},
	"log.level":                             {"debug", "debug"},
	"log.format":                            {"json", "json"},
}

// at reads a key out of a configuration.
func at(c *Config, key string) any {
	v := reflect.ValueOf(c).Elem()
	for _, part := range strings.Split(key, ".") {
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("koanf") == part {
				v = v.Field(i)
				break
			}
		}
	}
	return v.Interface()
}

func TestEveryKeyIsHonoured(t *testing.T) {
	t.Parallel()
	for _, key := range keysOf(reflect.TypeFor[Config](), "") {
		if strings.HasPrefix(key, "workspaces") || strings.HasPrefix(key, "endpoints") || strings.HasPrefix(key, "tokens") {
			continue // TestListsAreHonoured
		}
		c, ok := scalars[key]
		if !ok {
			t.Errorf("no case for %s", key)
			continue
		}
		path := strings.Split(key, ".")
		list := strings.NewReplacer("[", "", "]", "").Replace(c.text)
		defaults := Default()
		if reflect.DeepEqual(at(&defaults, key), c.want) {
			t.Errorf("%s: the case proves nothing, it is the default", key)
		}
		for from, source := range map[string]Source{
			"file":        {File: write(t, nested(path, c.text))},
			"environment": {Env: []string{"RELAY_" + strings.ToUpper(strings.Join(path, "__")) + "=" + list}},
			"set":         {Set: map[string]string{key: list}},
		} {
			cfg, err := Load(source) // some keys alone are incomplete; how they are read does not depend on it
			if got := at(cfg, key); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s from %s: got %v, want %v (%v)", key, from, got, c.want, err)
			}
			if p := problemsOf(t, err); has(p, key, "unknown") || has(p, "", "names no key") {
				t.Errorf("%s from %s: %v", key, from, p)
			}
		}
	}
}

func nested(path []string, value string) string {
	var b strings.Builder
	for i, p := range path {
		fmt.Fprintf(&b, "%s%s:", strings.Repeat("  ", i), p)
		if i < len(path)-1 {
			b.WriteString("\n")
		}
	}
	return b.String() + " " + value + "\n"
}

func TestListsAreHonoured(t *testing.T) {
	t.Parallel()
	cfg, err := Load(Source{Env: []string{"KEY=k2", "SEC=s2"}, File: write(t, `
workspaces:
  - {name: Acme Corp, api_key: k1}
  - {name: beta, api_key_env: KEY}
endpoints:
  - id: crm
    url: https://crm.example.com/x
    description: for sales
    events: [nex.insight.risk, "nex.relay.>"]
    workspaces: [acme corp]
    secret: s1
    previous_secret_env: SEC
    timeout: 3s
    max_in_flight: 9
    headers: {x.tenant: a, X-Num: 7}
    enabled: false
  - {id: other, url: "https://o.example.com", secret_env: SEC}
`)})
	if err != nil {
		t.Fatal(err)
	}
	off := false
	want := []Endpoint{{
		ID: "crm", URL: "https://crm.example.com/x", Description: "for sales", Events: []string{"nex.insight.risk", "nex.relay.>"},
		Workspaces: []string{"acme corp"}, Secret: NewSecret("s1"), PreviousSecret: NewSecret("s2"), PreviousSecretEnv: "SEC",
		Timeout: 3 * time.Second, MaxInFlight: 9, Headers: map[string]string{"x.tenant": "a", "X-Num": "7"}, Enabled: &off,
	}, {ID: "other", URL: "https://o.example.com", Secret: NewSecret("s2"), SecretEnv: "SEC"}}
	if !reflect.DeepEqual(cfg.Endpoints, want) {
		t.Errorf("\ngot  %#v\nwant %#v", cfg.Endpoints, want)
	}
	workspaces := []Workspace{{Name: "Acme Corp", APIKey: NewSecret("k1")}, {Name: "beta", APIKey: NewSecret("k2"), APIKeyEnv: "KEY"}}
	if !reflect.DeepEqual(cfg.Workspaces, workspaces) {
		t.Errorf("%#v", cfg.Workspaces)
	}
}

func TestLaterLayersWin(t *testing.T) {
	t.Parallel()
	s := Source{}
	for _, step := range []struct {
		add  func()
		want string
	}{
		{func() {}, "info"},
		{func() { s.File = write(t, "log: {level: warn, format: json}\n") }, "warn"},
		{func() { s.Env = []string{"RELAY_LOG__LEVEL=error"} }, "error"},
		{func() { s.Set = map[string]string{"log.level": "debug"} }, "debug"},
	} {
		step.add()
		cfg, err := Load(s)
		if err != nil || cfg.Log.Level != step.want {
			t.Errorf("got %q, want %q (%v)", cfg.Log.Level, step.want, err)
		}
		if s.File != "" && cfg.Log.Format != "json" {
			t.Error("a later layer took a neighbour's value away")
		}
	}
}

func TestForeignEnvironmentIsLeftAlone(t *testing.T) {
	t.Parallel()
	cfg, err := Load(Source{Env: []string{
		"RELAY_ADMIN_TOKEN=x", "RELAY_PORT=tcp://10.0.0.1:8080", "RELAY_SERVICE_HOST=10.0.0.1",
		"RELAY_PORT_8080_TCP_ADDR=10.0.0.1", "HOME=/root", "OTHER__KEY=1",
	}})
	if err != nil || cfg.HTTP.AdminToken.IsSet() {
		t.Errorf("%v, token %v", err, cfg.HTTP.AdminToken.IsSet())
	}
}

func TestUnknownKeysAreAllListed(t *testing.T) {
	t.Parallel()
	_, err := Load(Source{
		File: write(t, `
nexx: {}
nats: {ulr: x, embedded: {store: /x}, tls: {ca: x}}
workspaces: [{name: a, api_key: k, apikey: z}]
endpoints: [{id: e, url: "https://e", secret: s, evnets: [x]}]
webhooks: {shedule: [0s]}
`),
		Env: []string{"RELAY_NATS__ULR=x", "RELAY_WORKSPACES__0__NAME=x"},
		Set: map[string]string{"log.levle": "x", "nothing": "x", "endpoints.0.id": "x", "nats": "x"},
	})
	p := problemsOf(t, err)
	for key, hint := range map[string]string{
		"nexx": `nex`, "nats.ulr": `nats.url`, "nats.embedded.store": "unknown", "nats.tls.ca": "unknown",
		"workspaces[0].apikey": `api_key`, "endpoints[0].evnets": `events`, "webhooks.shedule": `schedule`,
		"RELAY_NATS__ULR": `nats.url`, "RELAY_WORKSPACES__0__NAME": "list", "log.levle": `log.level`,
		"nothing": "names no key", "endpoints.0.id": "list", "nats": "names a section",
	} {
		if !has(p, key, hint) {
			t.Errorf("%s: nothing that says %q in\n%v", key, hint, p)
		}
	}
	if len(p) != 13 {
		t.Errorf("%d problems, want 13:\n%v", len(p), p)
	}
}

func TestFaultyFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ content, want string }{
		"tab":              {"nats:\n\turl: x\n", "line 2"},
		"open bracket":     {"nats: {url: x\n", "line"},
		"list":             {"- a\n- b\n", "must be a mapping"},
		"text":             {"hello\n", "must be a mapping"},
		"second document":  {"log: {level: info}\n---\nlog: {level: debug}\n", "more than one YAML document"},
		"duplicate key":    {"log: {level: info}\nlog: {level: debug}\n", "already defined"},
		"section is text":  {"nats: hello\n", "nats"},
		"section is list":  {"nats: [a]\n", "nats"},
		"list is section":  {"workspaces: {a: b}\n", "workspaces"},
		"item is text":     {"workspaces: [hello]\n", "workspaces[0]"},
		"too large":        {"# " + strings.Repeat("x", maxFile) + "\n", "at most"},
		"number for time":  {"webhooks: {timeout: 15}\n", "has no unit"},
		"number as secret": {"nats: {url: \"nats://a\", token: 0123}\n", "put it in quotes"},
		"text as number":   {"nats: {replicas: many}\n", "must be a whole number"},
		"text as bool":     {"webhooks: {allow_http: maybe}\n", "must be true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := write(t, c.content)
			_, err := Load(Source{File: file})
			if p := problemsOf(t, err); len(p) == 0 || !strings.Contains(err.Error(), c.want) {
				t.Errorf("no %q in %v", c.want, err)
			}
		})
	}
	for name, content := range map[string]string{"empty": "", "comments": "# nothing\n", "null": "~\n", "null section": "nats:\nworkspaces:\n"} {
		cfg, err := Load(Source{File: write(t, content), Env: []string{"RELAY_NATS__URL=nats://127.0.0.1:4222"}})
		if err != nil || cfg.FromEmptyFile() != (name != "null section") {
			t.Errorf("%s: from an empty file: %t, %v", name, cfg.FromEmptyFile(), err)
		}
	}
	if cfg, err := Load(Source{}); err != nil || cfg.FromEmptyFile() {
		t.Errorf("no file is no empty one: %v", err)
	}
	if _, err := Load(Source{File: filepath.Join(t.TempDir(), "absent.yaml")}); !has(problemsOf(t, err), "", "no such file") {
		t.Error(err)
	}
	if _, err := Load(Source{File: t.TempDir()}); len(problemsOf(t, err)) == 0 {
		t.Error("a directory passes for a file")
	}
}

func TestEveryRule(t *testing.T) {
	t.Parallel()
	const endpoint = `id: e, url: "https://e", secret: s`
	for _, c := range []struct{ content, key, want string }{
		{`nex: {base_url: "::"}`, "nex.base_url", "no URL"},
		{`nex: {base_url: "ftp://a"}`, "nex.base_url", "https://"},
		{`nex: {base_url: "https://u:p@a"}`, "nex.base_url", "api_key"},
		{`nex: {max_event_size: 1KiB}`, "nex.max_event_size", "outside 64KiB to 32MiB"},
		{`nex: {max_event_size: lots}`, "nex.max_event_size", "no size"},
		{`nex: {max_event_size: -1}`, "nex.max_event_size", "negative"},
		{`nex: {idle_timeout: 1ms}`, "nex.idle_timeout", "outside"},
		{`nex: {idle_timeout: soon}`, "nex.idle_timeout", "no duration"},
		{`nex: {connect_timeout: 1h}`, "nex.connect_timeout", "outside"},
		{`nex: {unauthorized_retry: 0s}`, "nex.unauthorized_retry", "outside"},
		{`nex: {reconnect_min: 1ms}`, "nex.reconnect_min", "outside"},
		{`nex: {reconnect_min: 10s, reconnect_max: 5s}`, "nex.reconnect_max", "outside 10s"},
		{`nex: {identity_window: -1s}`, "nex.identity_window", "outside"},
		{`nex: {backfill: 500d}`, "nex.backfill", "outside"},
		{`nex: {gap_check_interval: 25h}`, "nex.gap_check_interval", "outside"},
		{`nex: {gap_overlap: -1s}`, "nex.gap_overlap", "outside"},
		{`workspaces: [{api_key: k}]`, "workspaces[0].name", "missing"},
		{`workspaces: [{name: ` + strings.Repeat("a", 65) + `, api_key: k}]`, "workspaces[0].name", "64"},
		{`workspaces: [{name: "!", api_key: k}]`, "workspaces[0].name", "reserved"},
		{`workspaces: [{name: A b, api_key: k}, {name: a_b, api_key: l}]`, "workspaces[1].name", "a_b"},
		{`workspaces: [{name: a}]`, "workspaces[0].api_key", "missing"},
		{`workspaces: [{name: a, api_key: "a b"}]`, "workspaces[0].api_key", "white space"},
		{`workspaces: [{name: a, api_key: k}, {name: b, api_key: k}]`, "workspaces[1].api_key", "workspaces[0]"},
		{`nats: {url: "http://a"}`, "nats.url", "nats://"},
		{`nats: {url: "nats://a,b:4222"}`, "nats.url", "nats://"},
		{`nats: {url: "nats://u:p@a"}`, "nats.url", "no credentials"},
		{`nats: {url: "nats://a", user: u, token: t}`, "nats", "several logins"},
		{`nats: {url: "nats://a", password: p}`, "nats.user", "missing"},
		{`nats: {token: t}`, "nats.url", "is empty"},
		{`nats: {tls: {cert_file: a}}`, "nats.tls", "together"},
		{`nats: {replicas: 2}`, "nats.replicas", "1, 3 or 5"},
		{`nats: {publish_max_pending: 0}`, "nats.publish_max_pending", "outside"},
		{`nats: {embedded: {sync: never}}`, "nats.embedded.sync", "always"},
		{`nats: {embedded: {sync: 1ms}}`, "nats.embedded.sync", "outside"},
		{`nats: {embedded: {store_dir: ""}}`, "nats.embedded.store_dir", "directory"},
		{`nats: {embedded: {listen: "0.0.0.0:4222"}}`, "nats.embedded.listen", "token"},
		{`nats: {embedded: {listen: "4222"}}`, "nats.embedded.listen", "host:port"},
		{`stream: {max_age: 1s}`, "stream.max_age", "outside"},
		{`stream: {max_bytes: 1MiB}`, "stream.max_bytes", "too small"},
		{`stream: {max_age: 1h}`, "stream.duplicate_window", "outside 1s to 1h"},
		{`webhooks: {timeout: 1ms}`, "webhooks.timeout", "outside"},
		{`webhooks: {schedule: []}`, "webhooks.schedule", "1 to 50"},
		{`webhooks: {schedule: [0s, -1s]}`, "webhooks.schedule[1]", "outside"},
		{`webhooks: {schedule: [0s, soon]}`, "webhooks.schedule[1]", "no duration"},
		{`webhooks: {jitter: 0.6}`, "webhooks.jitter", "0.5"},
		{`webhooks: {jitter: .nan}`, "webhooks.jitter", "0.5"},
		{`webhooks: {max_in_flight: 0}`, "webhooks.max_in_flight", "outside"},
		{`webhooks: {retry_after_max: 0s}`, "webhooks.retry_after_max", "outside"},
		{`webhooks: {allow_networks: [here]}`, "webhooks.allow_networks[0]", "no network"},
		{`endpoints: [{url: "https://e", secret: s}]`, "endpoints[0].id", "missing"},
		{`endpoints: [{id: "a.b", url: "https://e", secret: s}]`, "endpoints[0].id", "A-Z"},
		{`endpoints: [{` + endpoint + `}, {` + endpoint + `}]`, "endpoints[1].id", "endpoints[0]"},
		{`endpoints: [{id: e, secret: s}]`, "endpoints[0].url", "missing"},
		{`endpoints: [{id: e, url: "https://e"}]`, "endpoints[0].secret", "missing"},
		{`endpoints: [{` + endpoint + `, workspaces: [x]}]`, "endpoints[0].workspaces[0]", "no workspace"},
		{`endpoints: [{` + endpoint + `, timeout: 1ms}]`, "endpoints[0].timeout", "outside"},
		{`endpoints: [{` + endpoint + `, max_in_flight: 5000}]`, "endpoints[0].max_in_flight", "outside"},
		{`endpoints: [{` + endpoint + `, client_cert_file: c.pem}]`, "endpoints[0].client_cert_file", "together"},
		{`webhooks: {allow_proxies: [proxy]}`, "webhooks.allow_proxies[0]", "host:port"},
		{`webhooks: {origin: "two words"}`, "webhooks.origin", "name"},
		{`http: {listen: ":8080"}`, "http.listen", "admin_token"},
		{`http: {listen: "127.0.0.1:99999"}`, "http.listen", "65535"},
		{`http: {admin_token: short}`, "http.admin_token", "16"},
		{`tokens: [{token: 0123456789abcdefg, access: read}]`, "tokens[0].name", "missing"},
		{`tokens: [{name: a, access: read}]`, "tokens[0].token", "missing"},
		{`tokens: [{name: a, access: read, token: short}]`, "tokens[0].token", "16"},
		{`tokens: [{name: a, token: 0123456789abcdefg}]`, "tokens[0].access", "read, write"},
		{`tokens: [{name: a, access: read, token: 0123456789abcdefg, workspaces: [x]}]`, "tokens[0].workspaces[0]", "no workspace"},
		{`tokens: [{name: a, access: read, token: 0123456789abcdefg}, {name: a, access: write, token: abcdefghijklmnopq}]`, "tokens[1].name", "tokens[0]"},
		{`tokens: [{name: a, access: read, token: 0123456789abcdefg}, {name: b, access: write, token: 0123456789abcdefg}]`, "tokens[1].token", "tokens[0].token"},
		{`{http: {admin_token: 0123456789abcdefg}, tokens: [{name: a, access: read, token: 0123456789abcdefg}]}`, "tokens[0].token", "http.admin_token"},
		{`log: {level: loud}`, "log.level", "debug, info"},
		{`log: {format: xml}`, "log.format", "json"},
	} {
		_, err := Load(Source{File: write(t, c.content+"\n")})
		if !has(problemsOf(t, err), c.key, c.want) {
			t.Errorf("%s\n  no problem with %s that says %q in: %v", c.content, c.key, c.want, err)
		}
	}
}

func TestEditDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"url", "url", 0}, {"ulr", "url", 1}, {"ulr", "tls", 2}, {"levle", "level", 1},
		{"shedule", "schedule", 1}, {"listen_", "listen", 1}, {"timeuot", "timeout", 1}, {"kitten", "sitting", 3},
	} {
		if got := editDistance(c.a, c.b); got != c.want || editDistance(c.b, c.a) != got {
			t.Errorf("%q, %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := Load(Source{File: write(t, `
log: {level: loud, format: xml}
webhooks: {timeout: soon, jitter: 2}
nats: {replicas: 2}
bogus: 1
workspaces: [{name: a, api_key_env: UNSET}]
`)})
	p := problemsOf(t, err)
	for _, key := range []string{
		"log.level", "log.format", "webhooks.timeout", "webhooks.jitter", "nats.replicas", "bogus", "workspaces[0].api_key_env",
	} {
		if !slices.ContainsFunc(p, func(one Problem) bool { return one.Key == key }) {
			t.Errorf("%s is missing in\n%v", key, p)
		}
	}
}

func TestReachableWithATokenIsAllowed(t *testing.T) {
	t.Parallel()
	cfg, err := Load(Source{Env: []string{"T=0123456789abcdef"}, File: write(t, `
http: {listen: ":8080", admin_token_env: T}
nats: {embedded: {listen: "0.0.0.0:4222", token_env: T}}
`)})
	if err != nil || cfg.HTTP.AdminToken.Reveal() != "0123456789abcdef" {
		t.Error(err)
	}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:8080", "localhost:8080", "[::ffff:127.0.0.1]:1"} {
		if _, err := Load(Source{Set: map[string]string{"http.listen": addr}}); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	there := write(t, "")
	absent := filepath.Join(t.TempDir(), "absent")
	if got, err := find("given", there); got != "given" || err != nil {
		t.Error(got, err)
	}
	if got, err := find("", absent, there); got != there || err != nil {
		t.Error(got, err)
	}
	if _, err := find("", absent); err == nil || !strings.Contains(err.Error(), "-c") || !strings.Contains(err.Error(), absent) {
		t.Error(err)
	}
}
