package webhook_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

func mustPublicKey(t testing.TB, s string) webhook.PublicKey {
	t.Helper()
	key, err := webhook.ParsePublicKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	bare := strings.TrimPrefix(ed25519Public, "whpk_")
	tests := []struct {
		name, in string
		want     string // part of the error; empty: accepted
	}{
		{"vector", ed25519Public, ""},
		{"empty", "", "empty"},
		{"prefix alone", "whpk_", "has 0 bytes"},
		{"no prefix", bare, "begin with whpk_"},
		{"symmetric secret", vectorSecret, "is a secret"},
		{"private key", ed25519Secret, "is a secret"},
		{"31 bytes", "whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 31)), "has 31 bytes"},
		{"64 bytes", "whpk_" + strings.TrimPrefix(ed25519Secret, "whsk_"), "has 64 bytes"},
		{"zeros", "whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 32)), "zeros"},
		{"padding missing", strings.TrimRight(ed25519Public, "="), "padding"},
		{"URL-safe alphabet", "whpk_-" + bare[1:], "URL-safe"},
		{"line break at the end", ed25519Public + "\n", "white space"},
		{"bits beyond the end", ed25519Public[:len(ed25519Public)-2] + "5=", "no encoder"},
	}
	for _, tt := range tests {
		key, err := webhook.ParsePublicKey(tt.in)
		if tt.want == "" {
			if err != nil || key.String() != tt.in {
				t.Errorf("%s: got %s, %v", tt.name, key, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !key.IsZero() {
			t.Errorf("%s: got %s, %v, want an error with %q", tt.name, key, err, tt.want)
		}
		if err != nil && len(tt.in) > 14 && strings.Contains(err.Error(), tt.in[8:14]) {
			t.Errorf("%s: error %q quotes the value", tt.name, err)
		}
	}
}

// TestKeyID computes the example of RFC 8037, appendix A.3, from the key of its appendix A.1.
func TestKeyID(t *testing.T) {
	t.Parallel()
	raw, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if err != nil {
		t.Fatal(err)
	}
	if got := webhook.PublicKey(raw).KeyID(); got != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("got %s", got)
	}
	seed, err := base64.RawURLEncoding.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
	if err != nil {
		t.Fatal(err)
	}
	if got := mustSecret(t, "whsk_"+base64.StdEncoding.EncodeToString(seed)).Public(); got != webhook.PublicKey(raw) {
		t.Errorf("the private key of appendix A.1 gives %s", got)
	}
	var zero webhook.PublicKey
	if zero.KeyID() != "" || zero.String() != "" || !zero.IsZero() {
		t.Error("the zero PublicKey is something")
	}
}

func TestPublicKeyShows(t *testing.T) {
	t.Parallel()
	key := mustPublicKey(t, ed25519Public)
	b, err := json.Marshal(map[string]any{"k": key})
	if err != nil || string(b) != `{"k":"`+ed25519Public+`"}` {
		t.Errorf("got %s, %v", b, err)
	}
	if got := fmt.Sprintf("%v %s", key, key); got != ed25519Public+" "+ed25519Public {
		t.Errorf("got %s", got)
	}
}

func FuzzParsePublicKey(f *testing.F) {
	for _, s := range []string{"", "whpk_", ed25519Public, ed25519Secret, vectorSecret, "whpk_====", ed25519Public + " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		key, err := webhook.ParsePublicKey(in)
		if err != nil {
			if !key.IsZero() {
				t.Fatal("a key beside an error")
			}
			if len(in) > 14 && strings.Contains(err.Error(), in[6:]) {
				t.Fatalf("error %q quotes the value", err)
			}
			return
		}
		if key.String() != in || len(key.KeyID()) != 43 {
			t.Fatalf("%q is accepted but reads back as %q", in, key)
		}
	})
}
