package webhook

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// Prefixes of the secrets (Standard Webhooks, "Signature scheme").
const (
	SecretPrefix     = "whsec_" // symmetric
	SigningKeyPrefix = "whsk_"  // Ed25519, private
)

// Schemes: the versions that begin a signature (Standard Webhooks, "Signature scheme").
const (
	SchemeHMAC    = "v1"  // HMAC-SHA256
	SchemeEd25519 = "v1a" // Ed25519 (RFC 8032)
)

// Limits of a symmetric secret in decoded bytes (Standard Webhooks, "Signature scheme": 192 to 512 bits).
const (
	MinSecretBytes = 24
	MaxSecretBytes = 64
)

// generatedSecretBytes is the block size of choice for HMAC-SHA256: as long as its output (RFC 2104, section 3).
const generatedSecretBytes = 32

const redacted = "[redacted]"

// Secret signs messages: a symmetric secret, or an Ed25519 private key. However it is printed, logged or encoded, only a
// placeholder appears; [Secret.Reveal] alone gives the value. The zero Secret is no secret: nothing is ever signed with it or
// accepted by it.
//
// Compare secrets with [Secret.Equal]; == compares where they are kept.
type Secret struct {
	// A pointer to a pointer, because fmt calls no methods on unexported fields of other structs: it prints this as an address
	// then, under any verb. A pointer to a struct or a slice is followed under a verb that does not fit.
	key **secretKey
}

// secretKey holds one of the two kinds; the other is nil. A private key stays where it is, because crypto/ed25519 keeps what
// it derives from it by its address: signing takes half the time.
type secretKey struct {
	hmac    []byte
	ed25519 ed25519.PrivateKey

	macs sync.Pool // of *mac, made of hmac: half of what signing a small body costs is to make one
}

func newSecret(key *secretKey) Secret { return Secret{&key} }

// GenerateSecret is a new random symmetric secret of 32 bytes.
func GenerateSecret() Secret {
	raw := make([]byte, generatedSecretBytes)
	_, _ = rand.Read(raw) // never fails since Go 1.24
	return newSecret(&secretKey{hmac: raw})
}

// GenerateSigningKey is a new random Ed25519 private key.
func GenerateSigningKey() Secret {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails since Go 1.24
	return newSecret(&secretKey{ed25519: ed25519.NewKeyFromSeed(seed)})
}

// ParseSecret reads a secret of either kind in standard base64: "whsec_" and 24 to 64 bytes, or "whsk_" and an Ed25519 private
// key, which is the 32 bytes of its seed and the 32 of its public key (as Svix writes it), or the seed alone. Padding is
// required, as receivers' libraries require it: what is accepted here must work there. No error contains any part of the value.
func ParseSecret(s string) (Secret, error) {
	key, err := decodeSecret(s)
	if err != nil {
		return Secret{}, fmt.Errorf("signing secret: %w", err)
	}
	return newSecret(key), nil
}

func decodeSecret(s string) (*secretKey, error) {
	const want = "give whsec_ followed by 24 to 64 random bytes in base64, or whsk_ followed by an Ed25519 private key"
	symmetric, isSymmetric := strings.CutPrefix(s, SecretPrefix)
	private, isPrivate := strings.CutPrefix(s, SigningKeyPrefix)
	switch {
	case s == "":
		return nil, errors.New("empty: " + want)
	case strings.ContainsAny(s, " \t\r\n"):
		return nil, errors.New("contains white space: remove it, a line break at the end included")
	case isSymmetric:
		return decodeSymmetric(symmetric)
	case isPrivate:
		return decodePrivate(private)
	case strings.HasPrefix(s, PublicKeyPrefix):
		return nil, errors.New("is the public half of an Ed25519 key: give the private key, which begins with whsk_")
	}
	return nil, errors.New("does not begin with whsec_ or whsk_: " + want)
}

