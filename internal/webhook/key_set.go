package webhook

import (
	"slices"
	"strings"
)

// KeySet is a JSON Web Key Set (RFC 7517, section 5) of public keys, for a document that receivers look keys up in. It names
// no endpoint: whoever reads it does not learn whose a key is.
type KeySet struct {
	Keys []JWK `json:"keys"`
}

// JWK is an Ed25519 public key as a JSON Web Key (RFC 7517, section 4; RFC 8037, section 2).
type JWK struct {
	Type      string `json:"kty"` // "OKP"
	Curve     string `json:"crv"` // "Ed25519"
	Algorithm string `json:"alg"` // "EdDSA"
	Use       string `json:"use"` // "sig"
	ID        string `json:"kid"` // see [PublicKey.KeyID]
	X         string `json:"x"`   // the key in base64url
	// PublicKey is the key as the Standard Webhooks libraries take it. RFC 7517, section 4 permits members of one's own, which
	// readers that do not know them ignore.
	PublicKey string `json:"whpk"`
}

// NewKeySet is the set of keys, each once, sorted by key id, so that the same keys give the same document. Zero keys are left
// out. Without keys the set is empty, not null.
func NewKeySet(keys []PublicKey) KeySet {
	set := KeySet{Keys: make([]JWK, 0, len(keys))}
	for _, k := range keys {
		if !k.IsZero() {
			set.Keys = append(set.Keys, newJWK(k))
		}
	}
	slices.SortFunc(set.Keys, func(a, b JWK) int { return strings.Compare(a.ID, b.ID) })
	set.Keys = slices.Compact(set.Keys)
	return set
}

func newJWK(k PublicKey) JWK {
	return JWK{Type: "OKP", Curve: "Ed25519", Algorithm: "EdDSA", Use: "sig", ID: k.KeyID(), X: k.x(), PublicKey: k.String()}
}
