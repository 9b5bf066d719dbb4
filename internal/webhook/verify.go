package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DefaultTolerance is how far a message's timestamp may lie from the receiver's clock, either way.
const DefaultTolerance = 5 * time.Minute

// Why a message is not genuine. A receiver answers 4xx to each of them.
var (
	// ErrMissingHeader: one of the three webhook headers is absent or empty.
	ErrMissingHeader = errors.New("missing header")
	// ErrBadID: the webhook-id contains a dot, so that the signed text could be split in two ways.
	ErrBadID = errors.New("bad webhook-id")
	// ErrBadTimestamp: the webhook-timestamp is no plain number of seconds.
	ErrBadTimestamp = errors.New("bad webhook-timestamp")
	// ErrTooOld: signed longer ago than the tolerance; a replayed message or a clock that is wrong.
	ErrTooOld = errors.New("message too old")
	// ErrTooNew: signed further in the future than the tolerance; a clock is wrong.
	ErrTooNew = errors.New("message too new")
	// ErrNoMatchingSignature: no signature fits any secret or public key.
	ErrNoMatchingSignature = errors.New("no matching signature")
)

// Verifier checks Standard Webhooks signatures (v1 and v1a) on the receiving side. It may be used by many goroutines at once.
type Verifier struct {
	// Secrets are those accepted, any of them; more than one during a rotation. A private key stands for its public one.
	Secrets []Secret
	// PublicKeys are accepted as well. Neither secrets nor keys accept nothing.
	PublicKeys []PublicKey
	// Tolerance bounds the age of a message and how far it may lie ahead; 0 means [DefaultTolerance].
	Tolerance time.Duration
	// Now is the clock; nil means [time.Now].
	Now func() time.Time
}

// Verify returns nil if body came with these headers from a holder of one of the secrets or keys, within the tolerance; else an
// error that wraps one of this package's sentinels. It does not detect a message that is repeated within the tolerance:
// receivers recognise those by the webhook-id.
func (v *Verifier) Verify(header http.Header, body []byte) error {
	id, timestamp, signatures := header.Get(HeaderID), header.Get(HeaderTimestamp), header.Get(HeaderSignature)
	switch {
	case id == "":
		return fmt.Errorf("verify: %w: webhook-id", ErrMissingHeader)
	case timestamp == "":
		return fmt.Errorf("verify: %w: webhook-timestamp", ErrMissingHeader)
	case signatures == "":
		return fmt.Errorf("verify: %w: webhook-signature", ErrMissingHeader)
	case strings.Contains(id, "."):
		return fmt.Errorf("verify: %w: contains a dot", ErrBadID)
	}
	unix, err := parseTimestamp(timestamp)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if err := v.checkAge(time.Unix(unix, 0)); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !v.matches(appendSignedPrefix(nil, id, unix), body, signatures) {
		return fmt.Errorf("verify: %w", ErrNoMatchingSignature)
	}
	return nil
}

// maxUnix is the end of the year 9999, far below where the arithmetic of [time.Time] overflows.
const maxUnix = 253402300799

// parseTimestamp accepts only the one spelling that a sender writes: the signed text holds it too, and no other may pass.
func parseTimestamp(s string) (int64, error) {
	unix, err := strconv.ParseInt(s, 10, 64)
	if err != nil || unix < 0 || unix > maxUnix || strconv.FormatInt(unix, 10) != s {
		return 0, fmt.Errorf("%w: want whole seconds since 1970", ErrBadTimestamp)
	}
	return unix, nil
}

func (v *Verifier) checkAge(t time.Time) error {
	clock, tolerance := time.Now, v.Tolerance
	if v.Now != nil {
		clock = v.Now
	}
	if tolerance == 0 {
		tolerance = DefaultTolerance
	}
	now := clock()
	if age := now.Sub(t); age > tolerance {
		return fmt.Errorf("%w: %s old, %s allowed", ErrTooOld, age.Round(time.Second), tolerance)
	}
	if ahead := t.Sub(now); ahead > tolerance {
		return fmt.Errorf("%w: %s ahead, %s allowed", ErrTooNew, ahead.Round(time.Second), tolerance)
	}
	return nil
}

// matches reports that an entry fits. An entry is compared with keys of its own scheme only, so that what was made for one
// can never be taken for the other.
func (v *Verifier) matches(prefix, body []byte, signatures string) bool {
	for _, secret := range v.Secrets {
		if secret.Scheme() == SchemeHMAC && matchesHMAC(appendHMAC(nil, prefix, body, secret), signatures) {
			return true
		}
	}
	if keys := v.keys(); len(keys) > 0 {
		return matchesEd25519(keys, prefix, body, signatures)
	}
	return false
}

// matchesHMAC compares in constant time with the one signature of a secret, however many entries there are.
func matchesHMAC(want []byte, signatures string) bool {
	for got := range strings.FieldsSeq(signatures) {
		if hmac.Equal([]byte(got), want) {
			return true
		}
	}
	return false
}

func (v *Verifier) keys() []PublicKey {
	keys := slices.DeleteFunc(slices.Clone(v.PublicKeys), PublicKey.IsZero)
	for _, secret := range v.Secrets {
		if key := secret.Public(); !key.IsZero() {
			keys = append(keys, key)
		}
	}
	return keys
}

// maxEd25519Entries bounds the work that a stranger's header can cause: each entry costs some 50 µs per key, and a header has
// room for thousands. A rotation needs two.
const maxEd25519Entries = 16

// matchesEd25519 tries every v1a entry with every key.
func matchesEd25519(keys []PublicKey, prefix, body []byte, signatures string) bool {
	message := signedMessage(prefix, body)
	tried := 0
	for entry := range strings.FieldsSeq(signatures) {
		encoded, ok := strings.CutPrefix(entry, SchemeEd25519+",")
		if !ok || len(entry) != ed25519Entry {
			continue
		}
		signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil || len(signature) != ed25519.SignatureSize {
			continue
		}
		if tried++; tried > maxEd25519Entries {
			return false
		}
		for _, key := range keys {
			if ed25519.Verify(key[:], message, signature) {
				return true
			}
		}
	}
	return false
}
