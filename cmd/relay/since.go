package main

import (
	"fmt"
	"net/url"
	"time"

	"github.com/nex-crm/relay/internal/config"
)

// since is a point in time as an age or as a time.
type since struct{ time.Time }

// UnmarshalText reads 90m, 7d, or 2026-02-05T10:30:00Z.
func (s *since) UnmarshalText(text []byte) error {
	if age, err := config.ParseDuration(string(text)); err == nil {
		if age < 0 {
			return fmt.Errorf("%q: an age is positive, e.g. 2h", text)
		}
		s.Time = time.Now().Add(-age)
		return nil
	}
	t, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return fmt.Errorf("%q: write an age, e.g. 2h or 7d, or a time, e.g. 2026-02-05T10:30:00Z", text)
	}
	s.Time = t
	return nil
}

func (s since) put(query url.Values, key string) {
	if !s.IsZero() {
		query.Set(key, s.UTC().Format(time.RFC3339Nano))
	}
}

func (s since) pointer() *time.Time {
	if s.IsZero() {
		return nil
	}
	return &s.Time
}

// inOrder refuses a part of time that holds nothing.
func inOrder(from, to since) error {
	if !from.IsZero() && !to.IsZero() && !from.Before(to.Time) {
		return usageError{fmt.Errorf("--since %s is not before --until %s: nothing is between them", from.Format(time.RFC3339), to.Format(time.RFC3339))}
	}
	return nil
}

// age is a duration as the configuration takes it, with days.
type age time.Duration

// UnmarshalText reads 90m or 7d.
func (a *age) UnmarshalText(text []byte) error {
	d, err := config.ParseDuration(string(text))
	*a = age(d)
	return err
}
