package event

import (
	"fmt"
	"strings"
)

// NoWorkspace is the workspace token of news about the relay itself: nex._.relay.endpoint.disabled.
const NoWorkspace = "_"

// maxToken bounds a token made from foreign text, so that a subject stays far below the 4 KiB of a NATS protocol line.
const maxToken = 128

// Token turns any text into one token of a NATS subject: lower case, everything outside [a-z0-9_-] becomes "_", one
// for each character. It is at most 128 characters long; an empty text becomes "unknown".
func Token(s string) string {
	if s == "" {
		return "unknown"
	}
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > maxToken {
			break
		}
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_', r == '-':
			b.WriteByte(byte(r))
		case r >= 'A' && r <= 'Z':
			b.WriteByte(byte(r) + 'a' - 'A')
		default:
			b.WriteByte('_')
		}
	}
	return b.String()
}

// InsightType is the CloudEvents type of an insight's type.
func InsightType(insightType string) string { return InsightPrefix + Token(insightType) }

// Subject is the NATS subject of a type in a workspace: nex.insight.risk in acme is nex.acme.insight.risk.
func Subject(workspace, eventType string) string {
	return "nex." + workspace + strings.TrimPrefix(eventType, "nex")
}

// SplitSubject is the inverse of [Subject]. ok is false for a subject that is not the log's.
func SplitSubject(subject string) (workspace, eventType string, ok bool) {
	rest, found := strings.CutPrefix(subject, "nex.")
	if !found {
		return "", "", false
	}
	workspace, rest, found = strings.Cut(rest, ".")
	if !found || workspace == "" || rest == "" {
		return "", "", false
	}
	return workspace, "nex." + rest, true
}

// ValidatePattern judges a subject-style pattern over event types, e.g. nex.insight.* or nex.relay.>: tokens
// [a-z0-9_-], "*" for any one token, ">" at the end for one or more.
func ValidatePattern(p string) error {
	if p == "" {
		return fmt.Errorf("empty pattern: write e.g. nex.insight.* or nex.insight.risk")
	}
	if len(p) > 512 {
		return fmt.Errorf("pattern of %d characters: at most 512", len(p))
	}
	tokens := strings.Split(p, ".")
	for i, t := range tokens {
		switch {
		case t == "":
			return fmt.Errorf("%q has an empty token: separate tokens by single dots", p)
		case t == ">" && i != len(tokens)-1:
			return fmt.Errorf("%q: \">\" stands only at the end", p)
		case t == "*" || t == ">":
		case t != Token(t):
			return fmt.Errorf("%q: token %q has characters that no event type has; use a-z 0-9 _ - and whole-token wildcards * and >", p, t)
		}
	}
	if first := tokens[0]; first != "nex" && first != "*" && first != ">" {
		return fmt.Errorf("%q matches no event: types begin with nex., e.g. nex.insight.*", p)
	}
	return nil
}

// PatternSubject is the subject on which the types of a pattern stand in a workspace, which may be "*" for all.
func PatternSubject(workspace, pattern string) string {
	_, rest, one := cut(pattern)
	switch {
	case pattern == ">":
		return "nex." + workspace + ".>"
	case one: // a single token matches no type: they have two at least
		return "nex." + workspace
	}
	return "nex." + workspace + "." + rest
}

// MatchPattern tells whether a pattern that [ValidatePattern] accepts matches a type.
func MatchPattern(pattern, eventType string) bool {
	for {
		p, morePattern, pEnds := cut(pattern)
		t, moreType, tEnds := cut(eventType)
		switch {
		case p == ">":
			return true
		case p != "*" && p != t, pEnds != tEnds && !(morePattern == ">" && !tEnds):
			return false
		case pEnds:
			return true
		}
		pattern, eventType = morePattern, moreType
	}
}

// cut splits off the first token; last says that it was the only one.
func cut(s string) (token, rest string, last bool) {
	token, rest, found := strings.Cut(s, ".")
	return token, rest, !found
}
