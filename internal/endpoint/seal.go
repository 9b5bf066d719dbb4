package endpoint

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// KeySize is the length of an encryption key in bytes: AES-256.
const KeySize = 32

// ErrNoKey is returned where a secret would have to be stored or read and no encryption key is configured.
var ErrNoKey = errors.New("no encryption key: set webhooks.encryption_key (or _env, _file)")

// Sealer encrypts what must not stand in the bucket in clear: AES-256-GCM, bound to the endpoint's id so that a sealed
// value cannot be moved to another endpoint. The zero Sealer has no key.
type Sealer struct {
	id       string
	aead     cipher.AEAD
	previous map[string]cipher.AEAD // by id: open what they have sealed
}

// NewSealer takes a key of [KeySize] bytes, and earlier ones, which open what they have sealed.
func NewSealer(key []byte, previous ...[]byte) (Sealer, error) {
	s, err := newSealer(key)
	if err != nil {
		return s, err
	}
	for _, old := range previous {
		p, err := newSealer(old)
		if err != nil {
			return Sealer{}, fmt.Errorf("previous key: %w", err)
		}
		if s.previous == nil {
			s.previous = map[string]cipher.AEAD{}
		}
		s.previous[p.id] = p.aead
	}
	return s, nil
}

func newSealer(key []byte) (Sealer, error) {
	if len(key) != KeySize {
		return Sealer{}, fmt.Errorf("encryption key of %d bytes: %d are needed", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return Sealer{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return Sealer{}, err
	}
	sum := sha256.Sum256(append([]byte("relay endpoint key id:"), key...))
	return Sealer{id: hex.EncodeToString(sum[:4]), aead: aead}, nil
}

// IsZero tells whether there is no key.
func (s Sealer) IsZero() bool { return s.aead == nil }

// seal returns <key id>.<base64 of nonce and ciphertext>. The key id tells keys apart, not what they are.
func (s Sealer) seal(endpointID string, plain []byte) (string, error) {
	if s.IsZero() {
		return "", ErrNoKey
	}
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails since Go 1.24
	box := s.aead.Seal(nonce, nonce, plain, []byte(endpointID))
	return s.id + "." + base64.StdEncoding.EncodeToString(box), nil
}

func (s Sealer) open(endpointID, sealed string) ([]byte, error) {
	if s.IsZero() {
		return nil, ErrNoKey
	}
	id, text, ok := strings.Cut(sealed, ".")
	if !ok {
		return nil, errors.New("sealed value has no key id")
	}
	aead := s.aead
	if id != s.id {
		aead = s.previous[id]
	}
	if aead == nil {
		return nil, fmt.Errorf("sealed with key %s, the configured one is %s: configure the key it was sealed with, as webhooks.previous_encryption_key if it was replaced", id, s.id)
	}
	box, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(box) < aead.NonceSize() {
		return nil, errors.New("sealed value is damaged")
	}
	n := aead.NonceSize()
	plain, err := aead.Open(nil, box[:n], box[n:], []byte(endpointID))
	if err != nil {
		return nil, errors.New("sealed value does not open: it is damaged or belongs to another endpoint")
	}
	return plain, nil
}

// current tells whether a value was sealed with the key that seals now.
func (s Sealer) current(sealed string) bool { return strings.HasPrefix(sealed, s.id+".") }

// ParseKey reads a key as 64 hex digits or as base64 of 32 bytes. Its errors do not quote the key.
func ParseKey(s string) ([]byte, error) {
	s = strings.TrimSpace(s)
	if key, err := hex.DecodeString(s); err == nil && len(key) == KeySize {
		return key, nil
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if key, err := enc.DecodeString(s); err == nil && len(key) == KeySize {
			return key, nil
		}
	}
	return nil, fmt.Errorf("must be %d bytes, as base64 or as %d hex digits; make one with: openssl rand -base64 %d", KeySize, 2*KeySize, KeySize)
}

// KeyFromFile reads the key at path, or makes one there (mode 0600) if there is none. It serves a relay with an embedded
// server: the key lies beside the store, so whoever copies the bucket alone has no secrets, whoever copies both has.
func KeyFromFile(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		key, err := ParseKey(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key := make([]byte, KeySize)
	_, _ = rand.Read(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, werr := f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	// A key that a power cut takes away would leave sealed secrets that nobody opens.
	return key, errors.Join(werr, f.Sync(), f.Close())
}
