package shape

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/nex-crm/relay/internal/event"
)

// maxAttributes bounds the headers of a binary event together, in bytes: many servers take 8 KiB of headers and no more, and
// there are others beside these.
const maxAttributes = 6 << 10

// thinAttributes are what a thin event keeps, in this order; sequence follows.
var thinAttributes = []string{"specversion", "id", "source", "type", "time"}

// members are those of the envelope alone; what stands in them is not decoded.
func members(data []byte) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil || m == nil {
		return nil, errNoEvent
	}
	return m, nil
}

var errNoEvent = errors.New("event: is no JSON object: only a CloudEvent in JSON has a shape other than structured")

// renderThin keeps what identifies an event. sequence is the CloudEvents extension of that name: a text whose order as text is
// the order of events, hence the zeros.
func renderThin(data []byte, meta Meta) (Body, error) {
	m, err := members(data)
	if err != nil {
		return Body{}, err
	}
	out := make([]byte, 0, 320)
	for _, name := range thinAttributes {
		value, ok := m[name]
		if !ok {
			continue
		}
		out = append(out, `,"`...)
		out = append(out, name...)
		out = append(out, `":`...)
		out = append(out, value...)
	}
	if meta.Sequence > 0 {
		out = fmt.Appendf(out, `,"sequence":"%020d"`, meta.Sequence)
	}
	if len(out) == 0 {
		return Body{}, errors.New("event: has no attributes: there is nothing to name it by")
	}
	out[0] = '{'
	return Body{Data: append(out, '}'), ContentType: event.ContentType}, nil
}

// renderBinary is the binary content mode of the CloudEvents HTTP protocol binding 1.0.2, section 3.1.
func renderBinary(data []byte) (Body, error) {
	m, err := members(data)
	if err != nil {
		return Body{}, err
	}
	contentType, mediaType, err := dataContentType(m["datacontenttype"])
	if err != nil {
		return Body{}, err
	}
	content, err := dataOf(m, mediaType)
	if err != nil {
		return Body{}, err
	}
	header, err := attributeHeaders(m)
	if err != nil {
		return Body{}, err
	}
	return Body{Data: content, ContentType: contentType, Header: header}, nil
}

func dataContentType(raw json.RawMessage) (contentType, mediaType string, err error) {
	if raw == nil || isNull(raw) {
		return defaultContentType, defaultContentType, nil
	}
	if err := json.Unmarshal(raw, &contentType); err != nil || !printable(contentType) {
		return "", "", errors.New("event: datacontenttype is no media type: binary mode has nothing to say in Content-Type")
	}
	mediaType, _, err = mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return "", "", errors.New("event: datacontenttype is no media type: binary mode has nothing to say in Content-Type")
	case strings.HasPrefix(mediaType, "application/cloudevents"): // a receiver tells the modes apart by this (section 3)
		return "", "", errors.New("event: datacontenttype is a CloudEvent's: in binary mode a receiver would take the data for the event")
	}
	return contentType, mediaType, nil
}

// dataOf is the data as bytes: a JSON value as it stands where the content is JSON, else the text itself (CloudEvents JSON
// format, section 3.1).
func dataOf(m map[string]json.RawMessage, mediaType string) ([]byte, error) {
	if raw, ok := m["data_base64"]; ok && !isNull(raw) {
		var content []byte
		if err := json.Unmarshal(raw, &content); err != nil || raw[0] != '"' {
			return nil, errors.New("event: data_base64 is not base64")
		}
		return content, nil
	}
	raw := m["data"]
	if !isJSON(mediaType) && len(raw) > 0 && raw[0] == '"' {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, errNoEvent
		}
		return []byte(text), nil
	}
	return raw, nil
}

// attributeHeaders maps all other attributes, extensions included (section 3.1.3).
func attributeHeaders(m map[string]json.RawMessage) (http.Header, error) {
	header := make(http.Header, len(m))
	size := 0
	for name, raw := range m {
		if name == "data" || name == "data_base64" || name == "datacontenttype" || isNull(raw) {
			continue // a null attribute is one that is absent (JSON format, section 2.3)
		}
		if !isAttributeName(name) {
			return nil, fmt.Errorf("event: %s is no name of an attribute, which has a-z and 0-9 only: no header can carry it",
				shorten(fmt.Sprintf("%q", name)))
		}
		value, ok := headerValue(raw)
		if !ok {
			return nil, fmt.Errorf("event: attribute %s is neither a text, a whole number nor a truth value: no header can carry it", shorten(name))
		}
		if size += len("ce-: \r\n") + len(name) + len(value); size > maxAttributes {
			return nil, fmt.Errorf("event: its attributes need more than %d bytes of headers: use shape: structured", maxAttributes)
		}
		header["Ce-"+strings.ToUpper(name[:1])+name[1:]] = []string{value}
	}
	return header, nil
}

func isNull(raw json.RawMessage) bool { return bytes.Equal(raw, []byte("null")) }

// isAttributeName follows CloudEvents 1.0.2, section 3.1.
func isAttributeName(name string) bool {
	return name != "" && !slices.ContainsFunc([]byte(name), func(c byte) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') })
}

// headerValue is the canonical text of an attribute, percent-encoded.
func headerValue(raw json.RawMessage) (value string, ok bool) {
	switch c := raw[0]; {
	case c == '"':
		if len(raw) > maxAttributes { // too much whatever it holds, so spare the work
			return string(raw), true
		}
		var text string
		err := json.Unmarshal(raw, &text)
		return percentEncode(text), err == nil
	case c == 't', c == 'f', c == '-', c >= '0' && c <= '9':
		return string(raw), !bytes.ContainsAny(raw, ".eE") || c == 't' || c == 'f'
	}
	return "", false
}

// percentEncode encodes what section 3.1.3.2 of the HTTP protocol binding names: space, double quote, percent and everything
// outside the printable ASCII characters.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b []byte
	for i := range len(s) {
		c := s[i]
		if c > ' ' && c <= '~' && c != '"' && c != '%' {
			if b != nil {
				b = append(b, c)
			}
			continue
		}
		if b == nil {
			b = append(make([]byte, 0, len(s)+16), s[:i]...)
		}
		b = append(b, '%', hex[c>>4], hex[c&15])
	}
	if b == nil {
		return s
	}
	return string(b)
}