func decodeSymmetric(encoded string) (*secretKey, error) {
	raw, err := decodeBase64(encoded)
	if err != nil {
		return nil, err
	}
	if len(raw) < MinSecretBytes || len(raw) > MaxSecretBytes {
		return nil, fmt.Errorf("has %d bytes: 24 to 64 are allowed; `openssl rand -base64 32` makes a good one (put whsec_ before it)", len(raw))
	}
	return &secretKey{hmac: raw}, nil
}

func decodePrivate(encoded string) (*secretKey, error) {
	raw, err := decodeBase64(encoded)
	if err != nil {
		return nil, err
	}
	if len(raw) != ed25519.SeedSize && len(raw) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("has %d bytes: an Ed25519 private key has 64, or 32 without its public half", len(raw))
	}
	key := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
	if len(raw) == ed25519.PrivateKeySize && subtle.ConstantTimeCompare(raw, key) != 1 {
		return nil, errors.New("has a public half that is not its own: copy it again, whole, or give the 32 bytes of the seed alone")
	}
	return &secretKey{ed25519: key}, nil
}

// decodeBase64 reads what stands behind a prefix: standard base64 in the one spelling that an encoder writes.
func decodeBase64(encoded string) ([]byte, error) {
	switch {
	case strings.ContainsAny(encoded, "-_"):
		return nil, errors.New("is in URL-safe base64: write + for - and / for _")
	case strings.ContainsFunc(encoded, notBase64):
		return nil, errors.New("is not base64 after its prefix: copy it again, whole")
	case len(encoded)%4 != 0:
		return nil, errors.New("is cut off or lacks its base64 padding: fill up with = to a multiple of four characters")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, errors.New("ends in base64 that no encoder writes: copy it again, whole")
	}
	return raw, nil
}

func notBase64(r rune) bool {
	return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '+' && r != '/' && r != '='
}

// Reveal is the secret as [ParseSecret] reads it. A symmetric one is handed to the receiver in this form; of a private key the
// receiver gets [Secret.Public] alone. A private key always has its public half. It is empty for the zero Secret.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.prefix() + base64.StdEncoding.EncodeToString(s.bytes())
}

// IsZero reports that there is no secret.
func (s Secret) IsZero() bool { return s.key == nil }

// Scheme is [SchemeHMAC] or [SchemeEd25519], and empty for the zero Secret.
func (s Secret) Scheme() string {
	switch {
	case s.IsZero():
		return ""
	case (*s.key).ed25519 != nil:
		return SchemeEd25519
	}
	return SchemeHMAC
}

// Public is the key that verifies what an Ed25519 private key signs. It is the zero PublicKey for a symmetric secret.
func (s Secret) Public() PublicKey {
	if s.Scheme() != SchemeEd25519 {
		return PublicKey{}
	}
	return PublicKey((*s.key).ed25519[ed25519.SeedSize:])
}

// Equal reports in constant time whether both hold the same bytes of the same kind.
func (s Secret) Equal(other Secret) bool {
	if s.IsZero() || other.IsZero() {
		return s.IsZero() && other.IsZero()
	}
	return s.Scheme() == other.Scheme() && subtle.ConstantTimeCompare(s.bytes(), other.bytes()) == 1
}

// bytes is the key of a secret that is not zero.
func (s Secret) bytes() []byte {
	if k := *s.key; k.ed25519 != nil {
		return k.ed25519
	}
	return (*s.key).hmac
}

func (s Secret) prefix() string {
	if s.Scheme() == SchemeEd25519 {
		return SigningKeyPrefix
	}
	return SecretPrefix
}

// String is a placeholder.
func (s Secret) String() string { return s.prefix() + redacted }

// GoString is a placeholder.
func (s Secret) GoString() string { return s.String() }

// Format writes a placeholder under every verb; without it %d would print the bytes.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue is a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is a placeholder, which [ParseSecret] refuses.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON is a placeholder, which [ParseSecret] refuses.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }
