package webhook_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

func encoded(n int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, n))
}

func mustSecret(t testing.TB, s string) webhook.Secret {
	t.Helper()
	secret, err := webhook.ParseSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestParseSecret(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		want     string // part of the error; empty: accepted
	}{
		{"specification example", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ""},
		{"24 bytes", encoded(24), ""},
		{"25 bytes, padded", encoded(25), ""},
		{"64 bytes", encoded(64), ""},
		{"empty", "", "empty"},
		{"23 bytes", encoded(23), "has 23 bytes"},
		{"65 bytes", encoded(65), "has 65 bytes"},
		{"prefix alone", "whsec_", "has 0 bytes"},
		{"no prefix", strings.TrimPrefix(encoded(32), "whsec_"), "begin with whsec_"},
		{"prefix in capitals", "WHSEC_" + strings.TrimPrefix(encoded(32), "whsec_"), "begin with whsec_"},
		{"Ed25519 private key", ed25519Secret, ""},
		{"Ed25519 public key", ed25519Public, "public half"},
		{"Ed25519 key with another public half", "whsk_" + strings.TrimPrefix(encoded(64), "whsec_"), "public half that is not its own"},
		{"Ed25519 key of 31 bytes", "whsk_" + strings.TrimPrefix(encoded(31), "whsec_"), "has 31 bytes"},
		{"Ed25519 key of 63 bytes", "whsk_" + strings.TrimPrefix(encoded(63), "whsec_"), "has 63 bytes"},
		{"Ed25519 prefix alone", "whsk_", "has 0 bytes"},
		{"Ed25519 key cut off", ed25519Secret[:50], "cut off"},
		{"Ed25519 key, line break at the end", ed25519Secret + "\n", "white space"},
		{"Ed25519 key, URL-safe", strings.ReplaceAll(ed25519Secret, "/", "_"), "URL-safe"},
		{"line break at the end", encoded(32) + "\n", "white space"},
		{"line break inside", encoded(24)[:12] + "\n" + encoded(24)[12:], "white space"},
		{"padding missing", strings.TrimRight(encoded(25), "="), "padding"},
		{"URL-safe alphabet", strings.ReplaceAll(encoded(24), "+", "-"), "URL-safe"},
		{"foreign sign", "whsec_" + strings.Repeat("*", 32), "not base64"},
		{"padding in the middle", "whsec_AAA=" + strings.Repeat("A", 32), "no encoder"},
		{"bits beyond the end", "whsec_" + strings.Repeat("A", 34) + "B=", "no encoder"},
		{"placeholder", webhook.Secret{}.String(), "not base64"},
		{"placeholder of a private key", webhook.GenerateSigningKey().String(), "not base64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := webhook.ParseSecret(tt.in)
			if tt.want == "" {
				if err != nil || s.Reveal() != tt.in {
					t.Fatalf("got %q, %v", s.Reveal(), err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want one with %q", err, tt.want)
			}
			if !s.IsZero() {
				t.Fatal("a secret beside an error")
			}
			if len(tt.in) > 12 && strings.Contains(err.Error(), tt.in[8:12]) {
				t.Fatalf("error %q quotes the value", err)
			}
		})
	}
}

func TestGenerateSecret(t *testing.T) {
	t.Parallel()
	a, b := webhook.GenerateSecret(), webhook.GenerateSecret()
	if a.Equal(b) || a.Reveal() == b.Reveal() {
		t.Fatal("two generated secrets are equal")
	}
	if !mustSecret(t, a.Reveal()).Equal(a) || a.Scheme() != webhook.SchemeHMAC || a.Public() != (webhook.PublicKey{}) {
		t.Fatal("a generated secret does not survive Reveal and ParseSecret")
	}
}

func TestGenerateSigningKey(t *testing.T) {
	t.Parallel()
	a, b := webhook.GenerateSigningKey(), webhook.GenerateSigningKey()
	if a.Equal(b) || a.Public() == b.Public() || a.Public().IsZero() {
		t.Fatal("two generated keys are equal")
	}
	if again := mustSecret(t, a.Reveal()); !again.Equal(a) || again.Public() != a.Public() || a.Scheme() != webhook.SchemeEd25519 {
		t.Fatal("a generated key does not survive Reveal and ParseSecret")
	}
}

// TestParseSeed: the seed alone gives the same key as seed and public half.
func TestParseSeed(t *testing.T) {
	t.Parallel()
	seed := mustSecret(t, ed25519Seed)
	if seed.Reveal() != ed25519Secret || !seed.Equal(mustSecret(t, ed25519Secret)) || seed.Public().String() != ed25519Public {
		t.Fatalf("got public key %s", seed.Public())
	}
}

func TestSecretEqual(t *testing.T) {
	t.Parallel()
	a, same, b := mustSecret(t, encoded(24)), mustSecret(t, encoded(24)), mustSecret(t, encoded(25))
	var zero webhook.Secret
	if !a.Equal(same) || a.Equal(b) || a.Equal(zero) || zero.Equal(a) || !zero.Equal(zero) {
		t.Fatal("Equal does not follow the bytes")
	}
	if zero.Reveal() != "" || !zero.IsZero() || a.IsZero() || zero.Scheme() != "" || !zero.Public().IsZero() {
		t.Fatal("the zero Secret holds something")
	}
	// The same bytes as a symmetric secret and as a private key are two secrets.
	private := mustSecret(t, ed25519Secret)
	symmetric := mustSecret(t, "whsec_"+strings.TrimPrefix(ed25519Secret, "whsk_"))
	if private.Equal(symmetric) || symmetric.Equal(private) || private.Equal(zero) {
		t.Fatal("Equal does not follow the kind")
	}
}

// TestSecretNeverShows prints a secret of either kind in every way that a careless line of code may choose.
func TestSecretNeverShows(t *testing.T) {
	t.Parallel()
	for value, placeholder := range map[string]string{
		vectorSecret:  "whsec_[redacted]",
		ed25519Secret: "whsk_[redacted]",
	} {
		s := mustSecret(t, value)
		_, encoded, _ := strings.Cut(value, "_")
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		shown := showSecret(t, s)
		if !strings.Contains(shown, placeholder) {
			t.Errorf("no placeholder %s printed", placeholder)
		}
		for name, leak := range map[string]string{
			"base64": encoded[:8], "bytes": string(raw[:6]), "hex": fmt.Sprintf("%x", raw[:6]), "HEX": fmt.Sprintf("%X", raw[:6]),
			"numbers": strings.Trim(fmt.Sprint(raw[:6]), "[]"), "Go syntax": strings.Trim(fmt.Sprintf("%#v", raw[:4]), "[]byte{}"),
		} {
			if strings.Contains(shown, leak) {
				t.Errorf("%s shows as %s", placeholder, name)
			}
		}
	}
}

func showSecret(t *testing.T, s webhook.Secret) string {
	hidden := struct{ secret webhook.Secret }{s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%c", "%t", "%p", "%w", "%e"} {
		for _, v := range []any{s, &s, []webhook.Secret{s}, map[string]webhook.Secret{"k": s}, hidden, &hidden} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "secret", s, "in", hidden, "list", []webhook.Secret{s})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "secret", s, "in", hidden, "list", []webhook.Secret{s})
	for _, v := range []any{s, &s, map[string]any{"s": s}, struct{ Secret webhook.Secret }{s}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	text, err := s.MarshalText()
	if err != nil || string(text) != s.String() || s.GoString() != s.String() {
		t.Errorf("placeholders differ: %q, %q, %v", text, s.String(), err)
	}
	return out.String()
}

func FuzzParseSecret(f *testing.F) {
	for _, s := range []string{"", "whsec_", encoded(24), encoded(25), encoded(65), "whsk_AAAA", ed25519Secret, ed25519Seed, ed25519Public, "whsec_\n", "whsec_====", encoded(26)[:40]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := webhook.ParseSecret(in)
		if err != nil {
			if !s.IsZero() {
				t.Fatal("a secret beside an error")
			}
			if len(in) > 40 && strings.Contains(err.Error(), in[6:]) {
				t.Fatalf("error %q quotes the value", err)
			}
			return
		}
		if s.Scheme() == webhook.SchemeEd25519 {
			if !strings.HasPrefix(s.Reveal(), in[:46]) || len(s.Reveal()) != len(ed25519Secret) { // what the seed fills alone
				t.Fatalf("%q is accepted but reads back as %q", in, s.Reveal())
			}
			return
		}
		if s.Reveal() != in {
			t.Fatalf("%q is accepted but reads back as %q", in, s.Reveal())
		}
		if n := base64.StdEncoding.DecodedLen(len(in) - len("whsec_")); n < webhook.MinSecretBytes || n > webhook.MaxSecretBytes+2 {
			t.Fatalf("%q with about %d bytes is accepted", in, n)
		}
	})
}
