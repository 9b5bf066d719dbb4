package endpoint

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseRate reads attempts a second, written as 10, 10/s, 600/m or 100/h; empty and 0 are no limit.
func ParseRate(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(strings.TrimSpace(s), "/")
	seconds, ok := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[strings.TrimSpace(unit)]
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !ok || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return 0, fmt.Errorf("%q is no rate; write e.g. 10/s, 600/m, 100/h", s)
	}
	return n / seconds, nil
}
