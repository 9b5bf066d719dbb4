package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSecretSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"plain": "s3cret", "lf": "s3cret\n", "crlf": "s3cret\r\n", "two": "s3cret\n\n", "space": " s3cret \n",
		"empty": "", "newline": "\n", "large": strings.Repeat("x", maxSecret+1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct{ yaml, want, fault, key string }{
		"value":               {yaml: `token: s3cret`, want: "s3cret"},
		"environment":         {yaml: `token_env: TOK`, want: "from env"},
		"file":                {yaml: `token_file: plain`, want: "s3cret"},
		"absolute file":       {yaml: `token_file: ` + filepath.Join(dir, "plain"), want: "s3cret"},
		"line feed cut":       {yaml: `token_file: lf`, want: "s3cret"},
		"CRLF cut":            {yaml: `token_file: crlf`, want: "s3cret"},
		"one line end only":   {yaml: `token_file: two`, want: "s3cret\n"},
		"spaces kept":         {yaml: `token_file: space`, want: " s3cret "},
		"unset":               {yaml: `token_env: NOT_SET`, key: "_env", fault: "NOT_SET is not set or empty"},
		"set to nothing":      {yaml: `token_env: NOTHING`, key: "_env", fault: "NOTHING is not set or empty"},
		"absent file":         {yaml: `token_file: absent`, key: "_file", fault: "no such file"},
		"directory":           {yaml: `token_file: .`, key: "_file", fault: "directory"},
		"empty file":          {yaml: `token_file: empty`, key: "_file", fault: "is empty"},
		"only a line end":     {yaml: `token_file: newline`, key: "_file", fault: "is empty"},
		"too large":           {yaml: `token_file: large`, key: "_file", fault: "is no secret"},
		"value and env":       {yaml: `token: a, token_env: TOK`, fault: "more than once"},
		"env and file":        {yaml: `token_env: TOK, token_file: plain`, fault: "more than once"},
		"value, env and file": {yaml: `token: a, token_env: TOK, token_file: plain`, fault: "more than once"},
	} {
		file := filepath.Join(dir, "relay.yaml")
		if err := os.WriteFile(file, []byte("nats: {url: \"nats://a\", "+c.yaml+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(Source{File: file, Env: []string{"TOK=from env", "NOTHING="}})
		switch {
		case c.fault != "" && !has(problemsOf(t, err), "nats.token"+c.key, c.fault):
			t.Errorf("%s: no %q in %v", name, c.fault, err)
		case c.fault == "" && (err != nil || cfg.NATS.Token.Reveal() != c.want):
			t.Errorf("%s: %q, want %q (%v)", name, cfg.NATS.Token.Reveal(), c.want, err)
		}
	}
}

func TestFilesNamesAllThatIsWatched(t *testing.T) {
	t.Parallel()
	file := write(t, `
nats: {url: "nats://a", credentials_file: c.creds, tls: {ca_file: ca.pem, cert_file: cert.pem, key_file: /abs/key.pem}}
workspaces: [{name: a, api_key_file: a.key}]
endpoints: [{id: e, url: "https://e", secret_file: e.secret, previous_secret_file: old.secret}]
http: {admin_token_file: admin}
webhooks: {encryption_key_file: enc}
`)
	cfg, _ := Load(Source{File: file}) // none of the files is there, and all are to be watched for
	dir := filepath.Dir(file)
	want := []string{file, "/abs/key.pem"}
	for _, name := range []string{"c.creds", "ca.pem", "cert.pem", "a.key", "e.secret", "old.secret", "admin", "enc"} {
		want = append(want, filepath.Join(dir, name))
	}
	if got := slices.Sorted(slices.Values(cfg.Files())); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("\ngot  %v\nwant %v", got, want)
	}
}

// printed is everything that could show a value.
func printed(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	const canary = "canary-0123456789"
	for name, v := range map[string]any{
		"secret": NewSecret(canary), "pointer": func() *Secret { s := NewSecret(canary); return &s }(),
		"in a struct": NATS{Token: NewSecret(canary)}, "in a list": []Workspace{{APIKey: NewSecret(canary)}},
	} {
		out := printed(t, v)
		if strings.Contains(out, canary) || strings.Contains(out, fmt.Sprintf("%x", canary)) {
			t.Errorf("%s shows the secret:\n%s", name, out)
		}
		if !strings.Contains(out, redacted) {
			t.Errorf("%s does not show that there is one:\n%s", name, out)
		}
	}
	if got := fmt.Sprintf("%v|%s", Secret{}, Secret{}); got != "|" {
		t.Errorf("an absent secret shows as %q", got)
	}
}

// Every fault is made at once with the canary in every place for a secret: whatever is said of them must not quote it.
func TestProblemsDoNotQuoteSecrets(t *testing.T) {
	t.Parallel()
	const canary = "CANARY"
	for _, content := range []string{`
nats: {url: "nats://u:CANARY@a", token: CANARY, token_env: X, password: CANARY, embedded: {token: [CANARY]}}
workspaces: [{name: a, api_key: "CANARY CANARY"}, {name: b, api_key: CANARYb}, {name: c, api_key: CANARYb}]
endpoints: [{id: e, secret: CANARY, secret_file: x}, {id: f, secret: {CANARY: 1}}]
http: {admin_token: CANARY}
webhooks: {encryption_key: {a: CANARY}}
`, `
webhooks: {allow_proxies: ["http://u:CANARY@h:1", "u:CANARY@h:1", "CANARY@h:1", "http://CANARY@h"], ca_file: whsec_CANARY}
workspaces: [{name: a, api_key_env: sk-CANARY}, {name: b, api_key_env: "CANARY x"}, {name: c, api_key_file: sk-CANARY}, {name: d, api_key_env: sk_CANARY}]
tokens: [{name: t, token_env: CANARYabcdefghijklmn0123, access: read}, {name: u, token_file: CANARYabcdefghijklmn0123, access: read}]
endpoints:
  - {id: e, url: "https://e", secret_file: whsec_CANARY/x.y, client_cert_file: c.pem, client_key_file: "-----BEGIN PRIVATE KEY-----\nCANARY\n"}
  - {id: f, url: "https://e", secret_env: whsec_CANARY, events_token_env: whev_CANARY}
`, `nex: {base_url: "https://u:CANARY@a/%zz"}`, `nex: {base_url: "https://u:CANARY@a"}`} {
		cfg, err := Load(Source{File: write(t, content), Env: []string{"RELAY_HTTP__ADMIN_TOKN=" + canary}, Set: map[string]string{"http.admin_tok": canary}})
		if len(problemsOf(t, err)) == 0 {
			t.Fatal("no fault found")
		}
		for _, out := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, err), printed(t, cfg.NATS.Token), printed(t, cfg.HTTP)} {
			if strings.Contains(out, canary) {
				t.Errorf("a secret is shown in:\n%s", out)
			}
		}
	}
}

