package webhook_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/nex-crm/relay/internal/webhook"
)

// The signature of the Standard Webhooks specification's example ("Webhook headers"), with the key that Svix's server signs it
// with in its own tests and its documentation. Message, time and body are those of the symmetric vector.
const (
	ed25519Secret    = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
	ed25519Seed      = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc="
	ed25519Public    = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
	ed25519Signature = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
)

func TestSignEd25519(t *testing.T) {
	t.Parallel()
	key, hmac, other := mustSecret(t, ed25519Secret), mustSecret(t, vectorSecret), webhook.GenerateSigningKey()
	at := time.Unix(vectorTime, 999_999_999)
	otherSignature := webhook.Sign(vectorID, at, []byte(vectorBody), other)
	tests := []struct {
		name    string
		secrets []webhook.Secret
		want    string
	}{
		{"vector", []webhook.Secret{key}, ed25519Signature},
		{"from the seed", []webhook.Secret{mustSecret(t, ed25519Seed)}, ed25519Signature},
		{"both kinds", []webhook.Secret{key, hmac}, ed25519Signature + " " + vectorSignature},
		{"both kinds, other way round", []webhook.Secret{hmac, key}, vectorSignature + " " + ed25519Signature},
		{"rotation", []webhook.Secret{other, {}, key, hmac}, otherSignature + " " + ed25519Signature + " " + vectorSignature},
	}
	for _, tt := range tests {
		if got := webhook.Sign(vectorID, at, []byte(vectorBody), tt.secrets...); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestSignEd25519ByHand checks the signature as a receiver without this package does: with crypto/ed25519 and the text that the
// specification names.
func TestSignEd25519ByHand(t *testing.T) {
	t.Parallel()
	key, previous := webhook.GenerateSigningKey(), webhook.GenerateSecret()
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key.Public().String(), "whpk_"))
	if err != nil {
		t.Fatal(err)
	}
	reference, err := standardwebhooks.NewWebhook(previous.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range [][]byte{nil, []byte(vectorBody), bytes.Repeat([]byte("ä"), 100_000), {0, 0xff}} {
		h, at := http.Header{}, time.Now()
		webhook.SetHeaders(h, "evt_1", at, body, key, previous)
		first, _, _ := strings.Cut(h.Get("webhook-signature"), " ")
		signature, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(first, "v1a,"))
		if err != nil {
			t.Fatal(err)
		}
		if !ed25519.Verify(raw, fmt.Appendf(nil, "evt_1.%d.%s", at.Unix(), body), signature) {
			t.Errorf("body of %d bytes: the signature does not fit", len(body))
		}
		if err := reference.Verify(body, h); err != nil {
			t.Errorf("body of %d bytes: beside v1a the reference library refuses v1: %v", len(body), err)
		}
	}
}

