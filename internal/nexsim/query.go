package nexsim

import (
	"fmt"
	"net/url"
	"strconv"
	"time"
)

const restDefaultLimit, restMaxLimit = 20, 100

// query is what a REST request asks for.
type query struct {
	from, to time.Time // from <= created_at < to
	limit    int
}

// endOfTime is later than every insight: the value of a missing to.
var endOfTime = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// parseQuery reads the parameters of GET /v1/insights. Unknown ones are ignored.
func parseQuery(params url.Values, now time.Time) (query, error) {
	q := query{to: endOfTime, limit: restDefaultLimit}
	if v := params.Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return query{}, fmt.Errorf("invalid limit: must be a positive integer")
		}
		q.limit = min(n, restMaxLimit)
	}
	last, from, to := params.Get("last"), params.Get("from"), params.Get("to")
	if last != "" {
		if from != "" || to != "" {
			return query{}, fmt.Errorf("last cannot be combined with from or to")
		}
		window, err := parseLast(last)
		q.from = now.Add(-window)
		return q, err
	}
	var err error
	if q.from, err = parseTime("from", from, q.from); err != nil {
		return query{}, err
	}
	if q.to, err = parseTime("to", to, q.to); err != nil {
		return query{}, err
	}
	if q.from.After(q.to) {
		return query{}, fmt.Errorf("from must not be after to")
	}
	return q, nil
}

func parseTime(name, value string, missing time.Time) (time.Time, error) {
	if value == "" {
		return missing, nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return time.Time{}, fmt.Errorf("invalid %s: must be an RFC 3339 timestamp", name)
	}
	return t, nil
}

// parseLast reads a rolling window: a whole number of s, m, h or d, as in 30m, 2h, 1d.
func parseLast(v string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}
	const most = 100 * 365 * 24 * time.Hour
	if v != "" {
		unit, known := units[v[len(v)-1]]
		n, err := strconv.ParseUint(v[:len(v)-1], 10, 32)
		if known && err == nil && n > 0 && n <= uint64(most/unit) {
			return time.Duration(n) * unit, nil
		}
	}
	return 0, fmt.Errorf("invalid last: must be a window such as 30m, 2h or 1d")
}
