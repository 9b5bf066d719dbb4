package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/nex-crm/relay/internal/endpoint"
)

// Token lets a caller in.
type Token struct {
	Name   string // who it is, for the log
	Secret string
	// Write permits changes; without it the token only reads.
	Write bool
	// Workspaces are the only ones whose endpoints it sees, as tokens of subjects; empty = all.
	Workspaces []string
}

// caller is who makes a request.
type caller struct {
	name       string
	token      string // a hash of it: names may be given twice, or to another later
	endpoint   string // the only one that he sees, whose receiver he is; empty = he is none
	write      bool
	workspaces []string
}

// sees tells whether an endpoint is the caller's business: one that gets nothing but what is of his workspaces.
func (c *caller) sees(e *endpoint.Endpoint) bool {
	if c.endpoint != "" {
		return e.ID == c.endpoint
	}
	if len(c.workspaces) == 0 {
		return true
	}
	return len(e.Workspaces) > 0 && !slices.ContainsFunc(e.Workspaces, func(w string) bool { return !slices.Contains(c.workspaces, w) })
}

// knows tells whether a workspace is the caller's business.
func (c *caller) knows(workspace string) bool {
	return len(c.workspaces) == 0 || slices.Contains(c.workspaces, workspace)
}

// may tells whether the caller may do what needs an access.
func (c *caller) may(a access) bool {
	switch a {
	case withoutID, pulls:
		return true
	case reads:
		return c.endpoint == ""
	case writes:
		return c.write
	default:
		return c.write && len(c.workspaces) == 0
	}
}

type callerKey struct{}

// callerOf is who makes the request of ctx.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	if c == nil { // an operation that asks nobody
		return &caller{}
	}
	return c
}

// identify finds who makes a request (RFC 6750, section 2.1), or says why he is not let in. Without a configured token the
// listener is loopback, and what remains to be kept out is a web page in a browser on the same machine: see sameMachine.
func (s *server) identify(host, origin, authorization string) (*caller, *Error) {
	if len(s.tokens) == 0 {
		if !sameMachine(host, origin) {
			return nil, &Error{http.StatusForbidden, "without http.admin_token the API answers only requests to localhost that no foreign web page made"}
		}
		return &caller{name: "local", write: true}, nil
	}
	scheme, given, _ := strings.Cut(authorization, " ")
	hash := sha256.Sum256([]byte(strings.TrimSpace(given)))
	var found *caller
	for i := range s.tokens { // all of them: how long it takes tells nothing
		if subtle.ConstantTimeCompare(hash[:], s.tokens[i].hash[:]) == 1 {
			found = &s.tokens[i].caller
		}
	}
	if found == nil || !strings.EqualFold(scheme, "Bearer") {
		return nil, &Error{http.StatusUnauthorized, "bearer token missing or wrong: send Authorization: Bearer <token>, one of http.admin_token and http.tokens"}
	}
	return found, nil
}

type knownToken struct {
	hash   [sha256.Size]byte
	caller caller
}

func knownTokens(list []Token) (known []knownToken) {
	for _, t := range list {
		sum := sha256.Sum256([]byte(t.Secret))
		known = append(known, knownToken{sum, caller{name: t.Name, token: hex.EncodeToString(sum[:]), write: t.Write, workspaces: t.Workspaces}})
	}
	return known
}

// admit lets those in who may do what they ask for.
func (s *server) admit(ctx huma.Context, next func(huma.Context)) {
	need, _ := ctx.Operation().Metadata[accessKey].(access)
	if need == withoutID {
		next(ctx)
		return
	}
	who, refused := s.receiver(ctx, need)
	if who == nil {
		who, refused = s.identify(ctx.Host(), ctx.Header("Origin"), ctx.Header("Authorization"))
	}
	if refused == nil && !who.may(need) {
		refused = &Error{http.StatusForbidden, "this token may not: it is read-only"}
		if who.write {
			refused.Message = "this token may not: it is bound to workspaces"
		}
	}
	if refused != nil {
		if refused.Code == http.StatusUnauthorized {
			ctx.SetHeader("WWW-Authenticate", challenge)
		}
		_ = huma.WriteErr(s.api, ctx, refused.Code, refused.Message)
		return
	}
	if ctx.Operation().RequestBody == nil && !nothingIn(ctx.BodyReader()) {
		_ = huma.WriteErr(s.api, ctx, http.StatusBadRequest, "body: this operation takes none: leave it out")
		return
	}
	if err := oncePerParameter(ctx.URL().RawQuery); err != nil {
		_ = huma.WriteErr(s.api, ctx, http.StatusBadRequest, err.Error())
		return
	}
	next(huma.WithValue(ctx, callerKey{}, who))
}

// receiver is the caller who asks for what should have come to his endpoint, with its token; nil if it is not one.
func (s *server) receiver(ctx huma.Context, need access) (*caller, *Error) {
	scheme, token, _ := strings.Cut(ctx.Header("Authorization"), " ")
	if need != pulls || !strings.EqualFold(scheme, "Bearer") {
		return nil, nil
	}
	registry, err := s.registry()
	if err != nil {
		return nil, nil
	}
	id := ctx.Param("id")
	if e := registry.Snapshot().Get(id); e == nil || !e.Opens(strings.TrimSpace(token)) {
		return nil, nil
	}
	return &caller{name: "the receiver of " + id, endpoint: id}, nil
}

const challenge = `Bearer realm="relay"`

// sameMachine refuses what a page from elsewhere could make a browser send: a name of its own that resolves to this
// machine (DNS rebinding) shows in Host, a cross-site request in Origin.
func sameMachine(host, origin string) bool {
	if !loopbackHost(host) {
		return false
	}
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host == host
}

func loopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}
