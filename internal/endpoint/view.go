package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"
)

// Limits of an event that filters look at. They are far beyond what Nex sends (10-500 KB, a few thousand values).
const (
	maxViewBytes = 4 << 20
	// maxViewValues bounds the JSON values: each costs about 100 bytes decoded, and a loop one turn.
	maxViewValues = 100_000
)

// environment is what an expression can name. The expr tags are the language; documented in docs/filters.md.
type environment struct {
	Event eventFields `expr:"event"`
}

// eventFields are the attributes of CloudEvents, and the workspace's token. An attribute that an event leaves out is "";
// a missing time is the zero time.
type eventFields struct {
	ID              string    `expr:"id"`
	Source          string    `expr:"source"`
	Type            string    `expr:"type"`
	Subject         string    `expr:"subject"`
	Time            time.Time `expr:"time"`
	SpecVersion     string    `expr:"specversion"`
	DataContentType string    `expr:"datacontenttype"`
	Workspace       string    `expr:"workspace"`
	Data            any       `expr:"data"`
}

func attributeNames() []string {
	t := reflect.TypeFor[eventFields]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("expr")
	}
	return names
}

// text is a text attribute by its name.
func (e *eventFields) text(name string) *string {
	switch name {
	case "id":
		return &e.ID
	case "source":
		return &e.Source
	case "type":
		return &e.Type
	case "subject":
		return &e.Subject
	case "specversion":
		return &e.SpecVersion
	case "datacontenttype":
		return &e.DataContentType
	case "workspace":
		return &e.Workspace
	default:
		return nil
	}
}

// View is one event as filters see it. It is decoded when the first filter looks, and only then. It is safe for concurrent use.
type View struct {
	workspace string
	data      []byte

	decoded sync.Once
	err     error
	env     environment
	values  int // in the JSON, at most
}

// NewView is the view of an event of a workspace (its token); data is the CloudEvent as it stands in the log.
func NewView(workspace string, data []byte) *View { return &View{workspace: workspace, data: data} }

func (v *View) decode() error {
	v.decoded.Do(func() {
		if v.err = v.parse(); v.err != nil {
			v.err = fmt.Errorf("filters cannot read the event: %w", v.err)
			v.env = environment{}
		}
	})
	return v.err
}

func (v *View) parse() error {
	if len(v.data) > maxViewBytes {
		return fmt.Errorf("it has %d bytes, at most %d", len(v.data), maxViewBytes)
	}
	// Each value but the first of a list or object follows a comma, so this counts too many at worst.
	v.values = bytes.Count(v.data, []byte(",")) + bytes.Count(v.data, []byte("[")) + bytes.Count(v.data, []byte("{"))
	if v.values > maxViewValues {
		return fmt.Errorf("it has up to %d values, at most %d", v.values, maxViewValues)
	}
	var root any
	err := json.Unmarshal(v.data, &root)
	// A number beyond float64 is nil and spoils nothing else.
	if number := (*json.UnmarshalTypeError)(nil); err != nil && !errors.As(err, &number) {
		return err
	}
	// Not into a struct: encoding/json would take ID and Id for id.
	attributes, ok := root.(map[string]any)
	if !ok {
		return errors.New("it is no JSON object")
	}
	return v.fill(attributes)
}

func (v *View) fill(attributes map[string]any) error {
	e := &v.env.Event
	for _, name := range [...]string{"id", "source", "type", "subject", "specversion", "datacontenttype"} {
		value, there := attributes[name]
		text, ok := value.(string)
		if there && !ok {
			return fmt.Errorf("%s is %s, not a string", name, kindName(value))
		}
		*e.text(name) = text
	}
	e.Workspace, e.Data = v.workspace, attributes["data"]
	at, there := attributes["time"]
	if !there {
		return nil
	}
	text, _ := at.(string)
	var err error
	if e.Time, err = time.Parse(time.RFC3339Nano, text); err != nil {
		return errors.New("its time is not of RFC 3339")
	}
	return nil
}
