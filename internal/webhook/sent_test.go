package webhook_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

// What is to be recorded of a request is what was sent, without its secrets: those that arrive are compared with it.
func TestWhatIsRecordedIsWhatWasSent(t *testing.T) {
	t.Parallel()
	const secret = "sentinel-credential"
	arrived := make(chan http.Header, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.Header
		w.Header().Set("X-Request-Id", "r-1")
		w.Header().Set("Set-Cookie", "s="+secret)
		w.Header().Set("X-Echo", r.Header.Get("X-Tenant"))
		w.Header().Set("X-Url", strings.ReplaceAll(r.URL.RequestURI(), "-", "%2d"))
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte("you sent " + r.Header.Get("Authorization") + " and " + r.Header.Get("X-Tenant") + " to &lt;" +
			strings.ReplaceAll(r.URL.RequestURI(), "-", "&#45;")))
	})
	s := newSender(t, nil)
	r := request(t, srv.URL+"/hook?token="+secret)
	r.Sequence, r.Attempt = 42, 3
	r.Traceparent, r.Origin = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "relay.example"
	r.Header = http.Header{"Authorization": {"Bearer " + secret}, "x-tenant": {secret + "-2"}, "Webhook-Id": {"forged"}}
	got := s.Send(t.Context(), r)
	if got.Outcome != webhook.ClientError || got.Sent == nil {
		t.Fatalf("got %+v", got)
	}
	record, err := json.Marshal(got)
	if err != nil || strings.Contains(string(record), secret) {
		t.Errorf("a secret is kept: %s %v", record, err)
	}
	if string(got.Body) != "you sent [redacted] and [redacted] to &lt;/hook?token=[redacted]" || got.Header["x-url"] != webhook.Redacted || got.Header["x-request-id"] != "r-1" || got.Header["set-cookie"] != webhook.Redacted || got.Header["x-echo"] != webhook.Redacted {
		t.Errorf("answer %q, %v", got.Body, got.Header)
	}
	if got.Sent.URL != srv.URL+"/hook" || got.Sent.Size != len(r.Body) || got.Sent.Sum != webhook.BodySum(r.Body) {
		t.Errorf("%+v", got.Sent)
	}
	h := <-arrived
	at := h.Get("Webhook-Timestamp")
	got.Sent.Complete(r.ID, r.At, r.Sequence, r.Attempt)
	for name := range h {
		want := h.Get(name)
		switch name {
		case "Content-Length": // HTTP's own
			continue
		case "Authorization", "X-Tenant", "Webhook-Signature":
			want = webhook.Redacted
		case "Webhook-Timestamp":
			if at == "" {
				t.Error("no timestamp came")
			}
			continue
		}
		if shown := got.Sent.Headers[strings.ToLower(name)]; shown != want {
			t.Errorf("%s: %q is recorded, %q came", name, shown, want)
		}
	}
	for name := range got.Sent.Headers {
		if h.Get(name) == "" {
			t.Errorf("%s is recorded, and did not come", name)
		}
	}
	if none := s.Send(t.Context(), &webhook.Request{URL: r.URL, ID: "x"}); none.Sent != nil {
		t.Errorf("of a request without a secret: %+v", none.Sent)
	}
}
