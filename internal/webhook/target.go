package webhook

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// MaxURLLength bounds an endpoint's URL in bytes; RFC 9110, section 4.1 asks for 8000 to be supported, real ones are short.
const MaxURLLength = 2048

// ValidateURL parses the URL of an endpoint. It is absolute https (or http if allowHTTP), with a host, without credentials
// and without a fragment. Errors contain no part of raw, which may hold a secret.
func ValidateURL(raw string, allowHTTP bool) (*url.URL, error) {
	u, err := parseURL(raw)
	if err != nil {
		return nil, fmt.Errorf("endpoint url: %w", err)
	}
	if err := checkURL(u, allowHTTP); err != nil {
		return nil, fmt.Errorf("endpoint url: %w", err)
	}
	return u, nil
}

func parseURL(raw string) (*url.URL, error) {
	switch {
	case raw == "":
		return nil, errors.New("empty: want https://host/path")
	case len(raw) > MaxURLLength:
		return nil, fmt.Errorf("has %d bytes: %d are allowed", len(raw), MaxURLLength)
	case strings.TrimSpace(raw) != raw:
		return nil, errors.New("begins or ends with white space: remove it")
	case strings.Contains(raw, "#"):
		return nil, errors.New("has a fragment (#…), which is never sent: remove it")
	}
	u, err := url.Parse(raw)
	var escape url.EscapeError
	switch {
	case errors.As(err, &escape):
		return nil, errors.New("has a % that begins no escape: write %25 for a percent sign")
	case err != nil: // its text quotes the URL
		return nil, errors.New("cannot be parsed: want https://host/path")
	}
	return u, nil
}

func checkURL(u *url.URL, allowHTTP bool) error {
	switch {
	case u.Scheme == "http" && !allowHTTP:
		return errors.New("plain http is not allowed: use https, or set webhooks.allow_http: true")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("not an absolute https URL: want https://host/path")
	case u.User != nil:
		return errors.New("holds credentials: remove them and set an Authorization header in headers instead")
	case u.Hostname() == "":
		return errors.New("has no host: want https://host/path")
	case u.Port() != "" && !validPort(u.Port()):
		return errors.New("has a port outside 1 to 65535")
	}
	return nil
}

func validPort(s string) bool {
	port, err := strconv.ParseUint(s, 10, 16)
	return err == nil && port != 0
}

// RedactURL is u for logs and listings: scheme, host and path, without credentials, query and fragment.
func RedactURL(u *url.URL) string {
	if u == nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// MaxHeaders bounds an endpoint's custom headers in bytes, all names and values together: many servers take no more than 8 KiB of a
// request's header.
const MaxHeaders = 8 << 10

// ValidateHeaders checks an endpoint's custom headers, name to value, and lists every problem, each an error of its own (joined). Names
// that the sender or HTTP itself sets are refused, also in another case. Errors contain no value, which may be a secret.
func ValidateHeaders(headers map[string]string) error {
	var problems []error
	seen := make(map[string]bool, len(headers))
	size := 0
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		size += len(name) + len(headers[name])
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !validHeaderName(name):
			problems = append(problems, fmt.Errorf("header %q: no valid name: letters, digits and - are safe", name))
		case reservedHeader(canonical):
			problems = append(problems, fmt.Errorf("header %q: set by relay or by HTTP itself, cannot be changed", name))
		case seen[canonical]:
			problems = append(problems, fmt.Errorf("header %q: given twice in different case", name))
		case !validHeaderValue(headers[name]):
			problems = append(problems, fmt.Errorf("header %q: value has a line break or another control character", name))
		}
		seen[canonical] = true
	}
	if size > MaxHeaders {
		problems = append(problems, fmt.Errorf("names and values are %d bytes in all, at most %d: many receivers refuse a request with more", size, MaxHeaders))
	}
	return errors.Join(problems...)
}

// reservedHeader reports that an endpoint may not set the header, given in canonical form: those that the sender sets, and
// those that belong to the connection or the framing (RFC 9110, sections 7.2, 7.6.1, 8.6 and 10.1.1).
func reservedHeader(canonical string) bool {
	switch canonical {
	case "Content-Type", "Content-Encoding", "User-Agent", "Traceparent",
		"Host", "Content-Length", "Transfer-Encoding", "Te", "Trailer", "Expect",
		"Connection", "Keep-Alive", "Upgrade", "Http2-Settings":
		return true
	}
	for _, prefix := range [...]string{"Webhook-", "Relay-", "Ce-", "Proxy-"} {
		if strings.HasPrefix(canonical, prefix) {
			return true
		}
	}
	return false
}

// validHeaderName follows RFC 9110, section 5.1: a token.
func validHeaderName(name string) bool {
	for i := range len(name) {
		c := name[i] | 0x20 // letters become lower case; no byte that is no token character becomes a letter
		if (c < 'a' || c > 'z') && (name[i] < '0' || name[i] > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", name[i]) < 0 {
			return false
		}
	}
	return name != ""
}

// validHeaderValue follows RFC 9110, section 5.5: no control characters but the tab.
func validHeaderValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
