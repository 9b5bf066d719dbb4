package fanout_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/nex-crm/relay/internal/endpoint"
)

// Each form arrives as its receiver wants it, signed over what it is before it is compressed, by tests too.
func TestForms(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		kind, template string
		gzip           bool
		contentType    string
		header         map[string]string
		ok             func(body map[string]any) bool
	}{
		"structured":             {contentType: "application/cloudevents+json", ok: func(b map[string]any) bool { return b["id"] == "x" && b["data"] != nil }},
		"structured, compressed": {gzip: true, contentType: "application/cloudevents+json", ok: func(b map[string]any) bool { return b["id"] == "x" && b["data"] != nil }},
		"binary": {kind: "binary", contentType: "application/json", header: map[string]string{"ce-id": "x", "ce-type": "nex.insight.risk", "ce-source": "/nex/workspaces/acme"},
			ok: func(b map[string]any) bool { return b["content"] == "c<" && b["id"] == nil }},
		"thin": {kind: "thin", contentType: "application/cloudevents+json", ok: func(b map[string]any) bool { return b["id"] == "x" && b["data"] == nil && b["sequence"] != nil }},
		"template": {kind: "template", template: `{"text":{{json .data.content}},"n":{{.relay.sequence}}}`, gzip: true, contentType: "application/json",
			ok: func(b map[string]any) bool { return b["text"] == "c<" && b["n"] == 1.0 }},
		"slack": {kind: "slack", contentType: "application/json", ok: func(b map[string]any) bool { return b["text"] != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, quick)
			type call struct {
				header http.Header
				sent   []byte
			}
			calls := make(chan call, 10)
			r := newReceiver(t, func(_ int, _ http.ResponseWriter, req *http.Request, body []byte) { calls <- call{req.Header, body} })
			form, err := endpoint.NewForm(tt.kind, tt.template, "", tt.gzip)
			if err != nil {
				t.Fatal(err)
			}
			b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Form: form})
			b.put("x", "nex.insight.risk", `{"type":"risk","content":"c<"}`)
			var got call
			select {
			case got = <-calls:
			case <-time.After(patience):
				t.Fatal("nothing came")
			}
			body := got.sent
			if tt.gzip {
				zip, err := gzip.NewReader(strings.NewReader(string(got.sent)))
				if err != nil {
					t.Fatal(err)
				}
				if body, err = io.ReadAll(zip); err != nil {
					t.Fatal(err)
				}
			}
			if encoding := got.header.Get("Content-Encoding"); (encoding == "gzip") != tt.gzip {
				t.Errorf("encoding %q", encoding)
			}
			verifier, err := standardwebhooks.NewWebhook(b.secret.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			if err := verifier.Verify(body, got.header); err != nil {
				t.Errorf("signature: %v", err)
			}
			var value map[string]any
			if err := json.Unmarshal(body, &value); err != nil || !tt.ok(value) || got.header.Get("Content-Type") != tt.contentType {
				t.Errorf("%s %s: %v", got.header.Get("Content-Type"), body, err)
			}
			for key, want := range tt.header {
				if got.header.Get(key) != want {
					t.Errorf("%s: %q, want %q", key, got.header.Get(key), want)
				}
			}
		})
	}
}

// An event that a template makes nothing valid of is a failed attempt, with the reason.
func TestFormThatFails(t *testing.T) {
	t.Parallel()
	b := setup(t, stubborn)
	r := newReceiver(t, nil)
	form, err := endpoint.NewForm("template", `{"n": {{.data.n}} }`, "", false)
	if err != nil {
		t.Fatal(err)
	}
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL, Form: form})
	a, err := b.relay.Test(t.Context(), b.registry.Snapshot().Get("crm"))
	if err != nil || a.Outcome != "invalid_request" || !strings.Contains(a.Error, "template") {
		t.Errorf("%+v %v", a, err)
	}
	b.put("bad", "nex.insight.risk", `{}`)
	b.put("good", "nex.insight.risk", `{"n":1}`)
	r.await(t, 1)
	if err := b.registry.Change(t.Context(), "crm", func(e *endpoint.Endpoint) (bool, error) { // its owner mends it
		e.Form = nil
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	r.hasAll(t, []string{"bad", "good"}, 0)
}
