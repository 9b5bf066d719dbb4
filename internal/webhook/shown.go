package webhook

import (
	"hash/crc32"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Redacted stands for a value that may be a secret.
const Redacted = "[redacted]"

// Bounds of what is kept of an answer's header. Of one that was a success less is kept: nobody asks why it worked, and there are
// many of them.
const (
	maxShownHeaders   = 32
	maxShownValue     = 256
	maxShownBytes     = 4 << 10
	maxShownDelivered = 256
)

// Sent is a request as it is recorded, for each delivery: without what is secret, and without what the rest of the record, or the
// event, tells. [Sent.Complete] makes Method and Headers of it.
type Sent struct {
	Method  string            `json:"method,omitempty"`
	URL     string            `json:"url" doc:"Without its query."`
	Headers map[string]string `json:"headers,omitempty" doc:"By name. The signature, and values of the endpoint's own headers, are redacted."`
	Size    int               `json:"size" doc:"Of the body in bytes, as it was signed."`
	Sum     uint32            `json:"crc32c" format:"int64" doc:"CRC-32C of the body as it was signed."`

	Kept *SentKept `json:"kept,omitempty" hidden:"true"`
}

// SentKept is what no other part of a record tells of a request's header.
type SentKept struct {
	Traceparent string   `json:"traceparent,omitempty"`
	UserAgent   string   `json:"user_agent,omitempty"`
	ContentType string   `json:"content_type,omitempty"` // empty = [DefaultContentType]
	Encoding    string   `json:"encoding,omitempty"`
	Origin      string   `json:"origin,omitempty"`
	Own         []string `json:"own,omitempty"` // names of the endpoint's own headers
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// BodySum is what [Sent] has of a body, so that one that was made again can be compared with it.
func BodySum(body []byte) uint32 { return crc32.Checksum(body, castagnoli) }

// sentOf is what is kept of a request.
func sentOf(r *Request, h http.Header) *Sent {
	kept := &SentKept{Traceparent: r.Traceparent, UserAgent: h.Get("User-Agent"), Encoding: r.Encoding, Origin: r.Origin}
	if r.ContentType != DefaultContentType {
		kept.ContentType = r.ContentType
	}
	for name := range r.Header {
		if canonical := http.CanonicalHeaderKey(name); !reservedHeader(canonical) {
			kept.Own = append(kept.Own, canonical)
		}
	}
	return &Sent{URL: RedactURL(r.URL), Size: len(r.Body), Sum: BodySum(r.Body), Kept: kept}
}

// keep takes over what is to be recorded of a request and its answer.
func (r *Result) keep(req *Request, sent, answer http.Header) {
	r.Sent = sentOf(req, sent)
	names := shownNames(answer, r.Outcome == Delivered)
	if len(names) == 0 && len(r.Body) == 0 {
		return
	}
	secrets := echoesOf(req)
	r.Header, r.Body = shownAnswer(answer, names, secrets, r.Outcome == Delivered), secrets.without(r.Body)
}

// Complete adds what the rest of the record tells. Headers of CloudEvents in binary mode stay away: the event has them.
func (s *Sent) Complete(eventID string, at time.Time, sequence uint64, attempt int) {
	s.Method = http.MethodPost
	h := map[string]string{
		"content-type": DefaultContentType, "webhook-id": MessageID(eventID), "webhook-timestamp": strconv.FormatInt(at.Unix(), 10),
		"webhook-signature": Redacted,
	}
	if sequence != 0 {
		h["relay-sequence"] = strconv.FormatUint(sequence, 10)
	}
	if attempt != 0 {
		h["relay-attempt"] = strconv.Itoa(attempt)
	}
	if kept := s.Kept; kept != nil {
		for name, value := range map[string]string{
			"traceparent": kept.Traceparent, "user-agent": kept.UserAgent, "content-type": kept.ContentType, "content-encoding": kept.Encoding,
			strings.ToLower(HeaderRequestOrigin): kept.Origin,
		} {
			if value != "" {
				h[name] = value
			}
		}
		for _, name := range kept.Own {
			h[strings.ToLower(name)] = Redacted
		}
	}
	s.Headers, s.Kept = h, nil
}

// shownNames is which headers of an answer may be kept, in order.
func shownNames(h http.Header, delivered bool) (names []string) {
	for name := range h {
		if !delivered || !dull(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// shownAnswer is what is kept of some headers of an answer, by names in lower case: those that look like credentials, and those in which
// one of the secrets stands, without their values. It is valid UTF-8 without control characters.
func shownAnswer(h http.Header, names []string, secrets echoes, delivered bool) map[string]string {
	if len(names) == 0 {
		return nil
	}
	most := maxShownBytes
	if delivered {
		most = maxShownDelivered
	}
	shown := make(map[string]string, min(len(names), maxShownHeaders))
	for _, canonical := range names {
		name := strings.ToLower(canonical)
		value := shownValue(name, strings.Join(h[canonical], ", "), secrets)
		if len(name)+len(value) > most {
			continue
		}
		most -= len(name) + len(value)
		if shown[name] = value; len(shown) == maxShownHeaders {
			break
		}
	}
	return shown
}

// dull tells of a header of which a success tells nothing that the record has not.
func dull(name string) bool {
	switch name {
	case "Date", "Content-Length", "Connection", "Keep-Alive":
		return true
	}
	return false
}

// shownValue is a value as it may be shown, of a header whose name is in lower case.
func shownValue(name, value string, secrets echoes) string {
	if secretName(name) || secretValue(value) {
		return Redacted
	}
	if name == "location" || name == "content-location" || strings.Contains(value, "://") {
		u, err := url.Parse(value)
		if err != nil {
			return Redacted
		}
		value = RedactURL(u)
	}
	if len(secrets.in([]byte(value))) > 0 {
		return Redacted
	}
	value = strings.Map(func(r rune) rune { // an invalid byte is unicode.ReplacementChar already
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, value)
	if len(value) > maxShownValue {
		value = strings.ToValidUTF8(value[:maxShownValue-len("…")], "") + "…"
	}
	return value
}

// secretName tells of a header whose value is a credential, or belongs to one. What an answer wants of credentials (RFC 9110,
// sections 11.6.1 and 11.7.1) is none.
func secretName(name string) bool {
	if name == "www-authenticate" || name == "proxy-authenticate" {
		return false
	}
	for _, part := range [...]string{"cookie", "auth", "token", "secret", "passw", "credential", "key", "signature", "session", "jwt", "csrf", "xsrf", "nonce"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// secretValue tells of what has the form of a credential.
func secretValue(value string) bool {
	for _, begin := range [...]string{"Bearer ", "Basic ", "eyJ"} {
		if rest, ok := strings.CutPrefix(value, begin); ok && !strings.Contains(rest, "=\"") { // a challenge has parameters
			return true
		}
	}
	return strings.Contains(value, "whsec_") || strings.Contains(value, "whsk_")
}
