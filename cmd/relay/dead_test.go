package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// dead retry asks on behind what was looked at until there is no more, also where a request has done nothing, and takes no letters
// that have come since it began.
func TestDeadRetryGoesOn(t *testing.T) {
	t.Parallel()
	answers := []string{
		`{"done":2,"skipped":1,"reasons":["3: gone: no such endpoint"],"more":true,"last":3}`,
		`{"done":0,"skipped":5,"more":true,"last":8}`,
		`{"done":1,"more":false,"last":9}`,
	}
	var asked []map[string]any
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.URL.Path != "/api/v1/dead-letters/retry" || len(asked) == len(answers) {
			t.Errorf("%s after %d: %v", r.URL, len(asked), err)
			w.WriteHeader(http.StatusTeapot)
			return
		}
		asked = append(asked, body)
		fmt.Fprint(w, answers[len(asked)-1])
	}))
	t.Cleanup(s.Close)
	code, out, errs := call(t, nil, "dead", "retry", "--all", "--relay", s.URL)
	if code != 0 || !strings.HasSuffix(out, "3 dead letters on the way again, 6 skipped\n") || !strings.Contains(errs, "3: gone: no such endpoint") {
		t.Errorf("%d\n%s\n%s", code, out, errs)
	}
	for i, after := range []any{nil, 3.0, 8.0} {
		if asked[i]["all"] != true || asked[i]["after"] != after || (asked[i]["to"] != nil) != (i > 0) {
			t.Errorf("request %d: %v", i, asked[i])
		}
	}
}
