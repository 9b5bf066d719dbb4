package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (c *Config) validate(p *Problems) {
	c.Nex.validate(p)
	tokens := c.validateWorkspaces(p)
	c.NATS.validate(p)
	c.Stream.validate(p)
	c.Webhooks.validate(p)
	c.validateEndpoints(tokens, p)
	c.HTTP.validate(len(c.Tokens), p)
	c.validateTokens(tokens, p)
	oneOf(p, "log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf(p, "log.format", c.Log.Format, "text", "json")
}

func (n *Nex) validate(p *Problems) {
	u, err := url.Parse(n.BaseURL)
	switch {
	case err != nil:
		p.Addf("nex.base_url", "is no URL; write e.g. https://app.nex.ai/api/developers")
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		p.Addf("nex.base_url", "must begin with https:// or http:// and name a host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		p.Addf("nex.base_url", "must have no user, query or fragment: the key goes into workspaces[].api_key")
	default:
		n.BaseURL = strings.TrimRight(n.BaseURL, "/")
	}
	between(p, "nex.max_event_size", n.MaxEventSize, 64*KiB, 32*MiB)
	between(p, "nex.idle_timeout", n.IdleTimeout, 100*time.Millisecond, 24*time.Hour)
	between(p, "nex.connect_timeout", n.ConnectTimeout, 100*time.Millisecond, 10*time.Minute)
	between(p, "nex.unauthorized_retry", n.UnauthorizedRetry, time.Second, 24*time.Hour)
	between(p, "nex.reconnect_min", n.ReconnectMin, 10*time.Millisecond, time.Hour)
	between(p, "nex.reconnect_max", n.ReconnectMax, n.ReconnectMin, 24*time.Hour)
	between(p, "nex.identity_window", n.IdentityWindow, 0, 7*24*time.Hour)
	between(p, "nex.backfill", n.Backfill, 0, 365*24*time.Hour)
	between(p, "nex.gap_check_interval", n.GapCheckInterval, 0, 24*time.Hour)
	between(p, "nex.gap_overlap", n.GapOverlap, 0, 24*time.Hour)
}

var notInToken = regexp.MustCompile(`[^a-z0-9_-]`)

// token is a workspace's name in subjects.
func token(name string) string { return notInToken.ReplaceAllString(strings.ToLower(name), "_") }

// validateWorkspaces answers the tokens of all workspaces.
func (c *Config) validateWorkspaces(p *Problems) []string {
	tokens := make([]string, len(c.Workspaces))
	keys := map[string]int{}
	for i, w := range c.Workspaces {
		at := fmt.Sprintf("workspaces[%d].", i)
		tokens[i] = token(w.Name)
		switch {
		case w.Name == "":
			p.Addf(at+"name", "is missing")
		case len([]rune(w.Name)) > 64:
			p.Addf(at+"name", "is longer than 64 characters")
		case tokens[i] == "_":
			p.Addf(at+"name", "%q is reserved for the relay's own news", w.Name)
		case slices.Contains(tokens[:i], tokens[i]):
			p.Addf(at+"name", "%q is the same subject token as workspaces[%d]: %s; choose another name", w.Name, slices.Index(tokens, tokens[i]), tokens[i])
		}
		key := w.APIKey.Reveal()
		switch first, twice := keys[key]; {
		case key == "" && w.APIKeyEnv == "" && w.APIKeyFile == "":
			p.Addf(at+"api_key", "is missing: give api_key_env, api_key_file or api_key")
		case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
			p.Addf(at+"api_key", "holds white space or characters that no key has")
		case key != "" && twice:
			p.Addf(at+"api_key", "is the key of workspaces[%d] too: one key is one workspace", first)
		default:
			keys[key] = i
		}
	}
	return tokens
}

func (n *NATS) validate(p *Problems) {
	for _, raw := range strings.Split(n.URL, ",") {
		if n.URL == "" {
			break
		}
		u, err := url.Parse(strings.TrimSpace(raw))
		switch {
		case err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			p.Addf("nats.url", "must be one or more of nats://host:port, tls://, ws://, wss://, separated by commas")
		case u.User != nil:
			p.Addf("nats.url", "must hold no credentials: use nats.user with nats.password, nats.token or nats.credentials_file")
		}
	}
	ways := 0
	for _, set := range []bool{n.CredentialsFile != "", n.User != "", n.Token.IsSet()} {
		if set {
			ways++
		}
	}
	switch {
	case ways > 1:
		p.Addf("nats", "has several logins: keep one of credentials_file, user with password, token")
	case n.Password.IsSet() && n.User == "":
		p.Addf("nats.user", "is missing: nats.password is given")
	case ways > 0 && n.URL == "":
		p.Addf("nats.url", "is empty, so the embedded server is used, and a login for an external one is given; set the URL, or for clients of the embedded server nats.embedded.token")
	}
	if (n.TLS.CertFile == "") != (n.TLS.KeyFile == "") {
		p.Addf("nats.tls", "needs cert_file and key_file together")
	}
	if n.Replicas != 1 && n.Replicas != 3 && n.Replicas != 5 {
		p.Addf("nats.replicas", "%d: must be 1, 3 or 5", n.Replicas)
	}
	between(p, "nats.publish_max_pending", n.PublishMaxPending, 1, 65536)
	n.Embedded.validate(p)
}

func (e *Embedded) validate(p *Problems) {
	if e.Sync != SyncAlways {
		d, err := ParseDuration(e.Sync)
		if err != nil {
			p.Addf("nats.embedded.sync", "%q: write always or a duration such as 1s", e.Sync)
		} else {
			between(p, "nats.embedded.sync", d, 10*time.Millisecond, 10*time.Minute)
		}
	}
	if e.StoreDir == "" {
		p.Addf("nats.embedded.store_dir", "is empty: name a directory")
	}
	if e.Listen == "" {
		return
	}
	if listen(p, "nats.embedded.listen", e.Listen) && !e.Token.IsSet() && e.TokenEnv == "" && e.TokenFile == "" {
		p.Addf("nats.embedded.listen", "%q can be reached from other machines: set nats.embedded.token (or _env, _file), or listen on 127.0.0.1", e.Listen)
	}
}

// listen judges an address and tells whether others than this machine reach it.
func listen(p *Problems, key, addr string) (reachable bool) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		p.Addf(key, "%q is no host:port; write e.g. 127.0.0.1:8080", addr)
		return false
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		p.Addf(key, "%q has no port from 0 to 65535", addr)
		return false
	}
	if host == "localhost" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err != nil || !ip.Unmap().IsLoopback()
}