// What is given under the wrong key is told by what to do, and a name that is one is told by itself.
func TestSecretUnderTheWrongKey(t *testing.T) {
	t.Parallel()
	for yaml, want := range map[string]string{
		`api_key_env: sk-0123456789`:                       "api_key_env: is no name of an environment variable; give the secret itself as api_key",
		`api_key_env: sk_0123456789`:                       "api_key_env: the environment variable of that name is not set or empty; give the secret itself as api_key",
		`api_key_env: aB3aB3aB3aB3aB3aB3aB3`:               "api_key_env: the environment variable of that name is not set or empty; give the secret itself as api_key",
		`api_key_env: RELAY_KEY_OF_WORKSPACE_2_PRODUCTION`: "api_key_env: the environment variable RELAY_KEY_OF_WORKSPACE_2_PRODUCTION is not set or empty",
		`api_key_file: sk-0123456789`:                      "api_key_file: the file of that name cannot be read; give the secret itself as api_key",
		`api_key_file: a-long-name-of-a-key`:               "api_key_file: open ",
		`api_key_file: a-name-that-is-far-too-long`:        "api_key_file: the file of that name cannot be read; give the secret itself as api_key",
		`api_key_file: secrets/a-name-that-is-long`:        "api_key_file: open ",
		`api_key_file: a-name-that-is-long.key`:            "api_key_file: open ",
	} {
		_, err := Load(Source{File: write(t, "workspaces: [{name: a, "+yaml+"}]")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", yaml, err, want)
		}
	}
}

// No two doors have one key, and no token is bound to nothing.
func TestTokensThatOpenTooMuch(t *testing.T) {
	t.Parallel()
	const a, b = "token-of-the-test-a", "token-of-the-test-b"
	token, endpoint := "{name: t, access: read, token: %s}", "{id: %s, url: \"https://e\", secret: whsec_x, events_token: %s}"
	for name, c := range map[string]struct{ yaml, key, fault string }{
		"events token is the admin's": {"http: {admin_token: " + a + "}\nendpoints: [" + fmt.Sprintf(endpoint, "e", a) + "]", "endpoints[0].events_token", "same as http.admin_token"},
		"events token is a token":     {"tokens: [" + fmt.Sprintf(token, a) + "]\nendpoints: [" + fmt.Sprintf(endpoint, "e", a) + "]", "endpoints[0].events_token", "same as tokens[0].token"},
		"one events token for two":    {"endpoints: [" + fmt.Sprintf(endpoint, "e", a) + ", " + fmt.Sprintf(endpoint, "f", a) + "]", "endpoints[1].events_token", "same as endpoints[0].events_token"},
		"all apart":                   {yaml: "http: {admin_token: " + a + "}\nendpoints: [" + fmt.Sprintf(endpoint, "e", b) + "]"},
		"no workspaces":               {"tokens: [{name: t, access: read, token: " + a + ", workspaces: []}]", "tokens[0].workspaces", "is empty"},
		"nothing as workspaces":       {"tokens: [{name: t, access: read, token: " + a + ", workspaces: }]", "tokens[0].workspaces", "is empty"},
		"an empty text":               {"tokens: [{name: t, access: read, token: " + a + ", workspaces: \"\"}]", "tokens[0].workspaces", "is empty"},
		"one workspace":               {yaml: "workspaces: [{name: a, api_key: k}]\ntokens: [{name: t, access: read, token: " + a + ", workspaces: [a]}]"},
		"all workspaces":              {yaml: "tokens: [{name: t, access: read, token: " + a + "}]"},
	} {
		_, err := Load(Source{File: write(t, c.yaml)})
		switch {
		case c.fault == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.fault != "" && !has(problemsOf(t, err), c.key, c.fault):
			t.Errorf("%s: %v", name, err)
		case c.fault != "" && len(problemsOf(t, err)) > 1:
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), a) {
			t.Errorf("%s shows the token", name)
		}
	}
}
