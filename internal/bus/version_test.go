package bus

import (
	"errors"
	"testing"
)

func TestCheckVersion(t *testing.T) {
	t.Parallel()
	for v, ok := range map[string]bool{
		"2.12.0": true, "2.15.2": true, "2.12.0-preview.1": true, "3.0.1": true, "2.100.0": true,
		"2.11.9": false, "1.99.0": false, "2.2.12": false, "": false, "dev": false,
	} {
		if err := checkVersion(v); (err == nil) != ok || err != nil && !errors.Is(err, ErrServerTooOld) {
			t.Errorf("%q: %v", v, err)
		}
	}
}
