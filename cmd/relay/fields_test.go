package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/api"
)

// What is no field is told by its place: it may be a secret that somebody has forgotten the key of.
func TestFieldsDoNotQuoteSecrets(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"whsec_sentinel", "whsec_sentinel3=", "whsec_sentinel=", "whsk_c2VudGlu/+ZWw==", "sk-sentinel", "whsec_"} {
		code, _, errs := call(t, nil, "endpoints", "create", "id=a", secret, "--relay", "http://127.0.0.1:1")
		if code != exitUsage || strings.Contains(errs, "sentinel") || strings.Contains(errs, "c2Vu") || !strings.Contains(errs, "field 2 of 2 is no KEY=VALUE") {
			t.Errorf("%s: exit %d %s", secret, code, errs)
		}
	}
	for arg, want := range map[string]string{"rate-limit=1": "field 1 of 1", "ratelimit=1": "ratelimit: no such field", "headers=1": "headers: no such field"} {
		if _, err := fields(reflect.TypeFor[api.NewEndpoint](), []string{arg}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}
