package endpoint_test

import (
	"testing"

	"github.com/nex-crm/relay/internal/endpoint"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"": 0, "10": 10, "10/s": 10, "600/m": 10, "36000/h": 10, "0.5/s": 0.5, " 5 / s ": 5, "0": 0} {
		if got, err := endpoint.ParseRate(text); err != nil || got != want {
			t.Errorf("%q is %v a second (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"s", "10/d", "-1/s", "NaN", "Inf/s", "1/s/s", "fast"} {
		if got, err := endpoint.ParseRate(text); err == nil {
			t.Errorf("%q is %v a second", text, got)
		}
	}
}
