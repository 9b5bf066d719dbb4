// Package shape gives a webhook its form: the CloudEvent as it stands in the log, its attributes as HTTP headers, a thin note
// that it exists, or whatever a template makes of it. A shape is compiled once and renders many events; nothing in it does
// input or output, and neither a template nor an event, however hostile, can make it panic, hang or grow.
package shape

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/nex-crm/relay/internal/event"
)

// The kinds of shapes.
const (
	Structured = "structured" // the CloudEvent in JSON, byte for byte; the default
	Binary     = "binary"     // CloudEvents binary mode: attributes as headers, data as the body
	Thin       = "thin"       // the CloudEvent's identity without its data, for receivers that fetch the rest
	Template   = "template"   // the output of a template
)

// maxContentType bounds Spec.ContentType in bytes.
const maxContentType = 256

// Spec is a shape as it is configured.
type Spec struct {
	// Kind is one of [Structured], [Binary], [Thin] and [Template]; empty means structured. The key is shape.
	Kind string
	// Template is the source for [Template], and empty for the others: the language of text/template, see docs/shapes.md.
	Template string
	// ContentType is the media type of what a template makes; empty means application/json. The others have one of their own.
	// If it is JSON (application/json or anything that ends in +json), so must be the output.
	ContentType string
	// Gzip asks for a compressed body: see [Body].
	Gzip bool
}

// Meta is what a template is told beside the event, as .relay.sequence and .relay.attempt.
type Meta struct {
	// Sequence is the event's place in the log, from 1; 0 means that it has none.
	Sequence uint64
	// Attempt counts the attempts of this delivery from 1.
	Attempt int
}

// Body is one rendered webhook.
type Body struct {
	// Data is what is signed, never compressed. Of a structured event it is the event itself: do not change it.
	Data        []byte
	ContentType string
	// Header holds the attributes of a binary event, in canonical form, and is nil for all other kinds.
	Header http.Header
	// Encoding is the Content-Encoding, "gzip" or empty. If it is gzip, [Compress] makes of Data what is sent.
	Encoding string
}

// Shape is a compiled [Spec]. It is safe for concurrent use. The zero value is structured.
type Shape struct {
	spec    Spec
	program *program
	json    bool // the output must be JSON
}

// Parse checks and compiles a shape. The error holds all faults that can be told, each beginning with its key: shape,
// template or content_type.
func Parse(spec Spec) (*Shape, error) {
	s := &Shape{spec: spec}
	var faults []error
	switch spec.Kind {
	case Template:
		program, err := compile(spec.Template)
		mediaType, errType := mediaTypeOf(spec.ContentType)
		s.program, s.json = program, isJSON(mediaType)
		faults = append(faults, err, errType)
	case "", Structured, Binary, Thin:
		if spec.Template != "" {
			faults = append(faults, errors.New("template: is not used by this shape: write shape: template, or leave it out"))
		}
		if spec.ContentType != "" {
			faults = append(faults, errors.New("content_type: only shape: template has one of its own: leave it out"))
		}
	default:
		faults = append(faults, fmt.Errorf("shape: %s is not known: want structured, binary, thin or template", shorten(fmt.Sprintf("%q", spec.Kind))))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if s.spec.Kind == "" {
		s.spec.Kind = Structured
	}
	if s.spec.Kind == Template && spec.ContentType == "" {
		s.spec.ContentType = defaultContentType
	}
	return s, nil
}

// defaultContentType is that of a template, and of data whose datacontenttype is absent (CloudEvents JSON format, section 3.1).
const defaultContentType = "application/json"

func mediaTypeOf(contentType string) (string, error) {
	if contentType == "" {
		return defaultContentType, nil
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil || len(contentType) > maxContentType || !strings.Contains(mediaType, "/") || !printable(contentType) {
		return "", errors.New("content_type: is no media type: write e.g. application/json or text/plain; charset=utf-8")
	}
	return mediaType, nil
}

// isJSON tells whether content of a type is JSON (RFC 6839, section 3.1).
func isJSON(mediaType string) bool {
	return mediaType == "application/json" || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json")
}

// printable tells whether s can stand in a header as it is.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Spec is the shape as it was given, with its defaults filled in.
func (s *Shape) Spec() Spec { return s.spec }

// Render gives one event its form; event is a CloudEvent in JSON. A structured one is passed through unread. An error is the
// event's or the template's and comes again at every attempt; it quotes nothing of the event but names of attributes and
// single characters.
func (s *Shape) Render(event []byte, meta Meta) (Body, error) {
	body, err := s.render(event, meta)
	if err != nil {
		return Body{}, err
	}
	if s.spec.Gzip {
		body.Encoding = "gzip"
	}
	return body, nil
}

func (s *Shape) render(data []byte, meta Meta) (Body, error) {
	switch s.spec.Kind {
	case Binary:
		return renderBinary(data)
	case Thin:
		return renderThin(data, meta)
	case Template:
		return s.renderTemplate(data, meta)
	}
	return Body{Data: data, ContentType: event.ContentType}, nil
}

func (s *Shape) renderTemplate(data []byte, meta Meta) (Body, error) {
	dot, err := decode(data)
	if err != nil {
		return Body{}, err
	}
	dot["relay"] = map[string]any{"sequence": number(meta.Sequence), "attempt": number(meta.Attempt)}
	out, err := s.program.run(dot)
	if err != nil {
		return Body{}, err
	}
	if s.json {
		if err := checkJSON(out); err != nil {
			return Body{}, err
		}
	}
	return Body{Data: out, ContentType: s.spec.ContentType}, nil
}
