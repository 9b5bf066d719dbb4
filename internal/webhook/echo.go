package webhook

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// minEcho is the length from which a value of the request is looked for in the answer: shorter ones occur by chance.
const minEcho = 8

// echoes is what of a request must not be kept of an answer that quotes it. The longer come first.
type echoes []string

// echoesOf is the values of the endpoint's own headers, of its URL's query, what opens its proxy and what signs. Of a value that has
// several words, as Bearer and a token, it is each of them as well.
func echoesOf(r *Request) (list echoes) {
	for _, values := range r.Header {
		for _, value := range values {
			list = list.and(value)
			for _, word := range strings.Fields(value) {
				list = list.and(word)
			}
			if encoded, ok := cutBasic(value); ok {
				login, _ := base64.StdEncoding.DecodeString(encoded)
				list = list.andLogin(string(login))
			}
		}
	}
	if r.URL != nil {
		list = list.andQuery(r.URL.RawQuery)
	}
	if r.Route != nil && r.Route.Proxy != nil && r.Route.Proxy.User != nil {
		password, _ := r.Route.Proxy.User.Password()
		login := r.Route.Proxy.User.Username() + ":" + password
		list = list.andLogin(login).and(base64.StdEncoding.EncodeToString([]byte(login)))
	}
	for _, s := range r.Secrets {
		list = list.and(s.Reveal()).and(strings.TrimPrefix(s.Reveal(), s.prefix()))
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return list
}

func (e echoes) and(value string) echoes {
	if value = strings.TrimSpace(value); len(value) < minEcho || slices.Contains(e, value) {
		return e
	}
	return append(e, value)
}

// andLogin adds user:password and the password.
func (e echoes) andLogin(login string) echoes {
	_, password, _ := strings.Cut(login, ":")
	return e.and(login).and(password)
}

// andQuery adds the values of a query as it stands in the URL, what has no name included: as they are, and decoded.
func (e echoes) andQuery(query string) echoes {
	for pair := range strings.SplitSeq(query, "&") {
		name, value, named := strings.Cut(pair, "=")
		if !named {
			value = name
		}
		e = e.and(value)
		if decoded, err := url.QueryUnescape(value); err == nil {
			e = e.and(decoded)
		}
		if decoded, err := url.PathUnescape(value); err == nil { // where + is a plus
			e = e.and(decoded)
		}
	}
	return e
}

// cutBasic is what follows the scheme of a Basic login (RFC 7617).
func cutBasic(value string) (encoded string, ok bool) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(value), " ")
	return strings.TrimSpace(rest), strings.EqualFold(scheme, "Basic")
}

// without is the beginning of an answer without the secrets in it.
func (e echoes) without(body []byte) []byte {
	spans := e.in(body)
	if len(spans) == 0 {
		return body
	}
	kept := make([]byte, 0, len(body)+len(spans)*len(Redacted))
	end := 0
	for _, s := range spans {
		kept = append(append(kept, body[end:s.from]...), Redacted...)
		end = s.to
	}
	return append(kept, body[end:]...)
}

// span is a part of a text.
type span struct{ from, to int }

// in is where secrets stand in a text, in order and apart: the echoes, and what has the form of a credential. Those that are escaped
// are found as well, in any of the ways of [escapes], and in two of them on top of each other: an answer quotes what it got in JSON, in
// HTML, or in a URL.
func (e echoes) in(text []byte) []span {
	whole := decoded{text, nil, len(text)}
	spans := e.seen(whole, nil)
	if !bytes.ContainsAny(text, escapeMarks) { // most answers
		return joined(spans)
	}
	seen := []decoded{whole}
	for depth, layer := 0, seen; depth < 2; depth++ {
		var next []decoded
		for _, d := range layer {
			for _, escape := range escapes {
				if !bytes.Contains(d.text, []byte(escape.mark)) {
					continue
				}
				view := d.decode(escape.undo)
				if slices.ContainsFunc(seen, func(o decoded) bool { return bytes.Equal(o.text, view.text) }) {
					continue
				}
				seen, next = append(seen, view), append(next, view)
				spans = e.seen(view, spans)
			}
		}
		layer = next
	}
	return joined(spans)
}

