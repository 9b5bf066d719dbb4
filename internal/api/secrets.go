package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

// PublicKey is an Ed25519 key with which a receiver verifies v1a signatures.
type PublicKey struct {
	ID  string `json:"kid"` // as in /.well-known/webhook-keys
	Key string `json:"key"` // whpk_…
}

// RotateSecret is the body of POST …/rotate-secret. Without a value the relay makes one, of the kinds that the endpoint has
// or that signatures names.
type RotateSecret struct {
	Secret     string   `json:"secret,omitempty" doc:"whsec_…"`
	SigningKey string   `json:"signing_key,omitempty" doc:"whsk_…"`
	Signatures []string `json:"signatures,omitempty" doc:"The kinds that are replaced, or added: v1, v1a."`
	Overlap    *string  `json:"overlap,omitempty" doc:"How long the old one signs on; 0s is not at all. webhooks.secret_overlap is the default." example:"24h"`
	Revoke     bool     `json:"revoke,omitempty" doc:"No older one signs on, those replaced earlier included."`
}

// secrets are those given, and fresh ones of the kinds asked for. made tells that the relay made an HMAC secret, which its
// owner must be told.
func secrets(secret, signingKey string, kinds []string) (list []webhook.Secret, made bool, err error) {
	var errs []error
	take := func(field, text, scheme string) {
		s, err := webhook.ParseSecret(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		case s.Scheme() != scheme:
			errs = append(errs, fmt.Errorf("%s: is of another kind: secret is whsec_…, signing_key whsk_…", field))
		default:
			list = append(list, s)
		}
	}
	if secret != "" {
		take("secret", secret, webhook.SchemeHMAC)
	}
	if signingKey != "" {
		take("signing_key", signingKey, webhook.SchemeEd25519)
	}
	if len(kinds) == 0 && secret == "" && signingKey == "" {
		kinds = []string{webhook.SchemeHMAC}
	}
	for i, kind := range kinds {
		switch {
		case slices.Contains(kinds[:i], kind): // one of each kind, however often it is named
		case kind == webhook.SchemeHMAC && secret == "":
			list, made = append(list, webhook.GenerateSecret()), true
		case kind == webhook.SchemeEd25519 && signingKey == "":
			list = append(list, webhook.GenerateSigningKey())
		case kind != webhook.SchemeHMAC && kind != webhook.SchemeEd25519:
			errs = append(errs, fmt.Errorf("signatures: %q: must be v1 or v1a", kind))
		}
	}
	return list, made, errors.Join(errs...)
}

// revealHMAC is the HMAC secret among list. An Ed25519 key is nobody's but the relay's: its public half is shown.
func revealHMAC(list []webhook.Secret) string {
	for _, s := range list {
		if s.Scheme() == webhook.SchemeHMAC {
			return s.Reveal()
		}
	}
	return ""
}

func showSignatures(out *Endpoint, e *endpoint.Endpoint) {
	out.Signatures = []string{}
	for _, s := range e.Secrets {
		if !slices.Contains(out.Signatures, s.Scheme()) {
			out.Signatures = append(out.Signatures, s.Scheme())
		}
	}
	for _, key := range e.PublicKeys() {
		out.PublicKeys = append(out.PublicKeys, PublicKey{ID: key.KeyID(), Key: key.String()})
	}
}

func (s *server) secretOperations() {
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints/{id}/rotate-secret", id: "rotateSecret", summary: "Replace an endpoint's secrets", access: writes,
		about:  "The old ones sign on beside the new for a while. A secret that the relay makes is shown in this answer alone.",
		errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed},
	}, s.rotateSecret)
	add(s, operation{
		method: "GET", path: "/.well-known/webhook-keys", id: "webhookKeys", summary: "Public keys of v1a signatures", access: withoutID,
		about: "A JSON Web Key Set (RFC 7517) of all endpoints, which names none of them.",
	}, s.webhookKeys)
}

type rotateSecret struct {
	ByID
	Match
	Body *RotateSecret
}

// rotateSecret replaces an endpoint's secrets. The old ones sign on for a while beside the new.
func (s *server) rotateSecret(ctx context.Context, req *rotateSecret) (*oneEndpoint, error) {
	registry, _, err := s.endpointOf(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	var in RotateSecret
	if req.Body != nil {
		in = *req.Body
	}
	overlap := s.cfg.Overlap
	if in.Overlap != nil {
		if overlap, err = time.ParseDuration(*in.Overlap); err != nil || overlap < 0 || overlap > maxOverlap {
			return nil, badRequest("overlap: %q is no duration from 0s to %v; write e.g. 24h", *in.Overlap, maxOverlap)
		}
	}
	if in.Revoke {
		if in.Overlap != nil && overlap != 0 {
			return nil, badRequest("overlap: revoke ends the older ones at once; leave one of them out")
		}
		overlap = 0
	}
	meant, err := revision(req.IfMatch)
	if err != nil {
		return nil, err
	}
	var made string
	err = registry.Change(ctx, req.ID, func(e *endpoint.Endpoint) (bool, error) {
		if err := stillHas(e, meant); err != nil {
			return false, err
		}
		kinds := in.Signatures
		if len(kinds) == 0 && in.Secret == "" && in.SigningKey == "" {
			for _, old := range e.Secrets {
				kinds = append(kinds, old.Scheme())
			}
			slices.Sort(kinds)
			kinds = slices.Compact(kinds)
		}
		fresh, generated, err := secrets(in.Secret, in.SigningKey, kinds)
		if err != nil {
			return false, badRequest("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		if made = ""; generated {
			made = revealHMAC(fresh)
		}
		now := time.Now().UTC()
		if in.Revoke {
			e.Revoke(fresh, now)
		} else {
			e.Rotate(fresh, now, now.Add(overlap))
		}
		return true, nil
	})
	if err != nil {
		return nil, endpointError(err)
	}
	s.log.Info("endpoint's secrets replaced", "endpoint", req.ID, "overlap", overlap, "revoke", in.Revoke, "by", callerOf(ctx).name)
	out, err := s.current(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	out.Body.Secret = made
	return out, nil
}

const maxOverlap = 365 * 24 * time.Hour

// webhookKeys are the public keys of all endpoints, as a JSON Web Key Set: for receivers, who have no token. It names no
// endpoint.
func (s *server) webhookKeys(context.Context, *struct{}) (*answer[webhook.KeySet], error) {
	registry, err := s.registry()
	if err != nil {
		return nil, err
	}
	var keys []webhook.PublicKey
	for _, e := range registry.Snapshot().All() {
		keys = append(keys, e.PublicKeys()...)
	}
	return &answer[webhook.KeySet]{webhook.NewKeySet(keys)}, nil
}
