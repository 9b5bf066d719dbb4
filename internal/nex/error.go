package nex

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Error is an answer of Nex's other than the one asked for.
type Error struct {
	Status  int    // HTTP status
	Code    int    // Nex's own code, usually the status; 0 if the body was not Nex's
	Message string // at most 300 bytes, printable
	// RetryAfter is what the answer asks to wait, if HasRetryAfter.
	RetryAfter    time.Duration
	HasRetryAfter bool
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("Nex answered %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("Nex answered %d: %s", e.Status, e.Message)
}

// Unauthorized tells whether the key is refused (401) or lacks the scope (403): trying again soon does not help.
func (e *Error) Unauthorized() bool {
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
}

// Temporary tells whether the same request may succeed later.
func (e *Error) Temporary() bool {
	return e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout || e.Status >= 500
}

// Throttled tells whether Nex answered that there were too many requests, whatever they asked for.
func (e *Error) Throttled() bool { return e.Status == http.StatusTooManyRequests }

const (
	maxErrorBody    = 16 << 10
	maxErrorMessage = 300
	// maxRetryAfter keeps a nonsense date from overflowing; callers have lower bounds of their own.
	maxRetryAfter = 30 * 24 * time.Hour
)

// readError makes an error of an answer. A body that is not Nex's, such as a proxy's HTML page, is left out.
func readError(resp *http.Response, now time.Time) *Error {
	e := &Error{Status: resp.StatusCode}
	e.RetryAfter, e.HasRetryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), now)
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var body struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err == nil && json.Unmarshal(content, &body) == nil {
		e.Code, e.Message = body.Code, printable(body.Message)
	}
	return e
}

// parseRetryAfter reads seconds or an HTTP date (RFC 9110, section 10.2.3). A date in the past is no wait.
func parseRetryAfter(v string, now time.Time) (time.Duration, bool) {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0, false
	}
	if strings.Trim(v, "0123456789") == "" {
		seconds, err := strconv.ParseInt(v, 10, 64)
		if err != nil || seconds > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), maxRetryAfter), true
}

// printable cuts a foreign text and takes control characters out of it.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxErrorMessage {
		s = strings.ToValidUTF8(s[:maxErrorMessage], "")
	}
	return strings.TrimSpace(s)
}
