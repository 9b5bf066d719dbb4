package endpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// Keys of the bucket: ep.<id> is an endpoint made over the API; state.<id> is the [State] of one of either kind.
const (
	keyEndpoint = "ep."
	keyState    = "state."
)

// record is an endpoint as it stands in the bucket.
type record struct {
	URL         string        `json:"url"`
	Description string        `json:"description,omitempty"`
	Events      []string      `json:"events,omitempty"`
	Workspaces  []string      `json:"workspaces,omitempty"`
	Timeout     time.Duration `json:"timeout_ns,omitempty"`
	MaxInFlight int           `json:"max_in_flight,omitempty"`
	RateLimit   float64       `json:"rate_limit,omitempty"`
	Ordered     bool          `json:"ordered,omitempty"`
	Resume      Mode          `json:"resume,omitempty"`
	Filter      string        `json:"filter,omitempty"`
	Handshake   bool          `json:"handshake,omitempty"`
	EventsToken string        `json:"events_token_sha256,omitempty"`
	Shape       string        `json:"shape,omitempty"`
	Template    string        `json:"template,omitempty"`
	ContentType string        `json:"content_type,omitempty"`
	Gzip        bool          `json:"gzip,omitempty"`
	Enabled     bool          `json:"enabled"`
	CreatedAt   time.Time     `json:"created_at"`
	MadeBy      string        `json:"made_by,omitempty"`
	Since       uint64        `json:"since,omitempty"`
	Changed     uint64        `json:"changed,omitempty"`
	SinceTime   time.Time     `json:"since_time,omitzero"`
	// Sealed holds a sealedPart: signing secrets, and headers, which often carry a credential.
	Sealed string `json:"sealed"`
}

type sealedPart struct {
	Secrets []string          `json:"secrets"`
	Retired []sealedRetired   `json:"retired,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Route   *sealedRoute      `json:"route,omitempty"`
}

type sealedRetired struct {
	Secret string    `json:"secret"`
	Until  time.Time `json:"until"`
}

func (s Sealer) encode(e *Endpoint) ([]byte, error) {
	part := sealedPart{Headers: e.Headers}
	for _, secret := range e.Secrets {
		part.Secrets = append(part.Secrets, secret.Reveal())
	}
	for _, r := range e.Retired {
		part.Retired = append(part.Retired, sealedRetired{r.Secret.Reveal(), r.Until})
	}
	var err error
	if part.Route, err = sealRoute(e.Route); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(part)
	if err != nil {
		return nil, err
	}
	sealed, err := s.seal(e.ID, plain)
	if err != nil {
		return nil, err
	}
	form := e.Form
	if form == nil {
		form = &Form{}
	}
	return json.Marshal(record{
		Shape: form.Kind, Template: form.Template, ContentType: form.ContentType, Gzip: form.Gzip,
		URL: e.URL, Description: e.Description, Events: e.Events, Workspaces: e.Workspaces, Timeout: e.Timeout,
		MaxInFlight: e.MaxInFlight, RateLimit: e.RateLimit, Ordered: e.Ordered, Resume: e.Resume,
		Filter: e.Filter, Handshake: e.Handshake, Enabled: e.Enabled, EventsToken: e.EventsToken,
		CreatedAt: e.CreatedAt, MadeBy: e.MadeBy, Since: e.Since, Changed: e.Changed, SinceTime: e.SinceTime, Sealed: sealed,
	})
}

func (s Sealer) decode(id string, value []byte, revision uint64) (*Endpoint, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	plain, err := s.open(id, r.Sealed)
	if err != nil {
		return nil, err
	}
	var part sealedPart
	if err := json.Unmarshal(plain, &part); err != nil {
		return nil, fmt.Errorf("decode sealed part: %w", err)
	}
	e := &Endpoint{
		ID: id, URL: r.URL, Description: r.Description, Events: r.Events, Workspaces: r.Workspaces, Headers: part.Headers,
		Timeout: r.Timeout, MaxInFlight: r.MaxInFlight, RateLimit: r.RateLimit, Ordered: r.Ordered, Resume: r.Resume,
		Filter: r.Filter, Handshake: r.Handshake, Enabled: r.Enabled, EventsToken: r.EventsToken, Source: SourceAPI, CreatedAt: r.CreatedAt,
		MadeBy: r.MadeBy, Since: r.Since, Changed: r.Changed, SinceTime: r.SinceTime, Revision: revision,
	}
	for _, text := range part.Secrets {
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			return nil, fmt.Errorf("secret: %w", err)
		}
		e.Secrets = append(e.Secrets, secret)
	}
	for _, old := range part.Retired {
		secret, err := webhook.ParseSecret(old.Secret)
		if err != nil {
			return nil, fmt.Errorf("retired secret: %w", err)
		}
		e.Retired = append(e.Retired, Retired{secret, old.Until})
	}
	if e.Form, err = NewForm(r.Shape, r.Template, r.ContentType, r.Gzip); err != nil {
		return nil, err
	}
	if e.Route, err = part.Route.open(); err != nil {
		return nil, err
	}
	return e, nil
}

func urlHash(url string) string {
	sum := sha256.Sum256([]byte(url))
	return hex.EncodeToString(sum[:])
}

// splitKey takes a key of the bucket apart; kind is empty for a key that is not ours.
func splitKey(key string) (kind, id string) {
	for _, k := range []string{keyEndpoint, keyState} {
		if id, ok := strings.CutPrefix(key, k); ok {
			return k, id
		}
	}
	return "", ""
}
