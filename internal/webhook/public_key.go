package webhook

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// PublicKeyPrefix begins every public key (Standard Webhooks, "Signature scheme").
const PublicKeyPrefix = "whpk_"

// PublicKey is an Ed25519 public key, which a receiver verifies v1a signatures with. It is no secret, and can be compared with
// ==. The zero PublicKey is no key: nothing is ever accepted by it.
type PublicKey [ed25519.PublicKeySize]byte

// ParsePublicKey reads "whpk_" followed by 32 bytes in standard base64 with padding. No error contains any part of the value:
// somebody may have given a secret.
func ParsePublicKey(s string) (PublicKey, error) {
	key, err := decodePublicKey(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return key, nil
}

func decodePublicKey(s string) (PublicKey, error) {
	encoded, ok := strings.CutPrefix(s, PublicKeyPrefix)
	switch {
	case s == "":
		return PublicKey{}, errors.New("empty: give whpk_ followed by 32 bytes in base64")
	case strings.ContainsAny(s, " \t\r\n"):
		return PublicKey{}, errors.New("contains white space: remove it, a line break at the end included")
	case strings.HasPrefix(s, SecretPrefix), strings.HasPrefix(s, SigningKeyPrefix):
		return PublicKey{}, errors.New("is a secret: give the public key, which begins with whpk_")
	case !ok:
		return PublicKey{}, errors.New("does not begin with whpk_: give whpk_ followed by 32 bytes in base64")
	}
	raw, err := decodeBase64(encoded)
	if err != nil {
		return PublicKey{}, err
	}
	if len(raw) != ed25519.PublicKeySize {
		return PublicKey{}, fmt.Errorf("has %d bytes: an Ed25519 public key has 32", len(raw))
	}
	key := PublicKey(raw)
	if key.IsZero() {
		return PublicKey{}, errors.New("consists of zeros: nobody has such a key")
	}
	return key, nil
}

// IsZero reports that there is no key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// String is "whpk_" and base64, as it is handed to a receiver; empty for the zero PublicKey.
func (k PublicKey) String() string {
	if k.IsZero() {
		return ""
	}
	return PublicKeyPrefix + base64.StdEncoding.EncodeToString(k[:])
}

// MarshalText is [PublicKey.String].
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// KeyID is the thumbprint of the key as a JSON Web Key (RFC 7638, section 3, with SHA-256; the members of an Ed25519 key are
// those of RFC 8037, section 2), in base64url: 43 characters that anybody can compute from the key alone. It is empty for the
// zero PublicKey.
func (k PublicKey) KeyID() string {
	if k.IsZero() {
		return ""
	}
	// The required members in lexicographic order, without white space (RFC 7638, section 3.3).
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + k.x() + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// x is the key as a JSON Web Key holds it (RFC 8037, section 2).
func (k PublicKey) x() string { return base64.RawURLEncoding.EncodeToString(k[:]) }
