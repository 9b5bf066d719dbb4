package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

const (
	idempotencyKey      = "Idempotency-Key"
	idempotencyReplayed = "Idempotency-Replayed"
	// underWay is how long a request that was begun keeps its key, should its relay die: longer than any may take.
	underWay = writeTimeout + 30*time.Second
	// keyTime bounds each look at the bucket.
	keyTime = 5 * time.Second
)

// kept is what is known of a request that was made with an Idempotency-Key: the answer, once there is one.
type kept struct {
	Request string    `json:"request"` // a hash of what was asked
	At      time.Time `json:"at"`
	Status  int       `json:"status,omitempty"`
	ETag    string    `json:"etag,omitempty"`
	Sealed  string    `json:"sealed,omitempty"` // the body: it may show a secret
}

// once answers a request that was made before with the same Idempotency-Key as it was answered then, for as long as the bucket
// keeps it (draft-ietf-httpapi-idempotency-key-header). What failed is not kept: it may be tried again. Nor is what changed nothing:
// it shows events, which may be erased.
func (s *server) once(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get(idempotencyKey)
		if key == "" || r.Method != http.MethodPost || !strings.HasPrefix(r.URL.Path, "/api/v1/") || s.unkeyed[r.URL.Path] {
			next.ServeHTTP(w, r)
			return
		}
		who, refused := s.identify(r.Host, r.Header.Get("Origin"), r.Header.Get("Authorization"))
		if refused != nil || !who.write { // and told so
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			writeJSON(w, http.StatusRequestEntityTooLarge, badRequest("the body cannot be read: %v", err).as(http.StatusRequestEntityTooLarge))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r = r.WithContext(context.WithValue(r.Context(), seedKey{}, hash(who.token, key)))
		c := &claim{server: s, name: hash(who.token, key), request: hash(r.Method, r.URL.RequestURI(), string(body))}
		if err := c.take(r.Context(), len(key)); err != nil {
			s.refuse(w, err)
			return
		}
		if c.before != nil {
			s.repeat(w, c)
			return
		}
		answer := &recorded{header: w.Header(), status: http.StatusOK}
		next.ServeHTTP(answer, r)
		c.settle(context.WithoutCancel(r.Context()), answer)
		w.WriteHeader(answer.status)
		_, _ = w.Write(answer.body.Bytes())
	})
}

func (e *Error) as(code int) *Error { return &Error{code, e.Message} }

// refuse answers an error outside of an operation.
func (s *server) refuse(w http.ResponseWriter, err error) {
	var known *Error
	if !errors.As(err, &known) {
		if bus.Away(err) {
			s.sayAway(context.Background(), idempotencyKey, err)
		} else {
			s.log.Error("request failed", "for", idempotencyKey, "error", err)
		}
		known = &Error{http.StatusServiceUnavailable, idempotencyKey + ": whether this was asked before cannot be looked up now; try again"}
	}
	writeJSON(w, known.Code, known)
}

// repeat answers as before.
func (s *server) repeat(w http.ResponseWriter, c *claim) {
	registry, err := s.registry()
	if err != nil {
		s.refuse(w, err)
		return
	}
	body, err := registry.Open(c.name, c.before.Sealed)
	if err != nil {
		s.refuse(w, err)
		return
	}
	if c.before.ETag != "" {
		w.Header().Set("ETag", c.before.ETag)
	}
	if len(body) > 0 {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set(idempotencyReplayed, "true")
	w.WriteHeader(c.before.Status)
	_, _ = w.Write(body)
}

// claim is one request's hold on its key.
type claim struct {
	server        *server
	name, request string
	revision      uint64
	before        *kept // the answer that was given then; nil = the request is to be carried out
}

// take claims the key, or finds the answer that was given before.
func (c *claim) take(ctx context.Context, length int) error {
	if length > 255 {
		return badRequest("%s: is longer than 255 characters", idempotencyKey)
	}
	kv := c.server.requests()
	if kv == nil {
		return errStarting
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyTime) // a claim is made whole, or freed
	defer cancel()
	fresh, err := json.Marshal(kept{Request: c.request, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	c.revision, err = kv.Create(ctx, c.name, fresh)
	if err == nil || !errors.Is(err, jetstream.ErrKeyExists) {
		return err
	}
	entry, err := kv.Get(ctx, c.name)
	if err != nil {
		return err
	}
	var stands kept
	if err := json.Unmarshal(entry.Value(), &stands); err != nil {
		return err
	}
	switch {
	case stands.Request != c.request:
		return &Error{http.StatusUnprocessableEntity, idempotencyKey + ": was given with another request before; make a new one for each"}
	case stands.Status != 0:
		c.before = &stands
		return nil
	case time.Since(stands.At) < underWay:
		return &Error{http.StatusConflict, idempotencyKey + ": the first request with it is still under way; try again in a moment"}
	}
	if c.revision, err = kv.Update(ctx, c.name, fresh, entry.Revision()); err != nil { // whose relay has died
		return &Error{http.StatusConflict, idempotencyKey + ": another request with it was faster; try again in a moment"}
	}
	return nil
}

// settle keeps a success for those who ask again, and frees the key of anything else.
func (c *claim) settle(ctx context.Context, answer *recorded) {
	ctx, cancel := context.WithTimeout(ctx, keyTime)
	defer cancel()
	kv := c.server.requests()
	err := func() error {
		if answer.status >= http.StatusMultipleChoices {
			return kv.Delete(ctx, c.name, jetstream.LastRevision(c.revision))
		}
		registry, err := c.server.registry()
		if err != nil {
			return err
		}
		sealed, err := registry.Seal(c.name, answer.body.Bytes())
		if err != nil {
			return err
		}
		value, err := json.Marshal(kept{
			Request: c.request, At: time.Now().UTC(), Status: answer.status, ETag: answer.header.Get("ETag"), Sealed: sealed,
		})
		if err != nil {
			return err
		}
		_, err = kv.Update(ctx, c.name, value, c.revision)
		return err
	}()
	if errors.Is(err, endpoint.ErrNoKey) {
		err = kv.Delete(ctx, c.name, jetstream.LastRevision(c.revision)) // there is nothing to keep it with: it may be asked again
	}
	if err != nil {
		c.server.log.Warn("an answer could not be kept for those who ask again with its Idempotency-Key", "error", err)
	}
}

// seedKey is where the context of a request with an Idempotency-Key has what its ids are made of.
type seedKey struct{}

// newID makes an id: the same for a request that is carried out again, because its relay died before it had answered.
func newID(ctx context.Context) (id string, again bool) {
	seed, ok := ctx.Value(seedKey{}).(string)
	if !ok {
		return strings.ToLower(rand.Text()), false
	}
	sum := sha256.Sum256([]byte("id of " + seed))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:26]), true
}

// requests is where requests are remembered; nil while the relay is starting.
func (s *server) requests() jetstream.KeyValue {
	if s.cfg.Requests == nil {
		return nil
	}
	return s.cfg.Requests()
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		_, _ = io.WriteString(h, part)
		_, _ = h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// recorded is an answer before it is written.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorded) Header() http.Header         { return r.header }
func (r *recorded) WriteHeader(status int)      { r.status = status }
func (r *recorded) Write(b []byte) (int, error) { return r.body.Write(b) }
