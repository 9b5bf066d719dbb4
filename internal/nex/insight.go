package nex

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// Payload is the insights of one event or answer. One that is no insight does not spoil the others.
type Payload struct {
	Insights  []Insight
	Malformed []Malformed
}

// Malformed is something in the place of an insight.
type Malformed struct {
	Raw    []byte
	Reason string
}

// Insight is one insight, whichever way it came.
type Insight struct {
	// Raw is the object exactly as sent, byte for byte, in memory of its own: a small insight must not hold a large frame.
	Raw json.RawMessage
	// ID is Nex's own, empty if it gave none. A number is taken by its digits.
	ID string
	// Type may be empty; Content is not.
	Type, Content string
	// Time is the insight's own created_at, emitted_at or timestamp, else the batch's emitted_at; zero if none of them is
	// a time that RFC 3339 can say in UTC: the years 1 to 9999.
	Time time.Time
	// TargetKind and TargetName say whom it is about: target.entity_type and target.hint, or the first of entities.
	TargetKind, TargetName string
	// Workspace is the batch's workspace object, nil if there was none.
	Workspace json.RawMessage
	// Batch is nil unless it came in one.
	Batch *Batch
}

// Batch is an insight's place in the batch it came in.
type Batch struct {
	OperationID  json.RawMessage // as sent; nil if absent
	Index, Count int
}

var errNotPayload = errors.New("holds no insight: neither a batch, a list nor an object with content")

// ParsePayload reads every shape in which Nex sends insights: the batch {"insights":[…]}, the REST answer {"data":[…]},
// a single insight, {"insight":{…}}, and an array of any of these. It fails only where nothing can be understood at all.
// Keys are matched exactly; where one is there twice, the last counts, as everywhere in Go.
func ParsePayload(data []byte) (Payload, error) {
	var p Payload
	data = bytes.TrimSpace(data)
	if !json.Valid(data) {
		return p, errors.New("not JSON")
	}
	if err := p.parse(data, 0); err != nil {
		return Payload{}, err
	}
	return p, nil
}

// maxNesting is how deep arrays and wrappers may hold insights; Nex needs two.
const maxNesting = 4

func (p *Payload) parse(data json.RawMessage, depth int) error {
	if depth > maxNesting {
		return errNotPayload
	}
	switch data[0] {
	case '[':
		return p.parseArray(data, depth)
	case '{':
		return p.parseObject(data, depth)
	}
	return errNotPayload
}

func (p *Payload) parseArray(data json.RawMessage, depth int) error {
	items, err := arrayOf(data)
	if err != nil {
		return err
	}
	for _, item := range items {
		if err := p.parse(item, depth+1); err != nil {
			p.malformed(item, err)
		}
	}
	return nil
}

func (p *Payload) parseObject(data json.RawMessage, depth int) error {
	o, err := objectOf(data)
	if err != nil {
		return err
	}
	for _, key := range []string{"insights", "data"} {
		list := o[key]
		if isNull(list) && o["content"] == nil {
			if _, there := o[key]; there {
				return nil // "insights": null is an empty list
			}
		}
		if len(list) > 0 && list[0] == '[' {
			return p.parseBatch(o, list)
		}
	}
	if inner := o["insight"]; len(inner) > 0 && inner[0] == '{' && o["content"] == nil {
		return p.parse(inner, depth+1)
	}
	insight, err := newInsight(data, o)
	if err != nil {
		return err
	}
	p.Insights = append(p.Insights, insight)
	return nil
}

func (p *Payload) parseBatch(batch object, list json.RawMessage) error {
	items, err := arrayOf(list)
	if err != nil {
		return err
	}
	emitted := batch.time("emitted_at")
	var workspace json.RawMessage
	if w := batch["workspace"]; len(w) > 0 && w[0] == '{' {
		workspace = bytes.Clone(w)
	}
	_, live := batch["operation_id"]
	_, counted := batch["insight_count"]
	for i, item := range items {
		o, err := objectOf(item)
		if err != nil {
			p.malformed(item, err)
			continue
		}
		insight, err := newInsight(item, o)
		if err != nil {
			p.malformed(item, err)
			continue
		}
		if insight.Time.IsZero() {
			insight.Time = emitted
		}
		insight.Workspace = workspace
		if live || counted && !emitted.IsZero() {
			insight.Batch = &Batch{Index: i, Count: len(items)}
			if id := batch["operation_id"]; !isNull(id) {
				insight.Batch.OperationID = bytes.Clone(id)
			}
		}
		p.Insights = append(p.Insights, insight)
	}
	return nil
}

func (p *Payload) malformed(raw []byte, err error) {
	p.Malformed = append(p.Malformed, Malformed{Raw: bytes.Clone(raw), Reason: err.Error()})
}

// saysNothing tells whether an answer is one of no insights that has left its list out, which the API description allows: an
// object of empty values, and perhaps of what a batch says about itself. Any other could hold insights that we do not see.
func saysNothing(data []byte) bool {
	if !json.Valid(data) {
		return false
	}
	o, err := objectOf(bytes.TrimSpace(data))
	if err != nil {
		return false
	}
	for key, v := range o {
		switch key {
		case "code", "message", "content":
			return false // an error, or an insight
		case "workspace", "operation_id", "emitted_at":
			continue
		}
		switch string(v) {
		case "null", "false", "0", `""`, "[]", "{}":
		default:
			return false
		}
	}
	return true
}

func newInsight(raw json.RawMessage, o object) (Insight, error) {
	in := Insight{Content: o.text("content")}
	switch kind := o["type"]; {
	case in.Content == "":
		if _, there := o["content"]; there {
			return in, errors.New("content is no text or an empty one")
		}
		return in, errNotPayload
	case isNull(kind):
	case kind[0] != '"':
		return in, errors.New("type is no text")
	default:
		in.Type = o.text("type")
	}
	in.Raw = bytes.Clone(raw)
	in.ID = o.id()
	for _, key := range []string{"created_at", "emitted_at", "timestamp"} {
		if in.Time = o.time(key); !in.Time.IsZero() {
			break
		}
	}
	in.TargetKind, in.TargetName = o.target()
	return in, nil
}

func isNull(v json.RawMessage) bool { return len(v) == 0 || string(v) == "null" }

// text is a string value, empty for anything else.
func (o object) text(key string) string { return textOf(o[key]) }

func (o object) id() string {
	v := o["id"]
	if len(v) > 0 && (v[0] == '-' || v[0] >= '0' && v[0] <= '9') {
		return string(v) // its digits: a float64 would round long ones
	}
	return o.text("id")
}

func (o object) time(key string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(o.text(key)))
	if err != nil {
		return time.Time{}
	}
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 { // it cannot be written again
		return time.Time{}
	}
	return t
}

func (o object) target() (kind, name string) {
	if target, err := objectOf(o["target"]); err == nil {
		return target.text("entity_type"), target.text("hint")
	}
	entities, err := arrayOf(o["entities"])
	if err != nil || len(entities) == 0 {
		return "", ""
	}
	first, err := objectOf(entities[0])
	if err != nil {
		return "", ""
	}
	return first.text("type"), first.text("name")
}
