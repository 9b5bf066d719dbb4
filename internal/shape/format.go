package shape

import (
	"errors"
	"fmt"
	"strings"
)

// maxWidth bounds the width and the precision in a format of printf, so that no format makes a text much longer.
const maxWidth = 100

// verb is one directive of a format, and the literal text before it.
type verb struct {
	before    string
	directive string // e.g. "%-8.2f"; empty at the end of the format
	kind      byte
}

// verbs takes a format apart. It is a literal of the template, and was checked when the template was compiled.
func verbs(format string) ([]verb, error) {
	var all []verb
	for {
		before, rest, found := strings.Cut(format, "%")
		if !found {
			return append(all, verb{before: before}), nil
		}
		n, err := directive(rest)
		if err != nil {
			return nil, err
		}
		all = append(all, verb{before, "%" + rest[:n], rest[n-1]})
		format = rest[n:]
	}
}

// directive is the length of a directive after its %: flags, width, precision, and one of the letters that mean something for
// a JSON value.
func directive(s string) (int, error) {
	i := len(s) - len(strings.TrimLeft(s, "+-# 0"))
	for _, part := range []string{"", "."} {
		if !strings.HasPrefix(s[i:], part) {
			continue
		}
		i += len(part)
		size := 0
		for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
			if size = size*10 + int(s[i]-'0'); size > maxWidth {
				return 0, fmt.Errorf("widths and precisions go up to %d", maxWidth)
			}
		}
	}
	if i < len(s) && strings.IndexByte("sdvfegtx%", s[i]) >= 0 {
		return i + 1, nil
	}
	return 0, errors.New("the verbs are %s %d %v %f %e %g %t %x and %%")
}

func printFormat(r *runner, args []any) (any, error) {
	all, err := verbs(args[0].(string))
	if err != nil {
		return nil, err
	}
	args = args[1:]
	var b []byte
	for _, v := range all {
		b = append(b, v.before...)
		switch {
		case v.directive == "":
			continue
		case v.kind == '%':
			b = append(b, '%')
			continue
		case len(args) == 0:
			return nil, errors.New("the format wants more values")
		}
		var err error
		if b, err = r.appendFormatted(b, v, args[0]); err != nil {
			return nil, err
		}
		if args = args[1:]; len(b) > MaxOutput {
			return nil, errTooLong
		}
	}
	if len(args) > 0 {
		return nil, fmt.Errorf("%d values more than the format wants", len(args))
	}
	s := string(b)
	return s, r.take(s)
}

// appendFormatted writes one value. What is no number stands as it is where the verb wants one.
func (r *runner) appendFormatted(dst []byte, v verb, value any) ([]byte, error) {
	switch v.kind {
	case 'd', 'x':
		if n, ok := whole(value); ok {
			return fmt.Appendf(dst, v.directive, n), nil
		}
	case 'f', 'e', 'g':
		if f, ok := decimal(value); ok {
			return fmt.Appendf(dst, v.directive, f), nil
		}
	case 't':
		return fmt.Appendf(dst, v.directive, truth(value)), nil
	}
	s, err := r.text(value)
	if err == nil {
		err = r.take(s)
	}
	switch {
	case err != nil:
		return nil, err
	case v.kind == 's' || v.kind == 'v':
		return fmt.Appendf(dst, v.directive[:len(v.directive)-1]+"s", s), nil
	}
	return append(dst, s...), nil
}
