package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/nex"
	"github.com/nex-crm/relay/internal/stream"
	"github.com/nex-crm/relay/internal/webhook"
)

// Levels of a finding.
const (
	LevelOK    = "ok"
	LevelWarn  = "warn"
	LevelFault = "FAULT"
)

// Finding is one line of what [Check] found.
type Finding struct {
	Level  string
	What   string // workspace, nats, endpoint
	Name   string
	Detail string
}

// checksAtOnce bounds the workspaces and endpoints that are tried at the same time.
const checksAtOnce = 16

// Check tries what the configuration names and changes nothing: each key against the stream and REST, NATS, the
// addresses of the endpoints. A running relay may hold the same streams and the store meanwhile.
func Check(ctx context.Context, cfg *config.Config, version string, timeout time.Duration) []Finding {
	p, err := newPlan(cfg)
	if err != nil {
		return []Finding{{LevelFault, "config", "", err.Error()}}
	}
	client, err := nex.NewClient(p.nex(version))
	if err != nil {
		return []Finding{{LevelFault, "config", "nex.base_url", err.Error()}}
	}
	defer client.CloseIdle()
	checks := []func(context.Context) Finding{p.checkNATS}
	ids := make([]string, len(p.workspaces)) // Nex's, of those that answered
	for i, w := range p.workspaces {
		checks = append(checks, func(ctx context.Context) (f Finding) {
			f, ids[i] = checkWorkspace(ctx, client, w, timeout/4)
			return f
		})
	}
	for _, e := range p.endpoints {
		checks = append(checks, func(ctx context.Context) Finding { return p.checkEndpoint(ctx, e) })
	}
	out := make([]Finding, len(checks))
	slots := make(chan struct{}, checksAtOnce)
	var wg sync.WaitGroup
	for i, check := range checks {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			out[i] = check(ctx)
		})
	}
	wg.Wait()
	findSame(out[1:], ids) // behind NATS'
	if len(p.workspaces) == 0 {
		out = append(out, Finding{LevelWarn, "workspace", "-", "none configured: nothing will come in"})
	}
	if len(p.endpoints) == 0 {
		out = append(out, Finding{LevelWarn, "endpoint", "-", "none in the file: only NATS clients get events"})
	}
	return out
}

// checkWorkspace waits for Nex's greeting as long as that.
func checkWorkspace(ctx context.Context, client *nex.Client, w stream.Workspace, greeting time.Duration) (f Finding, workspaceID string) {
	f = Finding{LevelFault, "workspace", w.Name, ""}
	feed, err := client.Stream(ctx, w.Key)
	if err != nil {
		f.Detail = explainNex(err)
		return f, workspaceID
	}
	defer feed.Close()
	next := make(chan error, 1)
	go func() {
		_, err := feed.Next()
		next <- err
	}()
	greeted := time.NewTimer(greeting)
	defer greeted.Stop()
	select {
	case <-feed.Connected():
	case <-greeted.C: // Nex greets at once; a stream that is merely quiet is fine all the same
	case err := <-next:
		if err != nil {
			f.Detail = "the stream opened and ended at once: " + err.Error()
			return f, workspaceID
		}
	case <-ctx.Done():
		f.Detail = "the stream opened, but the time to check is over"
		return f, workspaceID
	}
	var tokenID string
	workspaceID, tokenID = feed.Identity()
	f.Detail = fmt.Sprintf("stream ok, workspace_id=%s token_id=%s", orUnknown(workspaceID), orUnknown(tokenID))
	if _, err := client.Insights(ctx, w.Key, nex.Query{Limit: 1}); err != nil {
		f.Level = LevelWarn
		f.Detail += "; REST: " + explainNex(err) + ": gaps cannot be filled"
		return f, workspaceID
	}
	f.Level, f.Detail = LevelOK, f.Detail+", REST ok"
	return f, workspaceID
}

