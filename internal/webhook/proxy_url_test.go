package webhook_test

import (
	"crypto/tls"
	"net/url"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

func TestValidateProxy(t *testing.T) {
	t.Parallel()
	tests := []struct{ raw, want string }{ // an empty want: accepted
		{"http://proxy.example:3128", ""},
		{"https://user:p%40ss@proxy.example", ""},
		{"http://10.0.0.1:3128/", ""},
		{"http://[::1]:3128", ""},
		{"http://under_score:1", ""},
		{"", "empty"},
		{"proxy.example:3128", "neither http"},
		{"socks5://secret.example", "neither http"},
		{"//secret.example", "neither http"},
		{"http://", "no host"},
		{"http://:3128", "no host"},
		{"http://secret.example:0", "port"},
		{"http://secret.example:65536", "port"},
		{"http://secret.example/x", "a path"},
		{"http://secret.example?x", "a path"},
		{"http://secret.example/?", "a path"},
		{"http://secret.example#x", "a path"},
		{" http://secret.example", "white space"},
		{"http://user:sec/ret@secret.example", "cannot be parsed"},
		{"http://u:secret%zz@h", "cannot be parsed"},
		{"http://secrét.example", "ASCII"},
		{"http://secret.example/" + strings.Repeat("x", 2048), "2048 are allowed"},
	}
	for _, tt := range tests {
		u, err := webhook.ValidateProxy(tt.raw)
		switch {
		case tt.want == "" && (err != nil || u == nil || u.String() != tt.raw):
			t.Errorf("%q: %v", tt.raw, err)
		case tt.want != "" && (err == nil || u != nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%q: got %v, want an error with %q", tt.raw, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "secr"):
			t.Errorf("%q: error %q quotes it", tt.raw, err)
		}
	}
}

func FuzzValidateProxy(f *testing.F) {
	for _, s := range []string{"", "http://h", "https://u:p@h:1/", "socks5://h", "http://h?", "http://[::1%25lo]:1", "http://[fe80::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := webhook.ValidateProxy(raw)
		if err == nil && (u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "") {
			t.Fatalf("%q is accepted as %#v", raw, u)
		}
	})
}

// TestRouteInvalid: a route that cannot be used is our own fault, and shows nothing.
func TestRouteInvalid(t *testing.T) {
	t.Parallel()
	s := newSender(t, nil)
	for _, route := range []*webhook.Route{
		{Proxy: &url.URL{Scheme: "socks5", Host: "secret"}},
		{Proxy: &url.URL{Scheme: "http", User: url.User("secret")}},
		{ClientCert: &tls.Certificate{}},
		{ClientCert: &tls.Certificate{Certificate: [][]byte{[]byte("secret")}}},
	} {
		r := request(t, "http://127.0.0.1:1/")
		r.Route = route
		got := s.Send(t.Context(), r)
		if got.Outcome != webhook.InvalidRequest || got.Err == nil || strings.Contains(got.Err.Error(), "secret") {
			t.Errorf("got %+v", got)
		}
	}
	if got := s.Send(t.Context(), &webhook.Request{URL: mustURL(t, "http://127.0.0.1:1/"), Secrets: []webhook.Secret{testSecret}, Route: &webhook.Route{}}); got.Outcome != webhook.DialError {
		t.Errorf("an empty route: got %+v", got)
	}
}
