package webhook_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

func TestValidateRequest(t *testing.T) {
	t.Parallel()
	arrived := make(chan *http.Request, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		readAll(t, r.Body)
		arrived <- r
		w.Header().Set("WebHook-Allowed-Origin", "relay.example")
		w.Header().Set("WebHook-Allowed-Rate", "120")
	})
	s := newSender(t, nil)
	r := &webhook.ValidationRequest{
		URL: mustURL(t, srv.URL+"/hook?a=b"), Origin: "relay.example", Rate: 600,
		Header: http.Header{"Authorization": {"Bearer x"}, "WebHook-Request-Callback": {"forged"}, "webhook-request-origin": {"forged"}, "Content-Type": {"forged"}},
	}
	got, err := s.Validate(t.Context(), r)
	if err != nil || got.Rate != 120 {
		t.Fatalf("got %+v, %v", got, err)
	}
	req := <-arrived
	if req.Method != "OPTIONS" || req.RequestURI != "/hook?a=b" || req.ContentLength != 0 {
		t.Errorf("arrived %s %s", req.Method, req.RequestURI)
	}
	for name, want := range map[string]string{
		"Webhook-Request-Origin": "relay.example", "Webhook-Request-Rate": "600", "Authorization": "Bearer x", "User-Agent": "nex-relay/test",
		"Webhook-Request-Callback": "", "Content-Type": "", "Webhook-Id": "",
	} {
		if got := strings.Join(req.Header[name], ","); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if len(r.Header) != 4 {
		t.Error("the request's headers were changed")
	}

	r.Rate, r.Header = 0, nil
	if _, err := s.Validate(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if req := <-arrived; req.Header["Webhook-Request-Rate"] != nil {
		t.Error("a rate was asked for")
	}
}

func TestValidateAnswer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		status       int
		origin, rate []string
		want         int
		missing      string // part of the error; empty: granted
	}{
		{"granted", 200, []string{"relay.example"}, []string{"120"}, 120, ""},
		{"to anybody", 204, []string{"*"}, []string{"*"}, 0, ""},
		{"in another case", 200, []string{"Relay.EXAMPLE"}, []string{"1"}, 1, ""},
		{"without a rate", 200, []string{"relay.example"}, nil, 0, ""},
		{"at the highest rate", 200, []string{"*"}, []string{"2147483647"}, 2147483647, ""},
		{"not at all", 200, nil, []string{"120"}, 0, "no WebHook-Allowed-Origin"},
		{"to nobody", 200, []string{""}, nil, 0, `another than "relay.example"`},
		{"to another", 200, []string{"other.secret"}, nil, 0, `another than "relay.example"`},
		{"to a part of the name", 200, []string{"relay.example.secret"}, nil, 0, "another"},
		{"to a list", 200, []string{"relay.example, secret"}, nil, 0, "another"},
		{"twice", 200, []string{"secret", "relay.example"}, nil, 0, "more than once"},
		{"rate is no number", 200, []string{"*"}, []string{"secret"}, 0, "WebHook-Allowed-Rate"},
		{"rate is empty", 200, []string{"*"}, []string{""}, 0, "WebHook-Allowed-Rate"},
		{"rate is zero", 200, []string{"*"}, []string{"0"}, 0, "WebHook-Allowed-Rate"},
		{"rate is negative", 200, []string{"*"}, []string{"-1"}, 0, "WebHook-Allowed-Rate"},
		{"rate is a fraction", 200, []string{"*"}, []string{"1.5"}, 0, "WebHook-Allowed-Rate"},
		{"rate is too big", 200, []string{"*"}, []string{"2147483648"}, 0, "WebHook-Allowed-Rate"},
		{"rate twice", 200, []string{"*"}, []string{"1", "2"}, 0, "WebHook-Allowed-Rate"},
		{"with 405", 405, []string{"*"}, nil, 0, "answers 405 to OPTIONS"},
		{"with 410", 410, []string{"*"}, nil, 0, "answers 410 to OPTIONS"},
		{"with 302", 302, []string{"*"}, nil, 0, "answers 302 to OPTIONS"},
		{"with 500", 500, []string{"*"}, nil, 0, "answers 500 to OPTIONS"},
	}
	for _, tt := range tests {
		var hits atomic.Int32
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			hits.Add(1)
			w.Header()["WebHook-Allowed-Origin"], w.Header()["WebHook-Allowed-Rate"] = tt.origin, tt.rate
			w.Header().Set("Location", "/granted")
			w.WriteHeader(tt.status)
			fmt.Fprint(w, "secret")
		})
		got, err := newSender(t, nil).Validate(t.Context(), &webhook.ValidationRequest{URL: mustURL(t, srv.URL+"/secret"), Origin: "relay.example"})
		if got.Rate != tt.want || hits.Load() != 1 || (err == nil) != (tt.missing == "") {
			t.Errorf("%s: got %+v, %v after %d requests", tt.name, got, err, hits.Load())
		}
		if err != nil && (!strings.Contains(err.Error(), tt.missing) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: got error %q, want %q", tt.name, err, tt.missing)
		}
	}
}

