package webhook_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

func TestValidateURL(t *testing.T) {
	t.Parallel()
	tests := []struct {
		raw       string
		allowHTTP bool
		want      string // part of the error; empty: accepted
	}{
		{"https://example.com", false, ""},
		{"https://example.com/hook?token=secret", false, ""},
		{"HTTPS://EXAMPLE.com:8443/a%20b", false, ""},
		{"https://[2606:4700:4700::1111]/", false, ""},
		{"https://bücher.example/", false, ""},
		{"https://" + strings.Repeat("a", webhook.MaxURLLength-len("https://")), false, ""},
		{"http://example.com", true, ""},
		{"http://example.com/secret", false, "allow_http"},
		{"", false, "empty"},
		{"https://" + strings.Repeat("a", webhook.MaxURLLength), false, "2048 are allowed"},
		{" https://example.com/secret", false, "white space"},
		{"https://example.com/secret\n", false, "white space"},
		{"https://example.com/secret#", false, "fragment"},
		{"https://example.com/#secret", false, "fragment"},
		{"https://example.com/%zzsecret", false, "%25"},
		{"https://exa mple.com/secret", false, "cannot be parsed"},
		{"https://example.com/sec\x7fret", false, "cannot be parsed"},
		{"https://user:secret/x@example.com", false, "cannot be parsed"},
		{"https://user:secret@example.com/", false, "credentials"},
		{"https://secret@example.com/", false, "credentials"},
		{"example.com/secret", false, "absolute"},
		{"//example.com/secret", false, "absolute"},
		{"/secret", false, "absolute"},
		{"ftp://example.com/secret", false, "absolute"},
		{"file:///etc/secret", true, "absolute"},
		{"gopher://secret", true, "absolute"},
		{"https:secret", false, "no host"},
		{"https:///secret", false, "no host"},
		{"https://:443/secret", false, "no host"},
		{"https://example.com:0/secret", false, "port"},
		{"https://example.com:65536/secret", false, "port"},
		{"https://example.com:secret/", false, "cannot be parsed"},
	}
	for _, tt := range tests {
		u, err := webhook.ValidateURL(tt.raw, tt.allowHTTP)
		switch {
		case tt.want == "" && (err != nil || u == nil || u.Host == ""):
			t.Errorf("%q: %v", tt.raw, err)
		case tt.want != "" && (err == nil || u != nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%q: got %v, want an error with %q", tt.raw, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%q: error %q quotes it", tt.raw, err)
		}
	}
}

func FuzzValidateURL(f *testing.F) {
	for _, s := range []string{"", "https://h", "http://h/", "https://u:p@h/#f", "https://h:99999", "https:h", "https://[::1%25eth0]/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := webhook.ValidateURL(raw, true)
		if err != nil {
			return
		}
		if u.Hostname() == "" || u.User != nil || u.Fragment != "" || (u.Scheme != "http" && u.Scheme != "https") {
			t.Fatalf("%q is accepted as %#v", raw, u)
		}
		if redacted := webhook.RedactURL(u); strings.ContainsAny(redacted, "?#") {
			t.Fatalf("%q is shown as %q", raw, redacted)
		}
	})
}

func TestRedactURL(t *testing.T) {
	t.Parallel()
	tests := []struct{ raw, want string }{
		{"https://user:secret@example.com:8443/a%2Fb/c?token=secret#secret", "https://example.com:8443/a%2Fb/c"},
		{"https://example.com", "https://example.com"},
		{"https://example.com?secret", "https://example.com"},
		{"https:secret", "https:"},
	}
	for _, tt := range tests {
		u, err := url.Parse(tt.raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := webhook.RedactURL(u); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.raw, got, tt.want)
		}
	}
	if got := webhook.RedactURL(nil); got != "" {
		t.Errorf("nil: got %q", got)
	}
}

func TestValidateHeaders(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		headers map[string]string
		want    []string // parts of the error; none: accepted
	}{
		{"none", nil, nil},
		{"usual", map[string]string{"Authorization": "Bearer x", "X-Tenant": "ä\t1", "x_y.z!": "", "Tracestate": "a=b"}, nil},
		{"own", map[string]string{"webhook-id": "x", "WEBHOOK-SIGNATURE": "x", "webhook-new": "x", "Content-type": "x", "user-agent": "x", "traceparent": "x", "relay-sequence": "x", "ce-id": "x"},
			[]string{`"relay-sequence"`, `"ce-id"`, `"webhook-id"`, `"WEBHOOK-SIGNATURE"`, `"webhook-new"`, `"Content-type"`, `"user-agent"`, `"traceparent"`}},
		{"HTTP's", map[string]string{"host": "x", "content-length": "1", "transfer-encoding": "x", "connection": "x", "keep-alive": "x",
			"proxy-authorization": "x", "proxy-connection": "x", "te": "x", "trailer": "x", "upgrade": "x", "expect": "x", "http2-settings": "x"},
			[]string{`"host"`, `"content-length"`, `"transfer-encoding"`, `"connection"`, `"keep-alive"`, `"proxy-authorization"`,
				`"proxy-connection"`, `"te"`, `"trailer"`, `"upgrade"`, `"expect"`, `"http2-settings"`}},
		{"names", map[string]string{"": "x", "a b": "x", "a:b": "x", "é": "x", "a\r\nb": "x", ":path": "x", "a@": "x", "a[": "x"},
			[]string{`""`, `"a b"`, `"a:b"`, `"é"`, `"a\r\nb"`, `":path"`, `"a@"`, `"a["`}},
		{"values", map[string]string{"A": "secret\r\nX: 1", "B": "secret\x00", "C": "secret\x7f", "D": "secret\n"}, []string{`"A"`, `"B"`, `"C"`, `"D"`}},
		{"twice", map[string]string{"X-A": "1", "x-a": "2"}, []string{"twice"}},
		{"as many as go", map[string]string{"X-A": strings.Repeat("x", 4093), "X-B": strings.Repeat("x", 4093)}, nil},
		{"too many", map[string]string{"X-A": strings.Repeat("x", 4093), "X-B": strings.Repeat("x", 4094)}, []string{"are 8193 bytes in all, at most 8192"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := webhook.ValidateHeaders(tt.headers)
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			if lines := strings.Count(err.Error(), "\n") + 1; lines != len(tt.want) {
				t.Errorf("%d problems, want %d: %v", lines, len(tt.want), err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s is missing in %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("a value shows in %v", err)
			}
		})
	}
}
