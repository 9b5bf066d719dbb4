// Package event is the envelope: one CloudEvents 1.0 object per insight, its identity, its NATS subject, and the
// patterns by which endpoints choose events. Everything in it is a pure function of its arguments.
package event

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
)

// ContentType is the media type of an event in NATS and in a webhook body (CloudEvents JSON format, section 3).
const ContentType = "application/cloudevents+json"

// InsightPrefix begins the type of every event that carries an insight; the insight's own type follows.
const InsightPrefix = "nex.insight."

// How an insight comes from Nex.
const (
	ViaStream = "stream" // live
	ViaReplay = "replay" // with others, after a connect
	ViaREST   = "rest"   // when a gap was filled
)

// Event is one CloudEvent on its way from the source to the log. It is written once and read by many: nobody changes
// it after it was built.
type Event struct {
	// Workspace is the workspace's token (see [Token]), or [NoWorkspace] for news of the relay itself.
	Workspace string
	// ID is unique within the workspace and the same on every replica; see [InsightID].
	ID string
	// Type is the CloudEvents type, e.g. "nex.insight.opportunity".
	Type string
	// Subject is the CloudEvents subject, e.g. "person/John Smith"; empty leaves the attribute out.
	Subject string
	// Time is when it happened: as Nex says, else when it arrived.
	Time time.Time
	// Data is the JSON value of the data attribute; it is copied into the envelope byte for byte.
	Data json.RawMessage

	// Fingerprint is the part of the identity that every form of one insight shares (see [Fingerprint]); empty for news.
	Fingerprint string
	// Emitted is the time that Nex gave, zero if it gave none. Time cannot tell the two apart.
	Emitted time.Time
	// Via is how it came from Nex, and Received when; empty and zero for news.
	Via      string
	Received time.Time
	// Traceparent is the W3C trace context that the event carries through NATS and webhooks.
	Traceparent string
}

// Source is the CloudEvents source attribute.
func (e *Event) Source() string {
	if e.Workspace == NoWorkspace {
		return sourceRelay
	}
	return sourcePrefix + e.Workspace
}

const sourcePrefix, sourceRelay = "/nex/workspaces/", "/nex/relay"

// SourceWorkspace is the workspace that an event's source names, empty if it names none.
func SourceWorkspace(source string) string {
	if source == sourceRelay {
		return NoWorkspace
	}
	workspace, ok := strings.CutPrefix(source, sourcePrefix)
	if !ok {
		return ""
	}
	return workspace
}

// NATSSubject is where the event stands in the log.
func (e *Event) NATSSubject() string { return Subject(e.Workspace, e.Type) }

// AppendJSON appends the envelope to dst. The data attribute is copied as it is: neither white space nor numbers nor
// unknown fields of it change, which encoding/json would not promise.
func (e *Event) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = AppendString(dst, e.ID)
	dst = append(dst, `,"source":`...)
	dst = AppendString(dst, e.Source())
	dst = append(dst, `,"type":`...)
	dst = AppendString(dst, e.Type)
	if e.Subject != "" {
		dst = append(dst, `,"subject":`...)
		dst = AppendString(dst, e.Subject)
	}
	dst = append(dst, `,"time":"`...)
	dst = e.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","datacontenttype":"application/json","data":`...)
	if len(e.Data) == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, e.Data...)
	}
	return append(dst, '}')
}

// JSON is the envelope: the bytes that stand in the log and in every webhook body.
func (e *Event) JSON() []byte {
	return e.AppendJSON(make([]byte, 0, len(e.Data)+384))
}

// AppendString appends s as a JSON string, without the HTML escapes that encoding/json adds by default. Invalid UTF-8
// becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendEscaped(dst, s)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

func appendEscaped(dst []byte, s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes, and a bytes.Buffer takes all
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// NewTraceparent starts a trace: W3C Trace Context level 1, section 3.2, version 00, sampled.
func NewTraceparent() string {
	var id [24]byte
	_, _ = rand.Read(id[:]) // never fails since Go 1.24
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-01"
}

// ChildTraceparent is a new span in parent's trace. Anything that is no traceparent starts a new trace.
func ChildTraceparent(parent string) string {
	part := strings.Split(parent, "-")
	if len(part) != 4 || len(part[1]) != 32 || len(part[3]) != 2 {
		return NewTraceparent()
	}
	var span [8]byte
	_, _ = rand.Read(span[:])
	return "00-" + part[1] + "-" + hex.EncodeToString(span[:]) + "-" + part[3]
}
