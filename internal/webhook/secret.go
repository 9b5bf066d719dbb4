package webhook

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// SecretPrefix begins every symmetric secret (Standard Webhooks, "Signature scheme").
const SecretPrefix = "whsec_"

// Limits of a secret in decoded bytes (Standard Webhooks, "Signature scheme": 192 to 512 bits).
const (
	MinSecretBytes = 24
	MaxSecretBytes = 64
)

// generatedSecretBytes is the block size of choice for HMAC-SHA256: as long as its output (RFC 2104, section 3).
const generatedSecretBytes = 32

const redactedSecret = SecretPrefix + "[redacted]"

// Secret is a symmetric signing secret. However it is printed, logged or encoded, only a placeholder appears; [Secret.Reveal]
// alone gives the value. The zero Secret is no secret: nothing is ever signed with it or accepted by it.
//
// Compare secrets with [Secret.Equal]; == compares where they are kept.
type Secret struct {
	// A pointer to a string, because fmt calls no methods on unexported fields of other structs: it prints this as an address
	// then, under any verb. A pointer to a struct or a slice is followed under a verb that does not fit.
	key *string
}

func newSecret(raw []byte) Secret {
	key := string(raw)
	return Secret{&key}
}

// GenerateSecret is a new random secret of 32 bytes.
func GenerateSecret() Secret {
	raw := make([]byte, generatedSecretBytes)
	_, _ = rand.Read(raw) // never fails since Go 1.24
	return newSecret(raw)
}

// ParseSecret reads "whsec_" followed by 24 to 64 bytes in standard base64. Padding is required, as receivers' libraries
// require it: what is accepted here must work there. No error contains any part of the value.
func ParseSecret(s string) (Secret, error) {
	raw, err := decodeSecret(s)
	if err != nil {
		return Secret{}, fmt.Errorf("signing secret: %w", err)
	}
	return newSecret(raw), nil
}

func decodeSecret(s string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(s, SecretPrefix)
	switch {
	case s == "":
		return nil, errors.New("empty: give whsec_ followed by 24 to 64 random bytes in base64")
	case strings.ContainsAny(s, " \t\r\n"):
		return nil, errors.New("contains white space: remove it, a line break at the end included")
	case strings.HasPrefix(s, "whsk_"), strings.HasPrefix(s, "whpk_"):
		return nil, errors.New("is an Ed25519 key: give a symmetric secret, which begins with whsec_")
	case !ok:
		return nil, errors.New("does not begin with whsec_: give whsec_ followed by 24 to 64 random bytes in base64")
	case strings.ContainsAny(encoded, "-_"):
		return nil, errors.New("is in URL-safe base64: write + for - and / for _")
	case strings.ContainsFunc(encoded, notBase64):
		return nil, errors.New("is not base64 after whsec_: copy it again, whole")
	case len(encoded)%4 != 0:
		return nil, errors.New("is cut off or lacks its base64 padding: fill up with = to a multiple of four characters")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, errors.New("ends in base64 that no encoder writes: copy it again, whole")
	}
	if len(raw) < MinSecretBytes || len(raw) > MaxSecretBytes {
		return nil, fmt.Errorf("has %d bytes: 24 to 64 are allowed; `openssl rand -base64 32` makes a good one (put whsec_ before it)", len(raw))
	}
	return raw, nil
}

func notBase64(r rune) bool {
	return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '+' && r != '/' && r != '='
}

// Reveal is the secret as it is handed to a receiver: "whsec_" and base64. It is empty for the zero Secret.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return SecretPrefix + base64.StdEncoding.EncodeToString([]byte(*s.key))
}

// IsZero reports that there is no secret.
func (s Secret) IsZero() bool { return s.key == nil }

// Equal reports in constant time whether both hold the same bytes.
func (s Secret) Equal(other Secret) bool {
	if s.IsZero() || other.IsZero() {
		return s.IsZero() && other.IsZero()
	}
	return subtle.ConstantTimeCompare([]byte(*s.key), []byte(*other.key)) == 1
}

// String is a placeholder.
func (s Secret) String() string { return redactedSecret }

// GoString is a placeholder.
func (s Secret) GoString() string { return redactedSecret }

// Format writes a placeholder under every verb; without it %d would print the bytes.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedSecret) }

// LogValue is a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redactedSecret) }

// MarshalText is a placeholder, which [ParseSecret] refuses.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redactedSecret), nil }

// MarshalJSON is a placeholder, which [ParseSecret] refuses.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedSecret + `"`), nil }
