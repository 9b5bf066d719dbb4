package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nex-crm/relay/internal/api"
)

// admin is how the commands over a running relay reach it.
type admin struct {
	URL       string        `name:"relay" env:"RELAY_URL" default:"http://127.0.0.1:8080" help:"Where the relay's API is (http.listen)."`
	Token     string        `env:"RELAY_TOKEN" help:"Token of the API; better given as RELAY_TOKEN, or in a file."`
	TokenFile string        `type:"path" help:"File with the token."`
	Timeout   time.Duration `default:"1m" help:"How long to wait for an answer."`
	JSON      bool          `name:"json" help:"Print what the API answers, as it is."`
}

// ident is an id that becomes one segment of a path. What could be none, such as "..", would make another request of it: the end of a
// replay would be that of its endpoint.
type ident string

var identForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// UnmarshalText takes what the relay takes and makes as an id. It does not quote what is none: that may be a secret.
func (i *ident) UnmarshalText(text []byte) error {
	if !identForm.Match(text) {
		return errors.New("is no id: 1 to 64 of A-Z a-z 0-9 _ - are needed")
	}
	*i = ident(text)
	return nil
}

// maxAnswer bounds an answer of the API, and a value that comes from a file.
const maxAnswer = 64 << 20

// call makes one request and answers the body. What the relay refuses is an error in its own words.
func (a *admin) call(ctx context.Context, method, path string, query url.Values, body any, header ...string) ([]byte, error) {
	base, err := url.Parse(a.URL)
	if err != nil || base.Host == "" {
		return nil, usageError{fmt.Errorf("--relay %q is no URL; write e.g. http://127.0.0.1:8080", a.URL)}
	}
	if a.Timeout <= 0 {
		return nil, usageError{fmt.Errorf("--timeout %v leaves no time for an answer: give e.g. 1m", a.Timeout)}
	}
	token, err := a.token()
	if err != nil {
		return nil, err
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	target := base.JoinPath(path)
	target.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target.String(), content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w; is a relay running there? --relay or RELAY_URL says where", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, target.Path, err)
	}
	if resp.StatusCode < 300 {
		return answer, nil
	}
	var refused api.Error
	if json.Unmarshal(answer, &refused) != nil || refused.Message == "" {
		return nil, fmt.Errorf("%s %s: %s", method, target.Path, resp.Status)
	}
	if resp.StatusCode == http.StatusUnauthorized && token == "" {
		return nil, errors.New("the relay wants a token: give RELAY_TOKEN, or --token-file")
	}
	return nil, &refusal{resp.StatusCode, refused.Message}
}

// refusal is what the relay says where it does not do what it was asked.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

// inFlags is an error in the words of a command: what the relay finds at a field is a fault of the flag that has set it. flags is by field.
func inFlags(err error, flags map[string]string) error {
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	faults := strings.Split(r.message, "; ")
	for i, fault := range faults {
		at, text, ok := strings.Cut(fault, ": ")
		field, _, _ := strings.Cut(at, "[") // or one of a list
		if flag := flags[field]; ok && flag != "" {
			faults[i] = flag + strings.TrimPrefix(at, field) + ": " + text
		}
	}
	return &refusal{r.status, strings.Join(faults, "; ")}
}

func (a *admin) token() (string, error) {
	if a.TokenFile == "" {
		return strings.TrimSpace(a.Token), nil
	}
	if a.Token != "" {
		return "", usageError{errors.New("--token and --token-file: one of them is enough")}
	}
	text, err := os.ReadFile(a.TokenFile)
	return strings.TrimSpace(string(text)), err
}

// pages calls each with every page of a list, at most limit entries in all; 0 = all there are, -1 = the list has no pages.
func pages[T any](ctx context.Context, a *admin, path string, query url.Values, limit int, each func([]T) error) error {
	if query == nil {
		query = url.Values{}
	}
	for seen := 0; ; {
		size := 1000
		if limit > 0 {
			size = min(size, limit-seen)
		}
		if limit >= 0 {
			query.Set("limit", fmt.Sprint(size))
		}
		answer, err := a.call(ctx, "GET", path, query, nil)
		if err != nil {
			return err
		}
		var page struct {
			Data []T
			Next string
		}
		if err := json.Unmarshal(answer, &page); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if err := each(page.Data); err != nil {
			return err
		}
		if seen += len(page.Data); page.Next == "" || limit > 0 && seen >= limit {
			return nil
		}
		query.Set("cursor", page.Next)
	}
}

// listed prints a list: one JSON object a line, or a table with one row for each.
func listed[T any](ctx context.Context, a *admin, out io.Writer, path string, query url.Values, limit int, head string, row func(*T) []any) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	headed := a.JSON
	err := pages(ctx, a, path, query, limit, func(raw []json.RawMessage) error {
		if !headed { // not before there is an answer
			headed = true
			fmt.Fprintln(table, head)
		}
		for _, text := range raw {
			if a.JSON {
				if _, err := fmt.Fprintf(out, "%s\n", tame(text)); err != nil {
					return err
				}
				continue
			}
			var one T
			if err := json.Unmarshal(text, &one); err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
			cells := row(&one)
			fmt.Fprintf(table, strings.TrimSuffix(strings.Repeat("%v\t", len(cells)), "\t")+"\n", cells...)
		}
		return nil
	})
	return errors.Join(err, table.Flush())
}

// shown prints one JSON value, indented.
func shown(out io.Writer, raw bool, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	var b bytes.Buffer
	if raw || json.Indent(&b, text, "", "  ") != nil {
		b.Reset()
		b.Write(text)
	}
	_, err := fmt.Fprintf(out, "%s\n", bytes.TrimSpace(tame(b.Bytes())))
	return err
}

// tame escapes what could steer a terminal and may stand in JSON's strings as it is (RFC 8259, section 7): U+007F and the C1 controls.
// To whoever reads the JSON it is the same.
func tame(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, c := range string(text) { // what is no UTF-8 becomes U+FFFD
		if unicode.IsControl(c) && c != '\n' && c != '\r' && c != '\t' {
			out = fmt.Appendf(out, `\u%04x`, c)
			continue
		}
		out = utf8.AppendRune(out, c)
	}
	return out
}
