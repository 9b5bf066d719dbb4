package webhook

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func mustURL(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Whatever of the request is secret is found in an answer, its parts included.
func TestEchoesOfARequest(t *testing.T) {
	t.Parallel()
	hmac, key := GenerateSecret(), GenerateSigningKey()
	secrets := echoesOf(&Request{
		URL: mustURL(t, "https://example.com/in?key=query-sentinel&v=2&sign=a%2Bb%20c%2Fdefgh&nameless-sentinel"),
		Header: http.Header{
			"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("user:basic-sentinel"))},
			"X-Key":         {"own sentinel-credential"}, "X-Env": {"prod"},
		},
		Route:   &Route{Proxy: mustURL(t, "http://pu:proxy-sentinel@proxy.example:3128")},
		Secrets: []Secret{hmac, key},
	})
	for _, secret := range []string{
		"query-sentinel", "a%2Bb%20c%2Fdefgh", "a+b c/defgh", "nameless-sentinel", "user:basic-sentinel", "basic-sentinel",
		base64.StdEncoding.EncodeToString([]byte("user:basic-sentinel")), "own sentinel-credential", "sentinel-credential",
		"proxy-sentinel", base64.StdEncoding.EncodeToString([]byte("pu:proxy-sentinel")),
		hmac.Reveal(), strings.TrimPrefix(hmac.Reveal(), "whsec_"), key.Reveal(), strings.TrimPrefix(key.Reveal(), "whsk_"),
	} {
		if got := string(secrets.without([]byte("you sent «" + secret + "»"))); got != "you sent «[redacted]»" {
			t.Errorf("%s: %s", secret, got)
		}
		if got := shownValue("x-echo", "you sent "+secret, secrets); got != Redacted {
			t.Errorf("%s in a header: %s", secret, got)
		}
	}
	if got := string(secrets.without([]byte("v=2 prod user"))); got != "v=2 prod user" {
		t.Errorf("what is short became %q", got)
	}
}

// What has the form of a credential is found wherever it stands, and what only speaks of one is not.
func TestCredentialForms(t *testing.T) {
	t.Parallel()
	const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2VudGluZWw"
	for _, tt := range []struct{ body, want string }{
		{`{"token":"` + jwt + `"}`, `{"token":"[redacted]"}`},
		{"bad " + jwt + ".", "bad [redacted]"},
		{"cut: eyJhbGciOiJI", "cut: [redacted]"},
		{`{"secret":"whsec_c2VudGluZWw="}`, `{"secret":"[redacted]"}`},
		{`whsk_c2VudGlu%2BZWw%3D&x`, `[redacted]&x`},
		{`{"authorization":"Bearer sentinel-1"}`, `{"authorization":"Bearer [redacted]"}`},
		{`{"authorization":"Basic dXNlcjpzZW50aW5lbA=="}`, `{"authorization":"Basic [redacted]"}`},
		{"-H 'authorization: bearer sentinel.1'", "-H 'authorization: bearer [redacted]'"},
		{"authorization=Bearer+sentinel-1&x=y", "authorization=Bearer+[redacted]&x=y"},
		{`"Bearer\u0020sentinel-1"`, `"Bearer\u0020[redacted]"`},
		{"see https://user:sentinel@example.com/x", "see https://[redacted]@example.com/x"},
		{`{"u":"https:\/\/user:sentinel@example.com"}`, `{"u":"https:\/\/[redacted]@example.com"}`},
		{"Basic authentication is needed, or a Bearer token", "Basic authentication is needed, or a Bearer token"},
		{`Bearer error_description="expired", realm="crm"`, `Bearer error_description="expired", realm="crm"`},
		{`{"www":"Bearer error_description=\"expired\""}`, `{"www":"Bearer error_description=\"expired\""}`},
		{"https://example.com:8443/a@b", "https://example.com:8443/a@b"},
		{"10 % of A&B \\ + 1", "10 % of A&B \\ + 1"},
	} {
		if got := string(echoes(nil).without([]byte(tt.body))); got != tt.want {
			t.Errorf("%s\ngot  %s\nwant %s", tt.body, got, tt.want)
		}
	}
}

// quoting is the ways in which an answer quotes, character by character.
var lowerHex = regexp.MustCompile(`%..`)

var quoting = map[string]func(string) string{
	"as it is": func(s string) string { return s },
	"JSON": func(s string) string {
		text, _ := json.Marshal(s)
		return string(text[1 : len(text)-1])
	},
	"JSON of PHP": func(s string) string {
		text, _ := json.Marshal(s)
		return strings.ReplaceAll(string(text[1:len(text)-1]), "/", `\/`)
	},
	"JSON of ASCII": func(s string) string {
		return each(s, func(r rune) string {
			if r > 0xffff {
				return fmt.Sprintf(`\u%04x\u%04X`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
			}
			return fmt.Sprintf(`\u%04X`, r)
		})
	},
	"HTML":            html.EscapeString,
	"HTML by decimal": func(s string) string { return each(s, func(r rune) string { return fmt.Sprintf("&#%d;", r) }) },
	"HTML by hex":     func(s string) string { return each(s, func(r rune) string { return fmt.Sprintf("&#x%X;", r) }) },
	"form":            url.QueryEscape,
	"path":            url.PathEscape,
	"lower case":      func(s string) string { return lowerHex.ReplaceAllStringFunc(url.QueryEscape(s), strings.ToLower) },
	"every byte": func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, "%%%02x", s[i])
		}
		return b.String()
	},
}

