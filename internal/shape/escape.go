package shape

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// rule appends one character so that a chat service shows it and nothing else; begins is true at the beginning of a line.
type rule func(dst []byte, c rune, begins bool) []byte

// escaping makes a function of a rule. Its text is cut so that the result, escapes and ellipsis included, has as many
// characters at most as the first argument says: cut before, it would grow beyond a service's limit; cut after, an escape
// could be cut in two. Characters beyond U+FFFF count as two, because some services count so and none counts more.
func escaping(rule rule) func(*runner, []any) (any, error) {
	return func(r *runner, args []any) (any, error) {
		limit := int64(MaxOutput)
		if len(args) == 2 {
			var ok bool
			if limit, ok = whole(args[0]); !ok || limit < 1 {
				return nil, errors.New("the first argument is how many characters to keep, from 1")
			}
		}
		s, err := r.beginning(args[len(args)-1], limit)
		if err == nil && len(args) == 1 {
			err = r.take(s)
		}
		if err != nil {
			return nil, err
		}
		out, read := escape(s, min(limit, MaxOutput), rule)
		if err := r.spendText(read); err != nil {
			return nil, err
		}
		return out, r.take(out)
	}
}

// escape tells also how many bytes it read: not many more than it keeps, unless they mean nothing.
func escape(s string, limit int64, rule rule) (out string, read int) {
	var b []byte
	var units int64 // of b
	fits := 0       // how much of b leaves room for the ellipsis
	begins := true
	for i, c := range s {
		read = i
		if c, ok := plain(s, i, c); ok {
			from := len(b)
			b = rule(b, c, begins)
			begins = c == '\n' || begins && (c == ' ' || c == '\t')
			units += unitsOf(b[from:])
		}
		if units > limit {
			return string(b[:fits]) + "…", read
		}
		if units < limit {
			fits = len(b)
		}
	}
	return string(b), len(s)
}

// plain leaves out control characters, and makes a newline of every line end.
func plain(s string, i int, c rune) (rune, bool) {
	switch {
	case c == '\r':
		return '\n', !strings.HasPrefix(s[i+1:], "\n")
	case c == '\u2028', c == '\u2029', c == '\u0085':
		return '\n', true
	case c == '\n', c == '\t':
		return c, true
	}
	return c, !unicode.IsControl(c)
}

func unitsOf(b []byte) (n int64) {
	for len(b) > 0 {
		c, size := utf8.DecodeRune(b)
		if b = b[size:]; c > 0xFFFF {
			n++
		}
		n++
	}
	return n
}

// slackRule escapes what Slack says it reads, & < > ("Formatting text for app surfaces"): no mention, link or date can stand
// in the text. Slack has no escape for * _ ~ and backticks: they may still format.
func slackRule(dst []byte, c rune, _ bool) []byte {
	switch c {
	case '&':
		return append(dst, "&amp;"...)
	case '<':
		return append(dst, "&lt;"...)
	case '>':
		return append(dst, "&gt;"...)
	}
	return utf8.AppendRune(dst, c)
}

// discordRule escapes Markdown and mentions. A zero-width space after @ is what keeps @everyone from being one even where
// allowed_mentions was forgotten: there is no other escape for it.
func discordRule(dst []byte, c rune, begins bool) []byte {
	switch c {
	case '\\', '*', '_', '~', '`', '|', '<', '>', '[', ']':
		dst = append(dst, '\\')
	case '@':
		return append(dst, "@\u200b"...)
	case '#', '-', '+':
		if begins {
			dst = append(dst, '\\')
		}
	}
	return utf8.AppendRune(dst, c)
}

// teamsRule escapes the Markdown of Adaptive Cards, a part of CommonMark, and braces, because {{DATE(…)}} is replaced in their
// texts. A line end is an empty line there ("Format cards in Teams", newlines for Adaptive Cards).
func teamsRule(dst []byte, c rune, begins bool) []byte {
	switch c {
	case '\n':
		return append(dst, "\n\n"...)
	case '\\', '*', '_', '~', '`', '|', '<', '>', '[', ']', '{', '}':
		dst = append(dst, '\\')
	case '#', '-', '+':
		if begins {
			dst = append(dst, '\\')
		}
	}
	return utf8.AppendRune(dst, c)
}