func TestVerifyEd25519(t *testing.T) {
	t.Parallel()
	key, hmac := mustSecret(t, ed25519Secret), mustSecret(t, vectorSecret)
	// A symmetric secret of the same bytes as the public key, which everybody knows, and what it signs as v1.
	public := mustPublicKey(t, ed25519Public)
	known := mustSecret(t, "whsec_"+strings.TrimPrefix(ed25519Public, "whpk_"))
	forged := webhook.Sign(vectorID, time.Unix(vectorTime, 0), []byte(vectorBody), known)
	bare := strings.TrimPrefix(ed25519Signature, "v1a,")
	tests := []struct {
		name      string
		signature string
		secrets   []webhook.Secret
		keys      []webhook.PublicKey
		body      string
		genuine   bool
	}{
		{name: "vector", genuine: true},
		{name: "private key", secrets: []webhook.Secret{key}, keys: []webhook.PublicKey{}, genuine: true},
		{name: "other body", body: vectorBody + " "},
		{name: "second key", keys: []webhook.PublicKey{webhook.GenerateSigningKey().Public(), public}, genuine: true},
		{name: "other key", keys: []webhook.PublicKey{webhook.GenerateSigningKey().Public()}},
		{name: "zero key", keys: []webhook.PublicKey{{}}},
		{name: "no key", keys: []webhook.PublicKey{}},
		{name: "symmetric secret", secrets: []webhook.Secret{hmac}, keys: []webhook.PublicKey{}},
		{name: "among others", signature: "v1,AAAA v1a,BBBB " + vectorSignature + " v1a," + strings.Repeat("A", 88) + " " + ed25519Signature, genuine: true},
		{name: "v1a sent as v1", signature: "v1," + bare},
		{name: "v1 by the public key", signature: forged},
		{name: "v1 by the public key, sent as v1a", signature: "v1a," + strings.TrimPrefix(forged, "v1,")},
		{name: "v1 by the public key, both given", signature: forged, secrets: []webhook.Secret{hmac}},
		{name: "v1 by the public key, private key given", signature: forged, secrets: []webhook.Secret{key}},
		{name: "other version", signature: "v2a," + bare},
		{name: "version in capitals", signature: "V1A," + bare},
		{name: "no version", signature: bare},
		{name: "cut off", signature: ed25519Signature[:len(ed25519Signature)-1]},
		{name: "no padding", signature: strings.TrimRight(ed25519Signature, "=")},
		{name: "bits beyond the end", signature: ed25519Signature[:len(ed25519Signature)-3] + "h=="},
		{name: "65 bytes", signature: "v1a," + strings.TrimRight(bare, "=") + "AA"},
		{name: "empty", signature: "v1a,"},
		{name: "sixteenth", signature: strings.Repeat("v1a,"+strings.Repeat("A", 86)+"== ", 15) + ed25519Signature, genuine: true},
		{name: "beyond the bound", signature: strings.Repeat("v1a,"+strings.Repeat("A", 86)+"== ", 16) + ed25519Signature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.signature == "" {
				tt.signature = ed25519Signature
			}
			if tt.keys == nil {
				tt.keys = []webhook.PublicKey{public}
			}
			body := vectorBody
			if tt.body != "" {
				body = tt.body
			}
			v := webhook.Verifier{Secrets: tt.secrets, PublicKeys: tt.keys, Now: func() time.Time { return time.Unix(vectorTime, 0) }}
			err := v.Verify(signedHeader(vectorID, strconv.Itoa(vectorTime), tt.signature), []byte(body))
			if (err == nil) != tt.genuine || (err != nil && !errors.Is(err, webhook.ErrNoMatchingSignature)) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// FuzzVerifyEd25519 feeds headers as any stranger may send them.
func FuzzVerifyEd25519(f *testing.F) {
	f.Add(vectorID, "1614265330", ed25519Signature, []byte(vectorBody))
	f.Add("a", "1614265330", "v1a, v1a,, v1a,====", []byte{})
	v := webhook.Verifier{
		PublicKeys: []webhook.PublicKey{webhook.GenerateSigningKey().Public()},
		Now:        func() time.Time { return time.Unix(vectorTime, 0) },
	}
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		if err := v.Verify(signedHeader(id, timestamp, signature), body); err == nil {
			t.Fatal("a stranger's message is accepted")
		}
	})
}

func BenchmarkSignEd25519(b *testing.B) {
	body, at, s := bytes.Repeat([]byte("x"), 1024), time.Unix(vectorTime, 0), webhook.GenerateSigningKey()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if webhook.Sign(vectorID, at, body, s) == "" {
			b.Fatal("no signature")
		}
	}
}

func BenchmarkVerifyEd25519(b *testing.B) {
	body, at, s := bytes.Repeat([]byte("x"), 1024), time.Now(), webhook.GenerateSigningKey()
	h := http.Header{}
	webhook.SetHeaders(h, vectorID, at, body, s)
	v := webhook.Verifier{PublicKeys: []webhook.PublicKey{s.Public()}}
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Verify(h, body); err != nil {
			b.Fatal(err)
		}
	}
}
