package endpoint

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"
)

// EventsTokenPrefix begins the tokens that the relay makes for receivers.
const EventsTokenPrefix = "whev_"

// NewEventsToken makes a token with which a receiver asks what should have come to it.
func NewEventsToken() string { return EventsTokenPrefix + strings.ToLower(rand.Text()+rand.Text()) }

// HashToken is what is kept of a token.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Opens tells whether a token is the one of the endpoint.
func (e *Endpoint) Opens(token string) bool {
	return e.EventsToken != "" && subtle.ConstantTimeCompare([]byte(HashToken(token)), []byte(e.EventsToken)) == 1
}
