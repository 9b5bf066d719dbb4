package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

// What a receiver answers stands in JSON that goes to a terminal: it does not steer that, and the JSON says the same.
func TestJSONSteersNoTerminal(t *testing.T) {
	t.Parallel()
	const one = "{\"outcome\":\"http_5xx\",\"id\":1,\"response\":\"\\u001b[31m \u009b31m \u0085 \x7f ä€😀 \\u009b \\n\"}"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/api/v1/attempts" {
			fmt.Fprintf(w, `{"data":[%s]}`, one)
			return
		}
		fmt.Fprint(w, one)
	}))
	t.Cleanup(s.Close)
	var want any
	if err := json.Unmarshal([]byte(one), &want); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"endpoints", "test", "crm"}, {"endpoints", "test", "crm", "--json"}, {"endpoints", "show", "crm"},
		{"deliveries", "list", "--json"}, {"deliveries", "show", "1", "--json"},
	} {
		_, out, _ := call(t, nil, append(args, "--relay", s.URL)...)
		if i := strings.IndexFunc(strings.ReplaceAll(out, "\n", ""), unicode.IsControl); i >= 0 || !strings.Contains(out, "ä€😀") {
			t.Errorf("%v: %q", args, out)
		}
		var got any
		if err := json.Unmarshal([]byte(out), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v says otherwise: %v, %v", args, got, err)
		}
	}
	// An answer that is no JSON, as of something else that listens there.
	if got := string(tame([]byte("\x1b]0;x\x07 \x9b31m\tä"))); got != `\u001b]0;x\u0007 `+"\uFFFD31m\tä" {
		t.Errorf("%q", got)
	}
}