func (s *Stream) validate(p *Problems) {
	between(p, "stream.max_age", s.MaxAge, time.Minute, 10*365*24*time.Hour)
	if s.MaxBytes != 0 && s.MaxBytes < 16*MiB {
		p.Addf("stream.max_bytes", "%v is too small: 16MiB or more, or 0 for no limit", s.MaxBytes)
	}
	between(p, "stream.duplicate_window", s.DuplicateWindow, time.Second, s.MaxAge)
}

func (w *Webhooks) validate(p *Problems) {
	between(p, "webhooks.timeout", w.Timeout, 100*time.Millisecond, 5*time.Minute)
	if n := len(w.Schedule); n < 1 || n > 50 {
		p.Addf("webhooks.schedule", "has %d entries: 1 to 50 attempts", n)
	}
	for i, d := range w.Schedule {
		between(p, fmt.Sprintf("webhooks.schedule[%d]", i), d, 0, 30*24*time.Hour)
	}
	if !(w.Jitter >= 0 && w.Jitter <= 0.5) {
		p.Addf("webhooks.jitter", "%v: must be from 0 to 0.5", w.Jitter)
	}
	between(p, "webhooks.max_in_flight", w.MaxInFlight, 1, 1024)
	between(p, "webhooks.retry_after_max", w.RetryAfterMax, time.Second, 24*time.Hour)
	between(p, "webhooks.disable_after", w.DisableAfter, 0, 365*24*time.Hour)
	between(p, "webhooks.loss_warning", w.LossWarning, 0, 365*24*time.Hour)
	between(p, "webhooks.secret_overlap", w.SecretOverlap, 0, 365*24*time.Hour)
	if w.Origin == "" || strings.ContainsFunc(w.Origin, func(r rune) bool { return r <= ' ' || r > '~' }) {
		p.Addf("webhooks.origin", "%q: must be a name such as relay.example.com", w.Origin)
	}
	for i, addr := range w.AllowProxies {
		key := fmt.Sprintf("webhooks.allow_proxies[%d]", i)
		if strings.ContainsAny(addr, "@/") { // it may be a whole URL, with a login
			p.Addf(key, "is no host:port: leave out scheme, login and path; write e.g. proxy.internal:3128")
		} else if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			p.Addf(key, "%q is no host:port; write e.g. proxy.internal:3128", addr)
		}
	}
	for i, text := range w.AllowNetworks {
		if _, err := ParseNetwork(text); err != nil {
			p.Addf(fmt.Sprintf("webhooks.allow_networks[%d]", i), "%v", err)
		}
	}
}