func each(s string, quote func(rune) string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteString(quote(r))
	}
	return b.String()
}

func TestEscapedEchoes(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{`pa"ss\wo/rd<&>'+ %41=`, "plain-sentinel", "grüße-😀-schlüssel", "c2VudGlu+ZWw/x=="} {
		secrets := echoesOf(&Request{Header: http.Header{"X-Key": {secret}}})
		for outer, wrap := range quoting {
			for inner, quote := range quoting {
				quoted := wrap(quote(secret))
				body := []byte(wrap("you sent ") + quoted + wrap(", thanks"))
				if got := string(secrets.without(slices.Clone(body))); strings.Contains(got, quoted) || !strings.Contains(got, Redacted) {
					t.Errorf("%s in %s: %s\nleft in %s", inner, outer, quoted, got)
				}
				if got := shownValue("x-echo", string(body), secrets); got != Redacted {
					t.Errorf("%s in %s in a header: %s", inner, outer, got)
				}
			}
			for n := range wrap(secret) { // the answer may end anywhere
				cut := "you sent " + wrap(secret)[:n]
				got := string(secrets.without([]byte(cut)))
				if begin := wrap(secret[:minEcho]); utf8.ValidString(secret[:minEcho]) && strings.Contains(got, begin) {
					t.Errorf("%s: of %q is left %q", outer, cut, got)
				}
			}
		}
	}
}

// FuzzEchoes: no form of a secret is left of an answer that quotes it among other things, in any of the ways and any two of them, and
// wherever the answer ends.
func FuzzEchoes(f *testing.F) {
	f.Add("sentinel-credential", "you sent ", ", thanks", uint16(1000))
	f.Add(`pa"ss\wo/rd<&>'+ %41=`, `\`, `;amp;`, uint16(20))
	f.Add("aaaaaaaaaaaa", "aaa", "aaaaaaa", uint16(13))
	f.Fuzz(func(t *testing.T, secret, before, after string, end uint16) {
		if len(secret) < minEcho || len(secret) > 100 || strings.TrimSpace(secret) != secret || !utf8.ValidString(secret) || !utf8.ValidString(before) || !utf8.ValidString(after) ||
			!validHeaderValue(secret) || touches(secret, Redacted) || len(before)+len(after) > 500 {
			t.Skip()
		}
		secrets := echoesOf(&Request{Header: http.Header{"X-Key": {secret}}})
		for outer, wrap := range quoting {
			for inner, quote := range quoting {
				whole := wrap(quote(before + secret + after))
				quoted, begin := wrap(quote(secret)), ""
				body := whole[:min(len(whole), int(end))]
				if utf8.ValidString(secret[:minEcho]) {
					begin = wrap(quote(secret[:minEcho]))
				}
				got := string(secrets.without([]byte(body)))
				if strings.Contains(got, quoted) || begin != "" && strings.HasSuffix(got, begin) {
					t.Fatalf("%s in %s: %q becomes %q", inner, outer, body, got)
				}
				if len(got) > 2*len(body)+len(Redacted) {
					t.Fatalf("%q becomes %q", body, got)
				}
			}
		}
	})
}

// touches tells whether a part of one may end with the beginning of the other.
func touches(a, b string) bool {
	for n := 1; n <= min(len(a), len(b)); n++ {
		if strings.HasSuffix(a, b[:n]) || strings.HasSuffix(b, a[:n]) {
			return true
		}
	}
	return strings.Contains(a, b) || strings.Contains(b, a)
}

func BenchmarkEchoes(b *testing.B) {
	r := &Request{
		URL:     mustURL(b, "https://example.com/in?key=query-sentinel"),
		Header:  http.Header{"Authorization": {"Bearer sentinel-credential"}},
		Secrets: []Secret{GenerateSecret()},
	}
	secrets := echoesOf(r)
	b.Run("all of a success", func(b *testing.B) {
		answer := http.Header{"Date": {"x"}, "Content-Type": {"application/json; charset=utf-8"}, "Content-Length": {"11"}, "Server": {"nginx"}, "X-Request-Id": {"5b1f0f3c"}}
		for b.Loop() {
			result := Result{Outcome: Delivered, Body: []byte(`{"ok":true}`)}
			result.keep(r, http.Header{}, answer)
		}
	})
	for name, body := range map[string]string{
		"ok":      `{"ok":true}`,
		"error":   strings.Repeat(`{"error":"no such table","path":"\/in"}`, 25),
		"hostile": strings.Repeat(`\u0041&amp;%41+Bearer `, 46),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				secrets.without([]byte(body))
			}
		})
	}
}
