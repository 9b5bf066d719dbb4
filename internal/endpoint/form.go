package endpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nex-crm/relay/internal/shape"
)

// Form is what a webhook to an endpoint looks like.
type Form struct {
	Kind        string // of package shape, or a chat service: see [Forms]
	Template    string
	ContentType string
	Gzip        bool

	shape *shape.Shape
}

// chats are the services for which package shape has a template.
var chats = map[string]string{"slack": shape.SlackTemplate, "teams": shape.TeamsTemplate, "discord": shape.DiscordTemplate}

// Forms are the kinds of forms, the default first.
func Forms() []string {
	return []string{shape.Structured, shape.Binary, shape.Thin, shape.Template, "slack", "teams", "discord"}
}

// NewForm compiles a form; nil is the default, the CloudEvent as it is. Its errors are [*FieldError], of shape, template and
// content_type.
func NewForm(kind, template, contentType string, gzip bool) (*Form, error) {
	if (kind == "" || kind == shape.Structured) && template == "" && contentType == "" && !gzip {
		return nil, nil
	}
	spec := shape.Spec{Kind: kind, Template: template, ContentType: contentType, Gzip: gzip}
	if source, ok := chats[kind]; ok {
		if template != "" {
			return nil, &FieldError{"template", fmt.Sprintf("shape %s brings its own: use shape: template for yours", kind)}
		}
		spec.Kind, spec.Template = shape.Template, source
	}
	if !slices.Contains(Forms(), kind) && kind != "" {
		return nil, &FieldError{"shape", fmt.Sprintf("%q is none; there are %s", kind, strings.Join(Forms(), ", "))}
	}
	compiled, err := shape.Parse(spec)
	if err != nil {
		var faults []error
		for line := range strings.SplitSeq(err.Error(), "\n") {
			field, message, _ := strings.Cut(line, ": ")
			faults = append(faults, &FieldError{field, message})
		}
		return nil, errors.Join(faults...)
	}
	return &Form{Kind: kind, Template: template, ContentType: contentType, Gzip: gzip, shape: compiled}, nil
}

// Render makes a webhook of an event. It is one where f is nil, too.
func (f *Form) Render(event []byte, sequence uint64, attempt int) (shape.Body, error) {
	if f == nil {
		return (&shape.Shape{}).Render(event, shape.Meta{})
	}
	return f.shape.Render(event, shape.Meta{Sequence: sequence, Attempt: attempt})
}
