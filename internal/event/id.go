package event

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"
)

// maxNexID bounds an id of Nex's that is taken as it is. Longer ones are hashed: the id travels in headers.
const maxNexID = 200

// InsightID is the event id of an insight: Nex's own id where there is one, else derived from what every replica sees
// alike. emitted is zero where Nex gave no time.
//
// An id of Nex's that could not travel in a NATS or HTTP header (white space, control or non-ASCII characters, over 200
// bytes) is replaced by its hash.
func InsightID(workspace, nexID, insightType, content string, emitted time.Time) string {
	switch {
	case nexID == "":
		var at string
		if !emitted.IsZero() {
			at = emitted.UTC().Format(time.RFC3339Nano)
		}
		return hashID(workspace, insightType, content, at)
	case headerSafe(nexID):
		return nexID
	default:
		return hashID(workspace, nexID)
	}
}

// Fingerprint is what all forms of one insight share, whichever way they come: workspace, type and content. Two
// insights with one fingerprint are the same insight if their times are close enough (DESIGN: identity window).
func Fingerprint(workspace, insightType, content string) string {
	sum := digest(workspace, insightType, content)
	return hex.EncodeToString(sum[:16])
}

// derived begins the ids that are no ids of Nex's.
const derived = "evt_"

// Derived tells whether an id was derived: another workspace has no such, unless Nex gives ids that begin so.
func Derived(id string) bool { return strings.HasPrefix(id, derived) }

func hashID(parts ...string) string {
	sum := digest(parts...)
	return derived + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20]))
}

// digest hashes parts so that no two different lists collide by running into each other.
func digest(parts ...string) [sha256.Size]byte {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func headerSafe(id string) bool {
	if len(id) > maxNexID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}