// joined puts spans in order, and those together that touch.
func joined(spans []span) []span {
	if len(spans) < 2 {
		return spans
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	apart := spans[:0]
	for _, s := range spans {
		if n := len(apart); n > 0 && s.from <= apart[n-1].to {
			apart[n-1].to = max(apart[n-1].to, s.to)
			continue
		}
		apart = append(apart, s)
	}
	return apart
}

// seen adds where secrets stand in one reading of a text.
func (e echoes) seen(d decoded, spans []span) []span {
	add := func(from, to int) { spans = append(spans, span{d.place(from), d.place(to)}) }
	for _, secret := range e {
		for from := 0; ; {
			i := bytes.Index(d.text[from:], []byte(secret))
			if i < 0 {
				break
			}
			add(from+i, from+i+len(secret))
			from += i + 1
		}
		for n := min(len(secret)-1, len(d.text)); n >= minEcho; n-- { // it may have been cut in the middle of one
			if bytes.HasSuffix(d.text, []byte(secret[:n])) {
				spans = append(spans, span{d.place(len(d.text) - n), d.end})
				break
			}
		}
	}
	if !credentialMark(d.text) {
		return spans
	}
	for _, form := range credentials {
		for _, m := range form.FindAllSubmatchIndex(d.text, -1) {
			if from, to := m[2], m[3]; !parameter(d.text[from:to], d.text[to:]) {
				add(from, to)
			}
		}
	}
	return spans
}

// credentials are forms that nothing has but a credential, whosever it is, which is the first group: the relay's own kinds of secret, JSON
// Web Tokens (RFC 7519; a JSON object in base64 begins so), what stands behind a scheme of HTTP's (RFC 9110, section 11.4), and a
// login in a URL.
var credentials = []*regexp.Regexp{
	regexp.MustCompile(`(whs(?:ec|k)_[A-Za-z0-9+/_=-]+)`),
	regexp.MustCompile(`(eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*)`),
	regexp.MustCompile(`\b(?:Bearer|bearer|BEARER|Basic|basic|BASIC)[ \t]+([A-Za-z0-9._~+/-]{8,}=*)`),
	regexp.MustCompile(`://([^/?#\s@:]*:[^/?#\s@]+)@`),
}

// credentialMark tells at little cost of most texts that they hold none of the forms.
func credentialMark(text []byte) bool {
	for _, mark := range [...]string{"whs", "eyJ", "earer", "EARER", "asic", "ASIC", "://"} {
		if bytes.Contains(text, []byte(mark)) {
			return true
		}
	}
	return false
}

var parameterName = regexp.MustCompile(`^[a-z_]+=?$`)

// parameter tells of what follows the scheme that it is no credential: the name of a challenge's parameter (Bearer
// error_description="…"), or a word of a sentence about the scheme.
func parameter(found, rest []byte) bool {
	switch string(found) {
	case "authentication", "authorization", "authorisation", "credentials", "challenge":
		return true
	}
	return parameterName.Match(found) && found[len(found)-1] == '=' && (bytes.HasPrefix(rest, []byte(`"`)) || bytes.HasPrefix(rest, []byte(`\"`)))
}

// decoded is one reading of a text: its byte i stands from at[i] to at[i+1] in the text as it came, which has end bytes. No at: it is as it came.
type decoded struct {
	text []byte
	at   []int
	end  int
}

func (d decoded) place(i int) int {
	if d.at == nil {
		return i
	}
	return d.at[i]
}

// decode undoes one way to escape. What was cut at the end is left out: it may be the beginning of anything.
func (d decoded) decode(escape func([]byte) (plain []byte, size int)) decoded {
	out := decoded{make([]byte, 0, len(d.text)), make([]int, 0, len(d.text)+1), d.end}
	i := 0
	for i < len(d.text) {
		plain, size := escape(d.text[i:])
		if size == 0 {
			plain, size = d.text[i:i+1], 1
		}
		if len(plain) == 0 { // cut
			break
		}
		for range plain {
			out.at = append(out.at, d.place(i))
		}
		out.text = append(out.text, plain...)
		i += size
	}
	out.at = append(out.at, d.place(i))
	return out
}