// findSame makes a fault of workspaces that are one and the same at Nex: each of its insights would be in the log twice.
func findSame(workspaces []Finding, ids []string) {
	first := map[string]string{}
	for i, id := range ids {
		switch name, seen := first[id]; {
		case id == "":
		case seen:
			workspaces[i].Level = LevelFault
			workspaces[i].Detail += "; workspace " + name + " has a key of the same: every insight would be in the log twice, remove one of the two"
		default:
			first[id] = workspaces[i].Name
		}
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func explainNex(err error) string {
	var e *nex.Error
	switch {
	case !errors.As(err, &e):
		return err.Error()
	case e.Status == 401:
		return e.Error() + "; the key is wrong or revoked: make one in Nex and configure it"
	case e.Status == 403:
		return e.Error() + "; the key lacks the scope insight.stream: add it in Nex"
	}
	return e.Error()
}

func (p *plan) checkNATS(ctx context.Context) Finding {
	if p.cfg.NATS.URL == "" {
		return p.checkEmbedded()
	}
	f := Finding{LevelFault, "nats", "external", ""}
	b, err := bus.Connect(ctx, p.bus(slog.New(slog.DiscardHandler), nil))
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	defer b.Close(ctx)
	info, err := b.JetStream().AccountInfo(ctx)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		f.Detail = "JetStream is not enabled for this account"
		return f
	case err != nil:
		f.Detail = "JetStream: " + err.Error()
		return f
	}
	f.Level, f.Detail = LevelOK, fmt.Sprintf("nats-server %s, JetStream with %d streams", b.Conn().ConnectedServerVersion(), info.Streams)
	if size := b.Conn().MaxPayload(); size < int64(p.cfg.Nex.MaxEventSize) {
		f.Level = LevelWarn
		f.Detail += fmt.Sprintf("; its max_payload is %d bytes, nex.max_event_size %v: larger insights go to quarantine", size, p.cfg.Nex.MaxEventSize)
	}
	return f
}

// checkEmbedded looks without starting the server: a running relay may have the store.
func (p *plan) checkEmbedded() Finding {
	dir := p.cfg.NATS.Embedded.StoreDir
	f := Finding{LevelFault, "nats", "embedded", ""}
	existing := dir
	for {
		info, err := os.Stat(existing)
		if err == nil {
			if !info.IsDir() {
				f.Detail = existing + " is no directory: nats.embedded.store_dir needs one"
				return f
			}
			break
		}
		if parent := filepath.Dir(existing); parent != existing {
			existing = parent
			continue
		}
		f.Detail = err.Error()
		return f
	}
	probe, err := os.CreateTemp(existing, ".relay-check-*")
	if err != nil {
		f.Detail = fmt.Sprintf("store_dir %s cannot be written: %v", dir, err)
		return f
	}
	_ = probe.Close()
	_ = os.Remove(probe.Name())
	f.Level, f.Detail = LevelOK, "store_dir "+dir+" can be written"
	if addr := p.cfg.NATS.Embedded.Listen; addr != "" && !strings.HasSuffix(addr, ":0") {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			f.Level, f.Detail = LevelWarn, f.Detail+"; listen "+addr+" is taken: by a running relay?"
			return f
		}
		_ = l.Close()
	}
	return f
}

// checkEndpoint resolves the host and asks the guard about each address. It sends nothing.
func (p *plan) checkEndpoint(ctx context.Context, e *endpoint.Endpoint) Finding {
	f := Finding{LevelFault, "endpoint", e.ID, ""}
	u, err := url.Parse(e.URL)
	if err != nil {
		f.Detail = "url does not parse"
		return f
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		f.Detail = fmt.Sprintf("host %s cannot be resolved: %v", u.Hostname(), err)
		return f
	}
	var allowed []netip.Addr
	for _, addr := range addrs {
		if err = p.guard.Check(addr); err == nil {
			allowed = append(allowed, addr)
		}
	}
	switch {
	case len(allowed) == 0 && err != nil:
		f.Detail = "refused target: " + err.Error()
		return f
	case !e.Enabled:
		f.Level, f.Detail = LevelWarn, "paused (enabled: false): nothing is delivered, and it keeps its place in the log"
	default:
		f.Level, f.Detail = LevelOK, fmt.Sprintf("%s resolves to %d allowed address(es), nothing sent", u.Host, len(allowed))
	}
	for _, fact := range facts(e) {
		f.Detail += ", " + fact
	}
	if r := e.Route; r != nil && r.ClientCert != nil && time.Now().After(r.ClientCert.Leaf.NotAfter) {
		f.Level, f.Detail = LevelWarn, f.Detail+"; the client certificate has expired on "+r.ClientCert.Leaf.NotAfter.UTC().Format(time.DateOnly)
	}
	if err := p.checkProxy(ctx, e.Route); err != nil {
		f.Level, f.Detail = LevelFault, f.Detail+"; proxy: "+err.Error()
	}
	return f
}

// checkProxy resolves an endpoint's proxy, if it has one, and asks whether it may be dialled.
func (p *plan) checkProxy(ctx context.Context, r *webhook.Route) error {
	if r == nil || r.Proxy == nil {
		return nil
	}
	port := r.Proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[r.Proxy.Scheme]
	}
	host := r.Proxy.Hostname()
	if slices.Contains(p.cfg.Webhooks.AllowProxies, net.JoinHostPort(host, port)) {
		return nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return fmt.Errorf("host %s cannot be resolved: %w", host, err)
	}
	for _, addr := range addrs {
		if err = p.guard.Check(addr); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w, or %s in webhooks.allow_proxies", err, net.JoinHostPort(host, port))
}

// facts are the settings of an endpoint that change how it is delivered to. None is a secret.
func facts(e *endpoint.Endpoint) (list []string) {
	note := func(holds bool, format string, args ...any) {
		if holds {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	note(e.Ordered, "strictly ordered")
	note(e.Filter != "", "filtered")
	note(e.RateLimit > 0, "at most %g attempts/s", e.RateLimit)
	note(e.Handshake, "asks the receiver first")
	if e.Form != nil {
		note(e.Form.Kind != "", "as %s", e.Form.Kind)
		note(e.Form.Gzip, "compressed")
	}
	note(len(e.PublicKeys()) > 0, "signs with Ed25519")
	if r := e.Route; r != nil {
		note(r.ClientCert != nil, "shows a client certificate")
		if r.Proxy != nil {
			list = append(list, "through the proxy "+r.Proxy.Host)
		}
	}
	return list
}
