package webhook

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestShownValue(t *testing.T) {
	t.Parallel()
	echoes := echoesOf(&Request{Header: http.Header{"Authorization": {"Bearer sentinel-credential"}, "X-Env": {"prod"}}})
	for _, tt := range []struct{ name, value, want string }{
		{"server", "nginx", "nginx"},
		{"set-cookie", "sentinel", Redacted},
		{"x-csrf-token", "sentinel", Redacted},
		{"x-amzn-remapped-authorization", "sentinel", Redacted},
		{"x-api-key", "sentinel", Redacted},
		{"webhook-signature", "v1,sentinel", Redacted},
		{"www-authenticate", `Bearer realm="crm", error="invalid_token"`, `Bearer realm="crm", error="invalid_token"`},
		{"www-authenticate", `Basic realm="crm"`, `Basic realm="crm"`},
		{"www-authenticate", "Bearer sentinel", Redacted},
		{"x-echo", "Basic c2VudGluZWw6c2VudGluZWw=", Redacted},
		{"x-echo", "eyJhbGciOiJIUzI1NiJ9.e30.sentinel", Redacted},
		{"x-echo", "whsec_sentinel", Redacted},
		{"x-echo", "you sent sentinel-credential", Redacted},
		{"x-env", "prod", "prod"}, // too short to be looked for
		{"location", "https://sentinel:sentinel@example.com/login?sentinel=1#sentinel", "https://example.com/login"},
		{"location", "/login?sentinel=1", "/login"},
		{"location", "https://example.com/%zz?sentinel", Redacted},
		{"link", `<https://example.com/x?sentinel=1>; rel="next"`, Redacted},
		{"x-raw", "a\x00b\xffc\u009b", "a\ufffdb\ufffdc\ufffd"},
		{"x-long", strings.Repeat("ä", 200), strings.Repeat("ä", 126) + "…"},
	} {
		if got := shownValue(tt.name, tt.value, echoes); got != tt.want {
			t.Errorf("%s: %q:\ngot  %q\nwant %q", tt.name, tt.value, got, tt.want)
		}
	}
}

func TestShownAnswerIsBounded(t *testing.T) {
	t.Parallel()
	many, wide := http.Header{"Date": {"now"}, "Content-Length": {"0"}}, http.Header{}
	for i := range 50 {
		many[fmt.Sprintf("X-%02d", i)] = []string{"a", "b"}
		wide[fmt.Sprintf("X-%02d", i)] = []string{strings.Repeat("w", 1000)}
	}
	wide["X-"+strings.Repeat("y", 5000)] = []string{""}
	for _, tt := range []struct {
		name        string
		h           http.Header
		delivered   bool
		count, most int
	}{
		{"many", many, false, 32, 4096},
		{"many of a success", many, true, 32, 256},
		{"wide", wide, false, 15, 4096},
		{"wide of a success", wide, true, 0, 256},
		{"none", nil, false, 0, 0},
		{"dull of a success", http.Header{"Date": {"now"}, "Content-Length": {"0"}}, true, 0, 0},
	} {
		size := 0
		got := shownAnswer(tt.h, shownNames(tt.h, tt.delivered), nil, tt.delivered)
		for name, value := range got {
			size += len(name) + len(value)
		}
		if len(got) != tt.count || size > tt.most {
			t.Errorf("%s: %d headers in %d bytes: %v", tt.name, len(got), size, got)
		}
	}
	if got := shownAnswer(many, shownNames(many, false), nil, false); got["x-00"] != "a, b" || got["date"] != "now" {
		t.Errorf("%v", got)
	}
}

// An answer that quotes the request does not bring the endpoint's own headers into the records.
func TestWithoutEchoes(t *testing.T) {
	t.Parallel()
	echoes := echoesOf(&Request{Header: http.Header{"Authorization": {"Bearer sentinel-credential"}, "X-Env": {"prod"}, "X-Key": {"k3yk3yk3yk3y"}}})
	for _, tt := range []struct{ body, want string }{
		{"", ""},
		{"thanks", "thanks"},
		{`{"authorization":"Bearer sentinel-credential","x-env":"prod"}`, `{"authorization":"[redacted]","x-env":"prod"}`},
		{"token sentinel-credential, key k3yk3yk3yk3y", "token [redacted], key [redacted]"},
		{"cut: Bearer sentinel-cre", "cut: [redacted]"},
		{"cut: k3yk3yk3", "cut: [redacted]"},
		{"cut: k3yk", "cut: k3yk"},
	} {
		before := []byte(tt.body)
		if got := string(echoes.without(slices.Clip(before))); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.body, got, tt.want)
		}
	}
}

func TestSentIsComplete(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	s := &Sent{URL: "https://example.com", Kept: &SentKept{
		Traceparent: "00-a-b-01", UserAgent: "nex-relay/1", ContentType: "text/plain", Encoding: "gzip", Origin: "relay.example", Own: []string{"Authorization"},
	}}
	s.Complete("evt.1", at, 7, 2)
	want := "authorization=[redacted] content-encoding=gzip content-type=text/plain relay-attempt=2 relay-sequence=7 traceparent=00-a-b-01 " +
		"user-agent=nex-relay/1 webhook-id=evt_1 webhook-request-origin=relay.example webhook-signature=[redacted] webhook-timestamp=1700000000"
	if got := flat(s.Headers); got != want || s.Method != "POST" || s.Kept != nil {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s = &Sent{}
	s.Complete("e", at, 0, 0)
	if got := flat(s.Headers); got != "content-type=application/cloudevents+json webhook-id=e webhook-signature=[redacted] webhook-timestamp=1700000000" {
		t.Errorf("got %s", got)
	}
}

func flat(h map[string]string) string {
	var list []string
	for name, value := range h {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// FuzzShownValue: whatever an answer's header holds, what is kept of it is bounded valid text that holds no credential of ours.
func FuzzShownValue(f *testing.F) {
	f.Add("location", "https://u:p@example.com/%zz?q")
	f.Add("x-raw", "\xff\x00\u2028")
	f.Add("x-echo", "sentinel-credential")
	f.Fuzz(func(t *testing.T, name, value string) {
		got := shownValue(name, value, []string{"sentinel-credential"})
		if len(got) > maxShownValue || !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\x1b\r\n") || strings.Contains(got, "sentinel-credential") {
			t.Errorf("%q: %q becomes %q", name, value, got)
		}
	})
}
