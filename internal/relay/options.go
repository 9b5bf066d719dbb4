package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/nex"
	"github.com/nex-crm/relay/internal/stream"
	"github.com/nex-crm/relay/internal/webhook"
)

// plan is a configuration turned into what the parts take: the one place where the two meet.
type plan struct {
	cfg        *config.Config
	made       time.Time
	workspaces []stream.Workspace
	endpoints  []*endpoint.Endpoint
	guard      *webhook.Guard
	key        []byte // encryption key, nil if none is configured
	previous   [][]byte
	tls        *tls.Config // for receivers; nil takes the system's authorities
}

// Judge adds to what [config.Load] found what only the parts can judge, so that every problem is shown at once. It is nil
// if there is none.
func Judge(cfg *config.Config, loadErr error) error {
	if cfg == nil {
		return loadErr
	}
	_, err := newPlan(cfg)
	return joinProblems(loadErr, err)
}

// newPlan judges what config could not. Its error is [config.Problems].
func newPlan(cfg *config.Config) (*plan, error) {
	var problems config.Problems
	settings := *cfg
	settings.Workspaces, settings.Endpoints = nil, nil // the plan has its own of them: ten thousand endpoints in a file take 5 MB
	p := &plan{cfg: &settings, made: time.Now()}
	for _, w := range cfg.Workspaces {
		p.workspaces = append(p.workspaces, stream.Workspace{Name: w.Name, Token: event.Token(w.Name), Key: w.APIKey.Reveal()})
	}
	var allow []netip.Prefix
	for _, text := range cfg.Webhooks.AllowNetworks {
		if prefix, err := config.ParseNetwork(text); err == nil { // config has reported it otherwise
			allow = append(allow, prefix)
		}
	}
	p.guard = webhook.NewGuard(allow)
	for i := range cfg.Endpoints {
		p.endpoints = append(p.endpoints, p.endpoint(&cfg.Endpoints[i], fmt.Sprintf("endpoints[%d].", i), &problems))
	}
	if key := cfg.Webhooks.EncryptionKey; key.IsSet() {
		var err error
		if p.key, err = endpoint.ParseKey(key.Reveal()); err != nil {
			problems.Addf("webhooks.encryption_key", "%v", err)
		}
	}
	if key := cfg.Webhooks.PreviousEncryptionKey; key.IsSet() {
		previous, err := endpoint.ParseKey(key.Reveal())
		if err != nil {
			problems.Addf("webhooks.previous_encryption_key", "%v", err)
		}
		p.previous = append(p.previous, previous)
	}
	if file := cfg.Webhooks.CAFile; file != "" {
		pool, err := webhook.LoadCABundle(file)
		if err != nil {
			problems.Addf("webhooks.ca_file", "%v", err)
		}
		p.tls = &tls.Config{RootCAs: pool}
	}
	if cfg.NATS.URL == "" && cfg.NATS.Replicas > 1 {
		problems.Addf("nats.replicas", "%d copies need an external NATS cluster: set nats.url, or 1 for the embedded server", cfg.NATS.Replicas)
	}
	return p, problems.Err()
}

// form is what an endpoint's webhooks look like.
func form(c *config.Endpoint, at string, problems *config.Problems) *endpoint.Form {
	template := c.Template
	if c.TemplateFile != "" {
		text, err := os.ReadFile(c.TemplateFile)
		if err != nil {
			problems.Addf(at+"template_file", "%v", err)
			return nil
		}
		template = string(text)
	}
	f, err := endpoint.NewForm(c.Shape, template, c.ContentType, c.Gzip)
	for _, fault := range faults(err) {
		problems.Addf(at+fault.Field, "%s", fault.Message)
	}
	return f
}

