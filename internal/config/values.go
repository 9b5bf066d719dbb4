package config

import (
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ByteSize is a number of bytes, written as 4MiB, 10GB or 1048576.
type ByteSize int64

// Binary units.
const (
	KiB ByteSize = 1 << 10
	MiB ByteSize = 1 << 20
	GiB ByteSize = 1 << 30
	TiB ByteSize = 1 << 40
)

var units = []struct {
	name string
	size float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

func parseByteSize(s string) (ByteSize, error) {
	number, factor := strings.TrimSpace(s), 1.0
	for _, u := range units {
		if rest, ok := cutSuffixFold(number, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.size
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && factor == 1 && n >= 0 {
		return ByteSize(n), nil
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(n) || n < 0 || n*factor > math.MaxInt64/2 || strings.ContainsAny(number, "xXpP_nN") {
		return 0, fmt.Errorf("%q is no size; write e.g. 4MiB, 10GiB or a number of bytes", s)
	}
	return ByteSize(n * factor), nil
}

func cutSuffixFold(s, suffix string) (string, bool) {
	if len(s) < len(suffix) || !strings.EqualFold(s[len(s)-len(suffix):], suffix) {
		return s, false
	}
	return s[:len(s)-len(suffix)], true
}

// String is the size in the largest unit that divides it.
func (b ByteSize) String() string {
	for _, u := range []struct {
		size ByteSize
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if b >= u.size && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

var dayForm = regexp.MustCompile(`^(\d{1,5})d`)

// ParseDuration is time.ParseDuration with leading days: 7d, 1d12h.
func ParseDuration(s string) (time.Duration, error) {
	text, days := strings.TrimSpace(s), time.Duration(0)
	if m := dayForm.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		days, text = time.Duration(n)*24*time.Hour, text[len(m[0]):]
		if text == "" {
			return days, nil
		}
		if text[0] == '-' || text[0] == '+' {
			return 0, fmt.Errorf("%q is no duration; write e.g. 5s, 5m, 2h, 7d", s)
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d > math.MaxInt64-days {
		return 0, fmt.Errorf("%q is no duration; write e.g. 5s, 5m, 2h, 7d", s)
	}
	return days + d, nil
}

// Secret is a text that does not print itself.
type Secret struct{ text string }

// NewSecret wraps a text.
func NewSecret(text string) Secret { return Secret{text} }

const redacted = "[redacted]"

// Reveal is the text, for the one place that needs it.
func (s Secret) Reveal() string { return s.text }

// IsSet tells whether there is one.
func (s Secret) IsSet() bool { return s.text != "" }

func (s Secret) String() string {
	if s.text == "" {
		return ""
	}
	return redacted
}

// GoString, Format, LogValue and MarshalText keep the text out of %#v, every other verb, slog and encoders.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format implements [fmt.Formatter].
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements [encoding.TextMarshaler].
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
