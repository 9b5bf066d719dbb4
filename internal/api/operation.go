package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// access is what a caller needs for an operation.
type access int

const (
	reads     access = iota // any token
	writes                  // one that may change things
	operates                // one that may change things and is not bound to workspaces
	pulls                   // any token, or that of the endpoint
	withoutID               // nobody is asked
)

// operation is one entry of the API: what its document says of it.
type operation struct {
	method, path string
	id           string // operationId
	summary      string
	about        string // more, in Markdown
	access       access
	status       int   // of a success; 0 = 200
	errors       []int // beside 400, 401, 403, 500 and 503, which any may answer, and those of all that take a body or an Idempotency-Key
}

// newAPI is the part of the HTTP side that has a document.
func (s *server) newAPI(mux *http.ServeMux) huma.API {
	format := huma.Format{Marshal: marshal, Unmarshal: unmarshal}
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "relay", Version: s.cfg.Version,
				Description: "Insights of Nex in NATS JetStream and as signed webhooks. An error is `{\"code\":<HTTP status>,\"message\":…}`.",
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token": {Type: "http", Scheme: "bearer", Description: "`http.admin_token` or one of `http.tokens`"},
				},
			},
		},
		// curl -d names a form where it means JSON; what is no JSON is refused by what it is.
		Formats:       map[string]huma.Format{"application/json": format, "application/x-www-form-urlencoded": format, "application/merge-patch+json": format},
		DefaultFormat: "application/json",
		// A misspelt parameter would be a filter that never holds.
		RejectUnknownQueryParameters: true,
	}
	a := humago.New(mux, config)
	a.UseMiddleware(s.admit)
	return a
}

// add registers an operation. What its handler answers as an error is judged by [server.failed].
func add[I, O any](s *server, o operation, handle func(context.Context, *I) (*O, error)) {
	op := huma.Operation{
		OperationID: o.id, Method: o.method, Path: o.path, Summary: o.summary, Description: o.about, DefaultStatus: o.status,
		Errors:       append([]int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable}, o.errors...),
		MaxBodyBytes: maxBody, BodyReadTimeout: readTimeout,
		// The body's faults are found by the handlers, all at once and in the words of the configuration.
		SkipValidateBody: true,
		Metadata:         map[string]any{accessKey: o.access},
		Tags:             []string{tag(o.path)},
	}
	switch {
	case o.method != http.MethodPost:
	case o.access == reads: // it changes nothing, and what it answers is kept by nobody
		s.unkeyed[o.path] = true
		op.Errors = append(op.Errors, http.StatusServiceUnavailable)
	default:
		op.Parameters = []*huma.Param{{
			Name: idempotencyKey, In: "header", Schema: &huma.Schema{Type: huma.TypeString, MaxLength: new(255)},
			Description: "A name of the caller's own for this request: who asks again with it within a day is answered as before, and nothing is done twice.",
		}}
		op.Errors = append(op.Errors, http.StatusConflict, http.StatusRequestEntityTooLarge)
	}
	if _, takesBody := reflect.TypeFor[I]().FieldByName("Body"); takesBody {
		op.Errors = append(op.Errors, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge)
	}
	if o.access != withoutID {
		op.Security = []map[string][]string{{"token": {}}}
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		bounded, cancel := within(ctx, answerTime)
		defer cancel()
		out, err := handle(bounded, in)
		if err != nil {
			return nil, s.failed(ctx, bounded, o.id, err)
		}
		return out, nil
	})
	tellOfKeys(s.api.OpenAPI().Paths[o.path])
}

// tellOfKeys has the document say what an Idempotency-Key brings about, and huma's 422 for what is not valid left out: that is 400 here.
func tellOfKeys(item *huma.PathItem) {
	for _, op := range []*huma.Operation{item.Get, item.Post, item.Patch, item.Delete} {
		if op == nil {
			continue
		}
		if !slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == idempotencyKey }) {
			delete(op.Responses, "422")
			continue
		}
		op.Responses["422"] = &huma.Response{Description: "The " + idempotencyKey + " was given with another request before.", Content: op.Responses["409"].Content}
		success := op.Responses[strconv.Itoa(op.DefaultStatus)]
		if success.Headers == nil {
			success.Headers = map[string]*huma.Param{}
		}
		success.Headers[idempotencyReplayed] = &huma.Param{
			Description: "There where the answer is that of an earlier request with this " + idempotencyKey + ".",
			Schema:      &huma.Schema{Type: huma.TypeString, Enum: []any{"true"}},
		}
	}
}

// tag is what an operation stands under in the document.
func tag(path string) string {
	resource, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, "/api/v1/"), "/.well-known/"), "/")
	return resource
}

const accessKey = "access"

// Error is an answer that says what is wrong, in Nex's form.
type Error struct {
	Code    int    `json:"code" doc:"The HTTP status."`
	Message string `json:"message" doc:"What is wrong, and the remedy. Several faults are parted by a semicolon and a space."`
}

func (e *Error) Error() string { return e.Message }

// GetStatus is the HTTP status.
func (e *Error) GetStatus() int { return e.Code }

func init() { // huma has one form of errors for the whole process
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		if status == http.StatusUnprocessableEntity { // Nex answers 400 to what is not valid
			status = http.StatusBadRequest
		}
		var faults []string
		for _, err := range errs {
			var known *Error
			var detail *huma.ErrorDetail
			switch {
			case errors.As(err, &known):
				return known
			case errors.As(err, &detail): // its value may be a secret
				_, key, _ := strings.Cut(detail.Location, ".") // behind query, path or header; the body's faults name theirs
				faults = append(faults, strings.TrimPrefix(key+": "+detail.Message, ": "))
			case err != nil:
				faults = append(faults, err.Error())
			}
		}
		if len(faults) > 0 {
			message = strings.Join(faults, "; ")
		}
		return &Error{status, message}
	}
}

func marshal(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// openAPI is the API's document, which does not change while the relay runs.
func (s *server) openAPI() http.HandlerFunc {
	text, err := json.Marshal(s.api.OpenAPI())
	return func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			s.log.Error("the API's document cannot be written", "error", err)
			writeJSON(w, http.StatusInternalServerError, &Error{http.StatusInternalServerError, "internal error: see the relay's log"})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
	}
}

// oncePerParameter refuses a query of which a part would not hold: a parameter that is given twice, or what cannot be read.
func oncePerParameter(query string) error {
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return badRequest("the query of the URL cannot be read: encode %%, ; and & in its values")
	}
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if len(parameters[name]) > 1 {
			faults = append(faults, shownKey(name)+": is given twice: leave one out")
		}
	}
	if len(faults) > 0 {
		return badRequest("%s", strings.Join(faults, "; "))
	}
	return nil
}

// list is the form of every list.
type list[T any] struct {
	Data []T `json:"data"`
	// Next is where the list goes on.
	Next string `json:"next,omitempty" doc:"Give it as cursor to get the next page; left out on the last one."`
}

// Paging is what every long list takes.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most."`
	Cursor string `query:"cursor" maxLength:"128" doc:"next of the page before; the first page has none."`
}

// answer is what an operation answers with a body.
type answer[T any] struct {
	Body T
}

func page[T any](data []T, next string) *answer[list[T]] {
	if data == nil {
		data = []T{}
	}
	return &answer[list[T]]{list[T]{data, next}}
}

func badRequest(format string, args ...any) *Error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}
