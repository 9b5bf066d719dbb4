package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	Secret     string   `json:"secret"`
	SigningKey string   `json:"signing_key"`
	Signatures []string `json:"signatures"`
	Overlap    *string  `json:"overlap"` // how long the old one signs on, e.g. "24h"; "0s" = not at all
	Revoke     bool     `json:"revoke"`  // no older one signs on, those replaced earlier included
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

// rotateSecret replaces an endpoint's secrets. The old ones sign on for a while beside the new.
func (s *server) rotateSecret(r *http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	var in RotateSecret
	if err := decodeOptional(r, &in); err != nil {
		return 0, nil, err
	}
	overlap := s.cfg.Overlap
	if in.Overlap != nil {
		if overlap, err = time.ParseDuration(*in.Overlap); err != nil || overlap < 0 || overlap > maxOverlap {
			return 0, nil, &Error{http.StatusBadRequest, fmt.Sprintf("overlap: %q is no duration from 0s to %v; write e.g. 24h", *in.Overlap, maxOverlap)}
		}
	}
	if in.Revoke {
		if in.Overlap != nil && overlap != 0 {
			return 0, nil, &Error{http.StatusBadRequest, "overlap: revoke ends the older ones at once; leave one of them out"}
		}
		overlap = 0
	}
	id := r.PathValue("id")
	var made string
	err = registry.Change(r.Context(), id, func(e *endpoint.Endpoint) (bool, error) {
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
			return false, &Error{http.StatusBadRequest, err.Error()}
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
		return 0, nil, endpointError(err)
	}
	s.log.Info("endpoint's secrets replaced", "endpoint", id, "overlap", overlap, "revoke", in.Revoke)
	e := registry.Snapshot().Get(id)
	if e == nil {
		return 0, nil, endpointError(fmt.Errorf("%s: %w", id, endpoint.ErrNotFound))
	}
	out := s.show(e)
	out.Secret = made
	return http.StatusOK, out, nil
}

const maxOverlap = 365 * 24 * time.Hour

// webhookKeys are the public keys of all endpoints, as a JSON Web Key Set: for receivers, who have no token. It names no
// endpoint.
func (s *server) webhookKeys(*http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	var keys []webhook.PublicKey
	for _, e := range registry.Snapshot().All() {
		keys = append(keys, e.PublicKeys()...)
	}
	return http.StatusOK, webhook.NewKeySet(keys), nil
}
