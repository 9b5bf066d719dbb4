package config

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// maxSecret bounds a secret's file.
const maxSecret = 64 << 10

// secretRef is one secret and the three ways to give it.
type secretRef struct {
	key       string
	value     *Secret
	env, file *string
}

func (c *Config) secretRefs() []secretRef {
	refs := []secretRef{
		{"nats.password", &c.NATS.Password, &c.NATS.PasswordEnv, &c.NATS.PasswordFile},
		{"nats.token", &c.NATS.Token, &c.NATS.TokenEnv, &c.NATS.TokenFile},
		{"nats.embedded.token", &c.NATS.Embedded.Token, &c.NATS.Embedded.TokenEnv, &c.NATS.Embedded.TokenFile},
		{"webhooks.encryption_key", &c.Webhooks.EncryptionKey, &c.Webhooks.EncryptionKeyEnv, &c.Webhooks.EncryptionKeyFile},
		{"webhooks.previous_encryption_key", &c.Webhooks.PreviousEncryptionKey, &c.Webhooks.PreviousEncryptionKeyEnv, &c.Webhooks.PreviousEncryptionKeyFile},
		{"http.admin_token", &c.HTTP.AdminToken, &c.HTTP.AdminTokenEnv, &c.HTTP.AdminTokenFile},
	}
	for i := range c.Workspaces {
		w := &c.Workspaces[i]
		refs = append(refs, secretRef{fmt.Sprintf("workspaces[%d].api_key", i), &w.APIKey, &w.APIKeyEnv, &w.APIKeyFile})
	}
	for i := range c.Tokens {
		t := &c.Tokens[i]
		refs = append(refs, secretRef{fmt.Sprintf("tokens[%d].token", i), &t.Token, &t.TokenEnv, &t.TokenFile})
	}
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		at := fmt.Sprintf("endpoints[%d].", i)
		refs = append(refs,
			secretRef{at + "secret", &e.Secret, &e.SecretEnv, &e.SecretFile},
			secretRef{at + "previous_secret", &e.PreviousSecret, &e.PreviousSecretEnv, &e.PreviousSecretFile},
			secretRef{at + "events_token", &e.EventsToken, &e.EventsTokenEnv, &e.EventsTokenFile},
			secretRef{at + "signing_key", &e.SigningKey, &e.SigningKeyEnv, &e.SigningKeyFile},
			secretRef{at + "proxy", &e.Proxy, &e.ProxyEnv, &e.ProxyFile})
	}
	return refs
}

// resolveSecrets fills in what comes from the environment or a file, and makes every file's path absolute or relative to
// the working directory. Paths in the file are relative to the file.
func (c *Config) resolveSecrets(environ []string, dir string, p *Problems) {
	for key, path := range c.paths() {
		switch {
		case *path == "":
		case looksSecret(*path):
			p.Addf(key, "holds a secret, or what should stand in the file, and not its name")
			*path = "" // nobody is to look for it and say that it is not there
		default:
			*path = under(dir, *path)
			c.files = append(c.files, *path)
		}
	}
	for _, ref := range c.secretRefs() {
		given := 0
		for _, set := range []bool{ref.value.IsSet(), *ref.env != "", *ref.file != ""} {
			if set {
				given++
			}
		}
		named := *ref.file
		if named != "" {
			*ref.file = under(dir, named)
			c.files = append(c.files, *ref.file)
		}
		if given > 1 {
			p.Addf(ref.key, "is given more than once: keep one of %s, %s_env, %s_file", last(ref.key), last(ref.key), last(ref.key))
			continue
		}
		if text, key, err := ref.read(environ, named); err != nil {
			p.Addf(key, "%v", err)
		} else if text != "" {
			*ref.value = NewSecret(text)
		}
	}
}

// paths is every key that names a file which holds no secret in one word.
func (c *Config) paths() iter.Seq2[string, *string] {
	return func(yield func(string, *string) bool) {
		n, w := &c.NATS, &c.Webhooks
		ok := yield("nats.credentials_file", &n.CredentialsFile) && yield("nats.tls.ca_file", &n.TLS.CAFile) && yield("nats.tls.cert_file", &n.TLS.CertFile) &&
			yield("nats.tls.key_file", &n.TLS.KeyFile) && yield("webhooks.ca_file", &w.CAFile)
		for i := 0; ok && i < len(c.Endpoints); i++ {
			e, at := &c.Endpoints[i], fmt.Sprintf("endpoints[%d].", i)
			ok = yield(at+"client_cert_file", &e.ClientCertFile) && yield(at+"client_key_file", &e.ClientKeyFile) && yield(at+"template_file", &e.TemplateFile)
		}
	}
}

// read answers the secret from the environment or a file, which is called so in the configuration; empty if it comes from neither. key is
// where an error belongs. It does not quote what may be the secret itself, given under the wrong key.
func (r secretRef) read(environ []string, named string) (text, key string, err error) {
	switch {
	case *r.env != "":
		key = r.key + "_env"
		if !envName.MatchString(*r.env) {
			return "", key, fmt.Errorf("is no name of an environment variable; give the secret itself as %s", last(r.key))
		}
		for _, kv := range environ {
			if name, value, _ := strings.Cut(kv, "="); name == *r.env {
				text = value
			}
		}
		switch {
		case text != "":
		case looksSecret(*r.env) || looksRandom(*r.env):
			err = fmt.Errorf("the environment variable of that name is not set or empty; give the secret itself as %s", last(r.key))
		default:
			err = fmt.Errorf("the environment variable %s is not set or empty", *r.env)
		}
	case *r.file != "":
		key = r.key + "_file"
		text, err = readSecret(*r.file)
		if err != nil && (looksSecret(named) || len(named) > 20 && !strings.ContainsAny(named, `./\`)) {
			err = fmt.Errorf("the file of that name cannot be read; give the secret itself as %s", last(r.key))
		}
	}
	return text, key, err
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// looksSecret tells of a value that begins as secrets do, or is a whole PEM file.
func looksSecret(value string) bool {
	for _, begin := range [...]string{"whsec_", "whsk_", "whev_", "sk-", "sk_"} {
		if strings.HasPrefix(value, begin) {
			return true
		}
	}
	return strings.Contains(value, "-----BEGIN") || strings.Contains(value, "\n")
}

// looksRandom tells of a name that nobody would think of: long, and of letters of both cases with digits, or of two of these without a _.
func looksRandom(name string) bool {
	kinds := 0
	for _, kind := range [...]string{"abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"} {
		if strings.ContainsAny(name, kind) {
			kinds++
		}
	}
	return len(name) > 20 && (kinds == 3 || kinds == 2 && !strings.Contains(name, "_"))
}

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxSecret {
		return "", fmt.Errorf("%s is over %d bytes: that is no secret", path, maxSecret)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if text == "" {
		return "", errors.New(path + " is empty")
	}
	return text, nil
}

func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }
