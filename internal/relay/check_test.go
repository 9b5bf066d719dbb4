package relay_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/relay"
	"github.com/nex-crm/relay/internal/webhook"
)

func TestCheckNamesHowAnEndpointIsReached(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	w.write("sign.key", webhook.GenerateSigningKey().Reveal())
	_, certPEM, keyPEM := newAuthority(t).issue("relay")
	w.write("client.pem", certPEM)
	w.write("client.key", keyPEM)
	w.settings = ", allow_proxies: [\"10.1.2.4:3128\"]"
	var endpoints strings.Builder
	for id, more := range map[string]string{
		"plain":  "secret_file: webhook.secret",
		"paused": "secret_file: webhook.secret, enabled: false, ordered: true",
		"full": "signing_key_file: sign.key, ordered: true, rate_limit: 90/m, filter: \"event.data.x == 1\", handshake: true," +
			" proxy: \"http://user:sentinel@127.0.0.1:3128\", client_cert_file: client.pem, client_key_file: client.key",
		"detour":    "secret_file: webhook.secret, proxy: \"http://user:sentinel@10.1.2.3\"",
		"permitted": "secret_file: webhook.secret, proxy: \"http://user:sentinel@10.1.2.4:3128\"",
	} {
		fmt.Fprintf(&endpoints, "  - {id: %s, url: \"http://127.0.0.1/x\", %s}\n", id, more)
	}
	w.configure([]string{"acme"}, endpoints.String())
	cfg, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]relay.Finding{}
	for _, f := range relay.Check(t.Context(), cfg, "test", patience) {
		if found[f.Name] = f; strings.Contains(f.Detail, "sentinel") {
			t.Errorf("a secret is shown: %+v", f)
		}
	}
	for id, want := range map[string]struct{ level, end string }{
		"plain":  {relay.LevelOK, "nothing sent"},
		"paused": {relay.LevelWarn, "paused (enabled: false): nothing is delivered, and it keeps its place in the log, strictly ordered"},
		"full": {relay.LevelOK, "nothing sent, strictly ordered, filtered, at most 1.5 attempts/s, asks the receiver first, signs with Ed25519," +
			" shows a client certificate, through the proxy 127.0.0.1:3128"},
		"detour":    {relay.LevelFault, "or 10.1.2.3:80 in webhooks.allow_proxies"},
		"permitted": {relay.LevelOK, "through the proxy 10.1.2.4:3128"},
	} {
		if f := found[id]; f.Level != want.level || !strings.HasSuffix(f.Detail, want.end) {
			t.Errorf("%s: %+v, want %+v", id, f, want)
		}
	}
}
