// Package endpoint holds who wants which events: the endpoints of the config file and those made over the API, in one
// snapshot that answers, for an event, who gets it.
package endpoint

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// Where an endpoint comes from. One of the config file cannot be changed over the API.
const (
	SourceConfig = "config"
	SourceAPI    = "api"
)

// DefaultEvents is what an endpoint gets that names no events: every insight.
const DefaultEvents = event.InsightPrefix + "*"

// Endpoint is one subscriber's webhook. A value in a [Snapshot] is shared and never changed.
type Endpoint struct {
	ID          string
	URL         string
	Description string
	// Events are subject-style patterns over the type; none means [DefaultEvents].
	Events []string
	// Workspaces are tokens (see event.Token); none means all.
	Workspaces []string
	// Filter is an expression that an event must pass (see [CompileFilter]); empty passes every event.
	Filter string
	// Secrets sign, the first being the current one: during a rotation every attempt carries a signature of each.
	Secrets []webhook.Secret
	// EventsToken is the SHA-256, in hex, of the token with which its receiver asks what should have come; empty = there is none.
	EventsToken string
	// Retired are secrets that were replaced and sign on until a time.
	Retired []Retired
	// Headers are sent with every webhook: at most [webhook.MaxHeaders] of them.
	Headers map[string]string
	// Handshake asks the receiver first whether it wants deliveries (CloudEvents, OPTIONS).
	Handshake bool
	// Form is what its webhooks look like; nil is the CloudEvent as it stands in the log.
	Form *Form
	// Route is a proxy and a client certificate; nil for neither.
	Route *webhook.Route
	// Timeout of one attempt and MaxInFlight attempts at once; zero takes the relay's default.
	Timeout     time.Duration
	MaxInFlight int
	// RateLimit is the most attempts a second over all replicas, about; 0 = no limit.
	RateLimit float64
	// Ordered keeps the order of the log, strictly, retries included: one attempt at a time.
	Ordered bool
	// Resume is what the endpoint gets, when it is active again, of what came while it was not; empty means [ModeAll].
	Resume  Mode
	Enabled bool
	// Disabled says why the relay itself switched the endpoint off; nil if it did not.
	Disabled *Disabled
	// State is what the relay remembers of it. Its Disabled may hold for an earlier URL: use the one above.
	State State

	Source    string
	CreatedAt time.Time
	// MadeBy is a hash of the Idempotency-Key of the request that made it; empty = there was none.
	MadeBy string
	// Since is the end of the log when the endpoint was made: it gets nothing up to there, whoever had its id before. 0 = not
	// known.
	Since uint64
	// SinceTime is when the log had taken the event at Since, by the clock of NATS. In a log that was made anew the sequences up
	// to Since mean other events, which came later. Zero = not known.
	SinceTime time.Time
	// Changed is the end of the log when it was last changed which events it asks for; 0 = never.
	Changed uint64
	// Heard is the generation of the first snapshot that held the endpoint of the API as it asks for events now; 0 for one of the
	// config file.
	Heard uint64
	// Before is how it asked for events before that; nil if it was not there.
	Before *Endpoint
	// Revision counts the changes of the endpoint's record in the bucket; 0 for one that stands only in the config file.
	Revision uint64
}

// Retired is a secret that was replaced.
type Retired struct {
	Secret webhook.Secret
	Until  time.Time
}

// Signing is what signs at a time: the secrets, then those retired that have not run out.
func (e *Endpoint) Signing(now time.Time) []webhook.Secret {
	if len(e.Retired) == 0 {
		return e.Secrets
	}
	out := slices.Clone(e.Secrets)
	for _, r := range e.Retired {
		if now.Before(r.Until) {
			out = append(out, r.Secret)
		}
	}
	return out
}

// PublicKeys are those of all Ed25519 keys that sign now or may until a while ago.
func (e *Endpoint) PublicKeys() []webhook.PublicKey {
	var out []webhook.PublicKey
	for _, s := range e.Secrets {
		if key := s.Public(); !key.IsZero() {
			out = append(out, key)
		}
	}
	for _, r := range e.Retired {
		if key := r.Secret.Public(); !key.IsZero() {
			out = append(out, key)
		}
	}
	return out
}

// Rotate replaces the secrets of each scheme that stands in fresh. Those replaced sign on until a time; what has run out by
// now is forgotten.
func (e *Endpoint) Rotate(fresh []webhook.Secret, now, until time.Time) {
	kept := slices.DeleteFunc(slices.Clone(e.Retired), func(r Retired) bool { return !now.Before(r.Until) })
	secrets := slices.Clone(fresh)
	for _, old := range e.Secrets {
		if !slices.ContainsFunc(fresh, func(s webhook.Secret) bool { return s.Scheme() == old.Scheme() }) {
			secrets = append(secrets, old)
		} else if now.Before(until) {
			kept = append(kept, Retired{old, until})
		}
	}
	if excess := len(kept) - maxRetired; excess > 0 {
		kept = kept[excess:] // the oldest
	}
	e.Secrets, e.Retired = secrets, kept
}

