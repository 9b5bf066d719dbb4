package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Names of the Standard Webhooks headers, in the canonical form of [http.Header]. On the wire case does not matter.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// Names of headers that say where a message stands, which Standard Webhooks does not know. They are not signed.
const (
	HeaderSequence = "Relay-Sequence"
	HeaderAttempt  = "Relay-Attempt"
)

// Lengths of one entry: the version, a comma, and 32 or 64 bytes in base64.
const (
	hmacEntry    = len(SchemeHMAC) + 1 + (sha256.Size+2)/3*4
	ed25519Entry = len(SchemeEd25519) + 1 + (ed25519.SignatureSize+2)/3*4
)

// Sign is the webhook-signature of a message: an entry for each secret, separated by spaces in the order of secrets, so the
// current secret comes first. A symmetric secret gives "v1," and the base64 HMAC-SHA256 of "id.timestamp.body", a private key
// "v1a," and the base64 Ed25519 signature of the same. t counts in whole seconds. The id has no dots (see [MessageID]), or the
// signed text could be split in two ways. Without a secret the answer is empty.
func Sign(id string, t time.Time, body []byte, secrets ...Secret) string {
	size := 0
	for _, s := range secrets {
		size += 1 + entryLen(s)
	}
	out := make([]byte, 0, size)
	var buf [192]byte
	prefix := appendSignedPrefix(buf[:0], id, t.Unix())
	var message []byte // prefix and body in one piece, which Ed25519 needs: it reads them twice
	for _, s := range secrets {
		if s.IsZero() {
			continue
		}
		if len(out) > 0 {
			out = append(out, ' ')
		}
		if s.Scheme() == SchemeHMAC {
			out = appendHMAC(out, prefix, body, s)
			continue
		}
		if message == nil {
			message = signedMessage(prefix, body)
		}
		out = appendEd25519(out, message, s)
	}
	return string(out)
}

func entryLen(s Secret) int {
	if s.Scheme() == SchemeEd25519 {
		return ed25519Entry
	}
	return hmacEntry
}

// SetHeaders sets the three Standard Webhooks headers in h.
func SetHeaders(h http.Header, id string, t time.Time, body []byte, secrets ...Secret) {
	v := [...]string{id, strconv.FormatInt(t.Unix(), 10), Sign(id, t, body, secrets...)}
	h[HeaderID] = v[0:1:1]
	h[HeaderTimestamp] = v[1:2:2]
	h[HeaderSignature] = v[2:3:3]
}

// appendSignedPrefix appends what stands before the body in the signed text.
func appendSignedPrefix(dst []byte, id string, unix int64) []byte {
	dst = append(dst, id...)
	dst = append(dst, '.')
	dst = strconv.AppendInt(dst, unix, 10)
	return append(dst, '.')
}

func signedMessage(prefix, body []byte) []byte {
	return append(append(make([]byte, 0, len(prefix)+len(body)), prefix...), body...)
}

// mac signs with one key, again and again.
type mac struct {
	hash.Hash
	sum [sha256.Size]byte
}

func appendHMAC(dst, prefix, body []byte, s Secret) []byte {
	key := *s.key
	m, ok := key.macs.Get().(*mac)
	if !ok {
		m = &mac{Hash: hmac.New(sha256.New, key.hmac)}
	}
	m.Reset()
	m.Write(prefix)
	m.Write(body)
	dst = append(dst, SchemeHMAC+","...)
	dst = base64.StdEncoding.AppendEncode(dst, m.Sum(m.sum[:0]))
	key.macs.Put(m)
	return dst
}

func appendEd25519(dst, message []byte, s Secret) []byte {
	dst = append(dst, SchemeEd25519+","...)
	return base64.StdEncoding.AppendEncode(dst, ed25519.Sign(s.bytes(), message))
}

// Limits of a message id in bytes: all of it, and the hash at the end of one that had to be changed.
const (
	maxMessageID  = 128
	messageIDHash = 16
)

// MessageID is the webhook-id for an event id: the same over all attempts and replicas. A dot becomes "_" (Standard Webhooks,
// "Webhook headers": the signed text is delimited by dots). Only letters, digits and a few signs safe in any header, log
// line or key stay; where anything else had to change, or the id is empty or longer than 128 bytes, a hash of the original is
// appended. MessageID of a MessageID is itself.
func MessageID(eventID string) string {
	clean := strings.Map(messageIDRune, eventID)
	if eventID != "" && len(eventID) <= maxMessageID && !strings.Contains(clean, "\x00") {
		return clean
	}
	clean = strings.ReplaceAll(clean, "\x00", "_")
	sum := sha256.Sum256([]byte(eventID))
	return clean[:min(len(clean), maxMessageID-messageIDHash-1)] + "_" + hex.EncodeToString(sum[:messageIDHash/2])
}

// messageIDRune maps what cannot stay to NUL, which marks the id as changed.
func messageIDRune(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return r
	case r == '.':
		return '_'
	case r < 0x80 && strings.ContainsRune("-_:/+=@~", r):
		return r
	default:
		return 0
	}
}
