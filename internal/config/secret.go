package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	paths := []*string{&c.NATS.CredentialsFile, &c.NATS.TLS.CAFile, &c.NATS.TLS.CertFile, &c.NATS.TLS.KeyFile, &c.Webhooks.CAFile}
	for i := range c.Endpoints {
		paths = append(paths, &c.Endpoints[i].ClientCertFile, &c.Endpoints[i].ClientKeyFile, &c.Endpoints[i].TemplateFile)
	}
	for _, path := range paths {
		if *path != "" {
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
		if *ref.file != "" {
			*ref.file = under(dir, *ref.file)
			c.files = append(c.files, *ref.file)
		}
		if given > 1 {
			p.Addf(ref.key, "is given more than once: keep one of %s, %s_env, %s_file", last(ref.key), last(ref.key), last(ref.key))
			continue
		}
		if text, key, err := ref.read(environ); err != nil {
			p.Addf(key, "%v", err)
		} else if text != "" {
			*ref.value = NewSecret(text)
		}
	}
}

// read answers the secret from the environment or a file; empty if it comes from neither. key is where an error belongs.
func (r secretRef) read(environ []string) (text, key string, err error) {
	switch {
	case *r.env != "":
		key = r.key + "_env"
		for _, kv := range environ {
			if name, value, _ := strings.Cut(kv, "="); name == *r.env {
				text = value
			}
		}
		if text == "" {
			err = fmt.Errorf("the environment variable %s is not set or empty", *r.env)
		}
	case *r.file != "":
		key = r.key + "_file"
		text, err = readSecret(*r.file)
	}
	return text, key, err
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