func TestValidateRefused(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	srv := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	guarded := newSender(t, func(c *webhook.SenderConfig) {
		c.Guard, c.Resolver = nil, nameServer(t, map[string]netip.Addr{"private.example": netip.MustParseAddr("127.0.0.1")})
	})
	https := newSender(t, func(c *webhook.SenderConfig) { c.AllowHTTP = false })
	open := newSender(t, nil)
	proxied := &webhook.Route{Proxy: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}
	tests := []struct {
		name   string
		sender *webhook.Sender
		r      webhook.ValidationRequest
		want   string
	}{
		{"guard", guarded, webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "o"}, "options: 127.0.0.1 is loopback"},
		{"guard, proxied", guarded, webhook.ValidationRequest{URL: mustURL(t, "http://private.example/"), Origin: "o", Route: proxied}, "options: 127.0.0.1 is loopback"},
		{"proxy", open, webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "o", Route: proxied}, "options: proxy: dial 127.0.0.1:1: connection refused"},
		{"plain http", https, webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "o"}, "allow_http"},
		{"no url", open, webhook.ValidationRequest{Origin: "o"}, "no url"},
		{"no host", open, webhook.ValidationRequest{URL: &url.URL{Scheme: "http"}, Origin: "o"}, "no host"},
		{"no origin", open, webhook.ValidationRequest{URL: mustURL(t, srv.URL)}, "origin"},
		{"origin is none", open, webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "a\r\nb"}, "origin"},
		{"origin is anybody", open, webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "*"}, "origin"},
		{"rate", open, webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "o", Rate: -1}, "rate"},
		{"header", open, webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "o", Header: http.Header{"A": {"x\n"}}}, `header "A"`},
		{"route", open, webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "o", Route: &webhook.Route{ClientCert: &tls.Certificate{}}}, "client certificate"},
	}
	for _, tt := range tests {
		_, err := tt.sender.Validate(t.Context(), &tt.r)
		if err == nil || !strings.HasPrefix(err.Error(), "validate endpoint: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		var refused *webhook.RefusedError
		if strings.HasPrefix(tt.name, "guard") != errors.As(err, &refused) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests were sent", hits.Load())
	}
}

func TestValidateEnds(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(srv.Close)
	_, err := newSender(t, nil).Validate(t.Context(), &webhook.ValidationRequest{URL: mustURL(t, srv.URL), Origin: "o", Timeout: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "options: timed out") {
		t.Errorf("got %v", err)
	}
}

// TestValidateRoute: the handshake goes the way of the messages, with the endpoint's certificate and through its proxy.
func TestValidateRoute(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	srv := serveTLS(t, wantsClient(ca, tls.RequireAndVerifyClientCert), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WebHook-Allowed-Origin", "*")
	})
	proxy := newTestProxy(t, nil, srv.Listener.Addr().String())
	client := ca.issue(nil, "client")
	s := newSender(t, func(c *webhook.SenderConfig) { c.TLSConfig = ca.trusted() })
	r := &webhook.ValidationRequest{URL: mustURL(t, "https://127.0.0.1/"), Origin: "o", Route: &webhook.Route{Proxy: proxy.url, ClientCert: &client}}
	if _, err := s.Validate(t.Context(), r); err != nil {
		t.Error(err)
	}
	if seen := proxy.requests(); len(seen) != 1 || seen[0] != "CONNECT 127.0.0.1:443" {
		t.Errorf("the proxy saw %q", seen)
	}
}