// ParseNetwork reads a network (10.0.0.0/8) or a single address.
func ParseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no network; write e.g. 10.0.0.0/8 or a single address", text)
	}
	return prefix.Masked(), nil
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (c *Config) validateEndpoints(tokens []string, p *Problems) {
	ids := map[string]int{}
	for i, e := range c.Endpoints {
		at := fmt.Sprintf("endpoints[%d].", i)
		first, twice := ids[e.ID]
		switch {
		case e.ID == "":
			p.Addf(at+"id", "is missing")
		case !idForm.MatchString(e.ID):
			p.Addf(at+"id", "%q: must be 1 to 64 of A-Z a-z 0-9 _ -", e.ID)
		case twice:
			p.Addf(at+"id", "%q is the id of endpoints[%d] too", e.ID, first)
		default:
			ids[e.ID] = i
		}
		if e.URL == "" {
			p.Addf(at+"url", "is missing")
		}
		if !e.Secret.IsSet() && e.SecretEnv == "" && e.SecretFile == "" && !e.SigningKey.IsSet() && e.SigningKeyEnv == "" && e.SigningKeyFile == "" {
			p.Addf(at+"secret", "is missing: give secret_env, secret_file or secret (or a signing_key)")
		}
		longEnough(p, at+"events_token", e.EventsToken)
		if e.Template != "" && e.TemplateFile != "" {
			p.Addf(at+"template", "is given twice: keep one of template, template_file")
		}
		if (e.ClientCertFile == "") != (e.ClientKeyFile == "") {
			p.Addf(at+"client_cert_file", "and client_key_file are needed together")
		}
		for j, name := range e.Workspaces {
			if !slices.Contains(tokens, token(name)) {
				p.Addf(fmt.Sprintf("%sworkspaces[%d]", at, j), "%q is no workspace of this file", name)
			}
		}
		if e.Timeout != 0 {
			between(p, at+"timeout", e.Timeout, 100*time.Millisecond, 5*time.Minute)
		}
		if e.MaxInFlight != 0 {
			between(p, at+"max_in_flight", e.MaxInFlight, 1, 1024)
		}
	}
}

func (h *HTTP) validate(tokens int, p *Problems) {
	reachable := listen(p, "http.listen", h.Listen)
	given := h.AdminToken.IsSet() || h.AdminTokenEnv != "" || h.AdminTokenFile != ""
	if reachable && !given && tokens == 0 {
		p.Addf("http.listen", "%q can be reached from other machines: set http.admin_token (or _env, _file), or listen on 127.0.0.1", h.Listen)
	}
	longEnough(p, "http.admin_token", h.AdminToken)
}

func longEnough(p *Problems, key string, token Secret) {
	if token.IsSet() && len(token.Reveal()) < 16 {
		p.Addf(key, "is shorter than 16 characters: make one with openssl rand -base64 24")
	}
}

// validateTokens judges the tokens of the API; workspaces are the tokens of all workspaces.
func (c *Config) validateTokens(workspaces []string, p *Problems) {
	names, values := map[string]int{}, map[string]string{c.HTTP.AdminToken.Reveal(): "http.admin_token"}
	for i := range c.Tokens {
		t, at := &c.Tokens[i], fmt.Sprintf("tokens[%d].", i)
		switch first, twice := names[t.Name]; {
		case t.Name == "admin":
			p.Addf(at+"name", "admin is http.admin_token: choose another name")
		case t.Name == "":
			p.Addf(at+"name", "is missing: the log names by it who changes an endpoint")
		case twice:
			p.Addf(at+"name", "%q is the name of tokens[%d] too", t.Name, first)
		default:
			names[t.Name] = i
		}
		switch other, twice := values[t.Token.Reveal()]; {
		case !t.Token.IsSet() && t.TokenEnv == "" && t.TokenFile == "":
			p.Addf(at+"token", "is missing: give token_env, token_file or token")
		case t.Token.IsSet() && twice:
			p.Addf(at+"token", "is the same as %s: who comes with it could be either", other)
		default:
			values[t.Token.Reveal()] = at + "token"
			longEnough(p, at+"token", t.Token)
		}
		if t.Workspaces != nil && len(t.Workspaces) == 0 {
			p.Addf(at+"workspaces", "is empty, which would be all of them: name some, or leave it out for all")
		}
		oneOf(p, at+"access", t.Access, AccessRead, AccessWrite)
		for j, name := range t.Workspaces {
			if !slices.Contains(workspaces, token(name)) {
				p.Addf(fmt.Sprintf("%sworkspaces[%d]", at, j), "%q is no workspace of this file", name)
			}
		}
	}
	for i := range c.Endpoints {
		token, key := c.Endpoints[i].EventsToken, fmt.Sprintf("endpoints[%d].events_token", i)
		if other, twice := values[token.Reveal()]; token.IsSet() && twice {
			p.Addf(key, "is the same as %s: who has it could do both; make one for each", other)
			continue
		}
		values[token.Reveal()] = key
	}
}

// between reports a value outside [low, high].
func between[T ~int | ~int64](p *Problems, key string, v, low, high T) {
	if v < low || v > high {
		p.Addf(key, "%v is outside %v to %v", v, low, high)
	}
}

func oneOf(p *Problems, key, v string, allowed ...string) {
	if !slices.Contains(allowed, v) {
		p.Addf(key, "%q: must be one of %s", v, strings.Join(allowed, ", "))
	}
}
