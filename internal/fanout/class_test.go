package fanout_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// The metric and the news of a dead letter say of which class it is, and whose fault.
func TestDeadLettersCarryTheirClass(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0}})
	end := make(chan struct{})
	answers := func(status int) string {
		return newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(status) }).URL
	}
	hangs := newReceiver(t, func(int, http.ResponseWriter, *http.Request, []byte) { <-end })
	t.Cleanup(func() { close(end) })
	speaksNoTLS := "https" + answers(200)[len("http"):]
	broken, err := endpoint.NewForm("template", "{{.id}} is no JSON", "", false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		class webhook.Class
		fault string
	}{
		"a4xx": {webhook.Class4xx, "receiver"}, "a5xx": {webhook.Class5xx, "receiver"}, "a3xx": {webhook.Class3xx, "receiver"}, "hangs": {webhook.ClassTimeout, "receiver"},
		"nobody": {webhook.ClassDial, "receiver"}, "no-tls": {webhook.ClassTLS, "receiver"},
		"refused": {webhook.ClassRefused, "relay"}, "template": {webhook.ClassRelay, "relay"},
	}
	b.endpoints(
		&endpoint.Endpoint{ID: "a4xx", URL: answers(404)}, &endpoint.Endpoint{ID: "a5xx", URL: answers(500)}, &endpoint.Endpoint{ID: "a3xx", URL: answers(302)},
		&endpoint.Endpoint{ID: "hangs", URL: hangs.URL, Timeout: 100 * time.Millisecond}, &endpoint.Endpoint{ID: "nobody", URL: "http://127.0.0.1:1"},
		&endpoint.Endpoint{ID: "no-tls", URL: speaksNoTLS},
		&endpoint.Endpoint{ID: "refused", URL: "https://10.0.0.1"}, &endpoint.Endpoint{ID: "template", URL: answers(200), Form: broken},
	)
	b.publish("x", 1)
	news := b.reader(bus.StreamNex, "nex._.relay.endpoint.dead_letter")
	for range want {
		var e struct {
			Data struct{ Endpoint, Class, Fault string }
		}
		if err := json.Unmarshal(news().Data(), &e); err != nil {
			t.Fatal(err)
		}
		if w := want[e.Data.Endpoint]; e.Data.Class != string(w.class) || e.Data.Fault != w.fault {
			t.Errorf("%+v, want %+v", e.Data, w)
		}
	}
	families, err := b.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "relay_dead_letters_total" {
			continue
		}
		if len(f.GetMetric()) != len(webhook.Classes()) {
			t.Errorf("%d classes are shown", len(f.GetMetric()))
		}
		for _, m := range f.GetMetric() {
			class, n := webhook.Class(m.GetLabel()[0].GetValue()), 0.0
			for _, w := range want {
				if w.class == class {
					n = 1
				}
			}
			if m.GetCounter().GetValue() != n {
				t.Errorf("%s: %v, want %v", class, m.GetCounter().GetValue(), n)
			}
		}
	}
}