func (p *plan) endpoint(c *config.Endpoint, at string, problems *config.Problems) *endpoint.Endpoint {
	e := &endpoint.Endpoint{
		ID: c.ID, URL: c.URL, Description: c.Description, Events: c.Events, Headers: c.Headers, Timeout: c.Timeout,
		MaxInFlight: c.MaxInFlight, Ordered: c.Ordered, Resume: endpoint.Mode(c.Resume),
		Filter: c.Filter, Handshake: c.Handshake, Enabled: c.Enabled == nil || *c.Enabled, Source: endpoint.SourceConfig,
	}
	for _, w := range c.Workspaces {
		e.Workspaces = append(e.Workspaces, event.Token(w))
	}
	given := true
	for _, s := range []struct {
		key    string
		secret config.Secret
	}{{"secret", c.Secret}, {"signing_key", c.SigningKey}, {"previous_secret", c.PreviousSecret}} {
		if !s.secret.IsSet() {
			continue
		}
		secret, err := webhook.ParseSecret(strings.TrimSpace(s.secret.Reveal()))
		if err != nil {
			problems.Addf(at+s.key, "%v", err)
			given = false
			continue
		}
		if s.key == "signing_key" && secret.Scheme() != webhook.SchemeEd25519 {
			problems.Addf(at+s.key, "is no Ed25519 key: give one that begins with %s", webhook.SigningKeyPrefix)
			given = false
			continue
		}
		e.Secrets = append(e.Secrets, secret)
	}
	if c.EventsToken.IsSet() {
		e.EventsToken = endpoint.HashToken(c.EventsToken.Reveal())
	}
	e.Route = p.route(c, at, problems)
	e.Form = form(c, at, problems)
	var err error
	if e.RateLimit, err = endpoint.ParseRate(c.RateLimit); err != nil {
		problems.Addf(at+"rate_limit", "%v", err)
	}
	for _, fault := range faults(e.Validate(p.limits())) {
		// config has reported these, with the key that stands in the file.
		missing := fault.Field == "id" || fault.Field == "secret" || fault.Field == "url" && c.URL == "" ||
			fault.Field == "timeout" || fault.Field == "max_in_flight"
		if !missing || fault.Field == "secret" && given && c.Secret.IsSet() {
			problems.Addf(at+fault.Field, "%s", fault.Message)
		}
	}
	return e
}

// route reads the files of an endpoint's client certificate.
func (p *plan) route(c *config.Endpoint, at string, problems *config.Problems) *webhook.Route {
	var pems [2][]byte
	for i, file := range []struct{ key, path string }{{"client_cert_file", c.ClientCertFile}, {"client_key_file", c.ClientKeyFile}} {
		if file.path == "" {
			continue
		}
		var err error
		if pems[i], err = os.ReadFile(file.path); err != nil {
			problems.Addf(at+file.key, "%v", err)
			return nil
		}
	}
	if (pems[0] == nil) != (pems[1] == nil) {
		pems = [2][]byte{} // config has reported it
	}
	route, err := endpoint.NewRoute(strings.TrimSpace(c.Proxy.Reveal()), pems[0], pems[1])
	for _, fault := range faults(err) {
		problems.Addf(at+strings.Replace(fault.Field, "client_cert", "client_cert_file", 1), "%s", fault.Message)
	}
	return route
}

// faults takes a joined error of [endpoint.Endpoint.Validate] apart.
func faults(err error) []*endpoint.FieldError {
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) {
		return nil
	}
	var out []*endpoint.FieldError
	for _, one := range many.Unwrap() {
		var fault *endpoint.FieldError
		if errors.As(one, &fault) {
			out = append(out, fault)
		}
	}
	return out
}

func (p *plan) limits() endpoint.Limits { return endpoint.Limits{AllowHTTP: p.cfg.Webhooks.AllowHTTP} }

// warn tells what will keep a valid endpoint from being delivered to, as far as one can see without asking the network.
func (p *plan) warn(e *endpoint.Endpoint) []string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return nil
	}
	host := u.Hostname()
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	if err := p.guard.Check(addr); err != nil {
		return []string{"url: " + err.Error()}
	}
	return nil
}

func (p *plan) nex(version string) nex.ClientConfig {
	c := p.cfg.Nex
	return nex.ClientConfig{
		BaseURL: c.BaseURL, UserAgent: userAgent(version), MaxEventSize: int(c.MaxEventSize), IdleTimeout: c.IdleTimeout,
		ConnectTimeout: c.ConnectTimeout,
	}
}

func userAgent(version string) string { return "nex-relay/" + version }