// Revoke replaces the secrets of each scheme that stands in fresh, and ends those that were replaced earlier and sign on.
func (e *Endpoint) Revoke(fresh []webhook.Secret, now time.Time) {
	e.Rotate(fresh, now, now)
	e.Retired = slices.DeleteFunc(e.Retired, func(r Retired) bool {
		return slices.ContainsFunc(fresh, func(s webhook.Secret) bool { return s.Scheme() == r.Secret.Scheme() })
	})
}

// Disabled is the relay's own decision to stop delivering to an endpoint.
type Disabled struct {
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// MadeAfter tells whether the endpoint was made after an event that the log stored at a time.
func (e *Endpoint) MadeAfter(sequence uint64, stored time.Time) bool {
	return sequence <= e.Since && (e.SinceTime.IsZero() || !stored.After(e.SinceTime))
}

// Past tells whether an event that the log stored at a time is none for the endpoint any more: it was made after it, or its owner
// has skipped it.
func (e *Endpoint) Past(sequence uint64, stored time.Time) bool {
	s := e.State.Skipped
	return e.MadeAfter(sequence, stored) || s != nil && sequence <= s.Sequence && !stored.After(s.Stored)
}

// AsksLike tells whether two endpoints ask for the same events, in the same way.
func (e *Endpoint) AsksLike(other *Endpoint) bool {
	return slices.Equal(e.Events, other.Events) && slices.Equal(e.Workspaces, other.Workspaces) && e.Filter == other.Filter && e.Ordered == other.Ordered
}

// Active tells whether events go to the endpoint now.
func (e *Endpoint) Active() bool { return e.Enabled && e.Disabled == nil }

// Limits are the rules for endpoints that the configuration sets.
type Limits struct {
	// AllowHTTP permits http:// URLs.
	AllowHTTP bool
}

const (
	maxTimeout     = 5 * time.Minute
	maxInFlight    = 1024
	maxRate        = 1e6
	minRate        = 1.0 / 3600
	maxPatterns    = 100
	maxDescription = 1024
	maxRetired     = 8 // secrets; each costs every delivery a signature
)

// IDForm is what an id may look like: one token of a NATS subject.
var IDForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// FieldError is a fault of one field of an endpoint. It never quotes a secret.
type FieldError struct {
	Field   string
	Message string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// Validate returns every fault at once, each a [*FieldError] (joined).
func (e *Endpoint) Validate(limits Limits) error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if !IDForm.MatchString(e.ID) {
		bad("id", "must be 1 to 64 of A-Z a-z 0-9 _ -")
	}
	if _, err := webhook.ValidateURL(e.URL, limits.AllowHTTP); err != nil {
		bad("url", "%v", err)
	}
	if len(e.Description) > maxDescription {
		bad("description", "is %d bytes, at most %d", len(e.Description), maxDescription)
	}
	if len(e.Events) > maxPatterns {
		bad("events", "has %d patterns, at most %d", len(e.Events), maxPatterns)
	}
	for i, p := range e.Events {
		if err := event.ValidatePattern(p); err != nil {
			bad(fmt.Sprintf("events[%d]", i), "%v", err)
		}
	}
	for i, w := range e.Workspaces {
		if w == "" || event.Token(w) != w {
			bad(fmt.Sprintf("workspaces[%d]", i), "%q is no workspace token: lower case a-z 0-9 _ -", w)
		}
	}
	if e.Filter != "" {
		if _, err := filters.get(e.Filter); err != nil {
			bad("filter", "%v", err)
		}
	}
	if len(e.Secrets) == 0 {
		bad("secret", "is missing; give one of the form whsec_<base64 of 24 to 64 bytes>, or a signing key whsk_…")
	}
	var headers interface{ Unwrap() []error }
	if errors.As(webhook.ValidateHeaders(e.Headers), &headers) {
		for _, err := range headers.Unwrap() {
			bad("headers", "%v", err)
		}
	}
	if e.Timeout < 0 || e.Timeout > maxTimeout {
		bad("timeout", "%v is outside 0s (the default) to %v", e.Timeout, maxTimeout)
	}
	if e.MaxInFlight < 0 || e.MaxInFlight > maxInFlight {
		bad("max_in_flight", "%d is outside 0 (the default) to %d", e.MaxInFlight, maxInFlight)
	}
	if e.RateLimit != 0 && !(e.RateLimit >= minRate && e.RateLimit <= maxRate) {
		bad("rate_limit", "%v attempts a second is outside 0 (no limit) and one an hour to %d", e.RateLimit, int(maxRate))
	}
	if _, err := ParseMode(string(e.Resume)); err != nil {
		bad("resume", "%v", err)
	} else if e.Ordered && e.Resume != "" && e.Resume != ModeAll && e.Resume != ModeSkip {
		bad("resume", "%s would break the order that ordered: true asks for: all or skip", e.Resume)
	}
	return errors.Join(errs...)
}

// clone lets a change be made to a copy: the original is shared.
func (e *Endpoint) clone() *Endpoint {
	c := *e
	c.Events, c.Workspaces, c.Secrets = slices.Clone(e.Events), slices.Clone(e.Workspaces), slices.Clone(e.Secrets)
	return &c
}
