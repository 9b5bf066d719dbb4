package webhook

import (
	"bytes"
	"html"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// escapes are the ways in which an answer may quote, each with what its escapes begin with. undo answers what the one at the beginning of
// a text means and how long it is; 0 = there is none. A plus is a space in forms, and a plus elsewhere.
var escapes = []struct {
	mark string
	undo func([]byte) (plain []byte, size int)
}{{`\`, unescapeJSON}, {"&", unescapeHTML}, {"%", unescapePercent}, {"+", unescapeForm}}

// escapeMarks is all of their marks.
const escapeMarks = `\&%+`

// unescapeJSON reads an escape of a string (RFC 8259, section 7), and the two more that other languages have: \' and \xNN.
func unescapeJSON(text []byte) ([]byte, int) {
	if text[0] != '\\' {
		return nil, 0
	}
	if len(text) == 1 {
		return nil, 1
	}
	switch c := text[1]; c {
	case '"', '\'', '\\', '/':
		return text[1:2], 2
	case 'b', 'f', 'n', 'r', 't':
		return []byte{map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}[c]}, 2
	case 'x':
		n, size := hexNumber(text[2:], 2)
		if size < 0 {
			return nil, len(text)
		}
		return utf8.AppendRune(nil, n), min(size, 1) * (2 + size)
	case 'u':
		return unescapeUTF16(text)
	}
	return nil, 0
}

// unescapeUTF16 reads \uNNNN, or two that are one character.
func unescapeUTF16(text []byte) ([]byte, int) {
	n, size := hexNumber(text[2:], 4)
	switch {
	case size < 0:
		return nil, len(text)
	case size == 0:
		return nil, 0
	case utf16.IsSurrogate(n):
		rest, more := bytes.CutPrefix(text[6:], []byte(`\u`))
		low, size := hexNumber(rest, 4)
		switch {
		case len(text) < 8 || more && size < 0: // cut in the middle of the second
			return nil, len(text)
		case more && size > 0:
			return utf8.AppendRune(nil, utf16.DecodeRune(n, low)), 12
		}
	}
	return utf8.AppendRune(nil, n), 6
}

// hexNumber reads so many digits: size is 0 if there are others, and -1 if the text ends before.
func hexNumber(text []byte, digits int) (n rune, size int) {
	for i := range min(digits, len(text)) {
		if !strings.ContainsRune("0123456789abcdefABCDEF", rune(text[i])) {
			return 0, 0
		}
	}
	if len(text) < digits {
		return 0, -1
	}
	v, _ := strconv.ParseUint(string(text[:digits]), 16, 32)
	return rune(v), digits
}

// maxEntity bounds the length of a character reference of HTML that is looked for.
const maxEntity = 32

// unescapeHTML reads a character reference.
func unescapeHTML(text []byte) ([]byte, int) {
	if text[0] != '&' {
		return nil, 0
	}
	near := text[:min(len(text), maxEntity)]
	end := bytes.IndexByte(near, ';')
	if end < 0 {
		if len(near) == len(text) && !bytes.ContainsAny(text, " \"'<>/") {
			return nil, len(text)
		}
		return nil, 0
	}
	reference := string(near[:end+1])
	plain := html.UnescapeString(reference)
	if plain == reference || strings.HasSuffix(plain, ";") && plain != ";" { // of a part of it
		return nil, 0
	}
	return []byte(plain), end + 1
}

func unescapePercent(text []byte) ([]byte, int) {
	if text[0] != '%' {
		return nil, 0
	}
	n, size := hexNumber(text[1:], 2)
	switch {
	case size < 0:
		return nil, len(text)
	case size == 0:
		return nil, 0
	}
	return []byte{byte(n)}, 3
}

func unescapeForm(text []byte) ([]byte, int) {
	if text[0] == '+' {
		return []byte{' '}, 1
	}
	return unescapePercent(text)
}