func (p *plan) bus(log *slog.Logger, reg prometheus.Registerer) bus.Config {
	n, s := p.cfg.NATS, p.cfg.Stream
	return bus.Config{
		URL: n.URL, CredentialsFile: n.CredentialsFile, User: n.User, Password: n.Password.Reveal(), Token: n.Token.Reveal(),
		CAFile: n.TLS.CAFile, CertFile: n.TLS.CertFile, KeyFile: n.TLS.KeyFile,
		Replicas: n.Replicas, MaxPending: n.PublishMaxPending,
		Embedded: bus.Embedded{
			Listen: n.Embedded.Listen, StoreDir: n.Embedded.StoreDir, Token: n.Embedded.Token.Reveal(),
			SyncAlways: n.Embedded.Sync == config.SyncAlways, SyncInterval: n.Embedded.SyncInterval(),
		},
		Stream:   bus.Limits{MaxAge: s.MaxAge, MaxBytes: int64(s.MaxBytes), DuplicateWindow: s.DuplicateWindow},
		MaxEvent: int(p.cfg.Nex.MaxEventSize), Logger: log, Registerer: reg,
	}
}

// keyFile is where an embedded relay keeps its encryption key if none is configured.
const keyFile = "endpoints.key"

// sealer has the configured key. An embedded relay without one makes its own beside its store; an external NATS holds
// the buckets of many, so there a key must be given before endpoints can be made over the API.
func (p *plan) sealer() (endpoint.Sealer, error) {
	key := p.key
	if key == nil {
		if p.cfg.NATS.URL != "" {
			return endpoint.Sealer{}, nil
		}
		var err error
		if key, err = endpoint.KeyFromFile(filepath.Join(p.cfg.NATS.Embedded.StoreDir, keyFile)); err != nil {
			return endpoint.Sealer{}, fmt.Errorf("encryption key: %w", err)
		}
	}
	return endpoint.NewSealer(key, p.previous...)
}

// maxIdle is how many idle connections to receivers are kept in all.
const maxIdle = 2048

func (p *plan) sender(version string) *webhook.Sender {
	w := p.cfg.Webhooks
	idle := max(w.MaxInFlight, maxIdle)
	for _, e := range p.endpoints {
		idle = max(idle, e.MaxInFlight)
	}
	return webhook.NewSender(webhook.SenderConfig{
		Guard: p.guard, AllowHTTP: w.AllowHTTP, UserAgent: userAgent(version), Timeout: w.Timeout,
		// Many endpoints may be one host's: what bounds the connections to it is what is in flight to each of them.
		MaxIdle: idle, MaxIdlePerHost: idle, TLSConfig: p.tls, AllowProxies: w.AllowProxies,
	})
}

func (p *plan) fanout(parts *parts, log *slog.Logger, reg prometheus.Registerer) fanout.Config {
	w := p.cfg.Webhooks
	return fanout.Config{
		Bus: parts.bus, Endpoints: parts.endpoints, Sender: parts.sender,
		Policy:  fanout.Policy{Schedule: w.Schedule, Jitter: w.Jitter, RetryAfterMax: w.RetryAfterMax},
		Timeout: w.Timeout, MaxInFlight: w.MaxInFlight, Grace: Grace, Logger: log, Registerer: reg,
		DisableAfter: w.DisableAfter, LossWarning: w.LossWarning, Origin: w.Origin,
		Replicas: func() int {
			if parts.leases == nil {
				return 1
			}
			return parts.leases.Replicas()
		},
	}
}

func (p *plan) stream(client *nex.Client, parts *parts, log *slog.Logger, reg prometheus.Registerer) stream.Config {
	c := p.cfg.Nex
	return stream.Config{
		Client: client, Bus: parts.bus, Leases: parts.leases, Logger: log, Registerer: reg,
		ReconnectMin: c.ReconnectMin, ReconnectMax: c.ReconnectMax, UnauthorizedRetry: c.UnauthorizedRetry,
		IdentityWindow: c.IdentityWindow, Backfill: c.Backfill, GapCheckInterval: c.GapCheckInterval, GapOverlap: c.GapOverlap,
		MaxAge: p.cfg.Stream.MaxAge, Started: p.made,
	}
}

// needsRestart names the sections in which next differs from p outside of what a reload applies.
func (p *plan) needsRestart(next *plan) (sections []string) {
	a, b := p.cfg, next.cfg
	for _, section := range []struct {
		name       string
		have, want any
	}{
		{"nex", a.Nex, b.Nex}, {"nats", a.NATS, b.NATS}, {"stream", a.Stream, b.Stream}, {"webhooks", a.Webhooks, b.Webhooks},
		{"http", a.HTTP, b.HTTP}, {"tokens", a.Tokens, b.Tokens}, {"log", a.Log, b.Log},
	} {
		if !reflect.DeepEqual(section.have, section.want) {
			sections = append(sections, section.name)
		}
	}
	return sections
}
