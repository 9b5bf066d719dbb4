package webhook_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

func TestKeySet(t *testing.T) {
	t.Parallel()
	raw, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo") // RFC 8037, appendix A
	if err != nil {
		t.Fatal(err)
	}
	rfc, vector := webhook.PublicKey(raw), mustPublicKey(t, ed25519Public)
	const rfcJSON = `{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",` +
		`"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","whpk":"whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}`
	tests := []struct {
		name string
		keys []webhook.PublicKey
		want string
	}{
		{"none", nil, `{"keys":[]}`},
		{"zero", []webhook.PublicKey{{}}, `{"keys":[]}`},
		{"one", []webhook.PublicKey{rfc}, `{"keys":[` + rfcJSON + `]}`},
		{"twice, and a zero", []webhook.PublicKey{rfc, {}, rfc}, `{"keys":[` + rfcJSON + `]}`},
	}
	for _, tt := range tests {
		got, err := json.Marshal(webhook.NewKeySet(tt.keys))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: got %s, %v\nwant %s", tt.name, got, err, tt.want)
		}
	}

	keys := []webhook.PublicKey{vector, rfc, webhook.GenerateSigningKey().Public(), vector, webhook.GenerateSigningKey().Public()}
	a := webhook.NewKeySet(keys)
	slices.Reverse(keys)
	b := webhook.NewKeySet(keys)
	sorted := slices.IsSortedFunc(a.Keys, func(x, y webhook.JWK) int { return strings.Compare(x.ID, y.ID) })
	if len(a.Keys) != 4 || !slices.Equal(a.Keys, b.Keys) || !sorted {
		t.Errorf("got %v and %v", a, b)
	}
}

// TestKeySetVerifies goes the way of a receiver that knows JSON Web Keys only: from the document to a verified signature.
func TestKeySetVerifies(t *testing.T) {
	t.Parallel()
	secret := webhook.GenerateSigningKey()
	document, err := json.Marshal(webhook.NewKeySet([]webhook.PublicKey{secret.Public()}))
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []struct{ X string } }
	if err := json.Unmarshal(document, &set); err != nil {
		t.Fatal(err)
	}
	x, err := base64.RawURLEncoding.DecodeString(set.Keys[0].X)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := base64.StdEncoding.DecodeString(webhook.Sign("evt_1", time.Unix(1, 0), []byte("body"), secret)[len("v1a,"):])
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(x, []byte("evt_1.1.body"), signature) {
		t.Error("the key of the document does not verify")
	}
}
