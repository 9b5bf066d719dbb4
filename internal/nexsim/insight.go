package nexsim

import (
	"encoding/json"
	"time"
)

// Insight is one insight in the form of a live batch. An id and a time that the simulator filled in are known to REST and
// to [Sim.Emitted], but not sent live (the id with Options.LiveIDs).
type Insight struct {
	ID              string     `json:"id,omitempty"`
	Type            string     `json:"type"`
	TypeDescription string     `json:"type_description,omitempty"`
	Content         string     `json:"content"`
	Confidence      float64    `json:"confidence,omitempty"` // 0..1
	ConfidenceLevel string     `json:"confidence_level,omitempty"`
	Target          *Target    `json:"target,omitempty"`
	Evidence        []Evidence `json:"evidence,omitempty"`
	CreatedAt       time.Time  `json:"created_at,omitzero"`
}

// Target is the person or company an insight is about.
type Target struct {
	Type       string   `json:"type"`        // "entity"
	EntityType string   `json:"entity_type"` // "person" or "company"
	Hint       string   `json:"hint"`
	Signals    []Signal `json:"signals,omitempty"`
}

// Signal tells how a target can be recognised.
type Signal struct {
	Type  string `json:"type"` // "email", "domain" or "linkedin"
	Value string `json:"value"`
}

// Evidence is the text an insight was drawn from.
type Evidence struct {
	Excerpt  string   `json:"excerpt"`
	Artifact Artifact `json:"artifact"`
}

// Artifact is the document that an excerpt comes from.
type Artifact struct {
	Type    string `json:"type"`         // "email", "meeting", "chat" or "crm_note"
	ID      uint64 `json:"id,omitempty"` // often beyond 2^53, where a float64 would round it
	Subject string `json:"subject,omitempty"`
	From    string `json:"from,omitempty"`
	Channel string `json:"channel,omitempty"`
}

// Batch is one event insight.batch.created.
type Batch struct {
	Workspace    WorkspaceInfo `json:"workspace"`
	Insights     []Insight     `json:"insights"`
	OperationID  uint64        `json:"operation_id"` // sometimes beyond 2^53
	InsightCount int           `json:"insight_count"`
	EmittedAt    time.Time     `json:"emitted_at"`
}

// WorkspaceInfo is how Nex describes a workspace in a batch.
type WorkspaceInfo struct {
	Name         string       `json:"name"`
	Slug         string       `json:"slug"`
	BusinessInfo BusinessInfo `json:"business_info"`
}

// BusinessInfo is the company behind a workspace.
type BusinessInfo struct {
	Name   string `json:"name"`
	Domain string `json:"domain"`
}

// replayed is the simplified form in which a connecting stream gets the newest insights again.
type replayed struct {
	ID         string          `json:"id,omitempty"`
	Type       string          `json:"type"`
	Content    string          `json:"content"`
	Confidence float64         `json:"confidence,omitempty"`
	Target     *replayedTarget `json:"target,omitempty"`
	CreatedAt  string          `json:"created_at,omitempty"`
}

type replayedTarget struct {
	EntityType string `json:"entity_type"`
	Hint       string `json:"hint"`
}

type replayedBatch struct {
	Workspace    WorkspaceInfo `json:"workspace"`
	Insights     []replayed    `json:"insights"`
	InsightCount int           `json:"insight_count"`
	EmittedAt    string        `json:"emitted_at,omitempty"`
}

// replayPayloads returns the data of each replay event for these insights.
func replayPayloads(info WorkspaceInfo, insights []*Insight, shape, times string, ids bool) [][]byte {
	simplified := make([]replayed, len(insights))
	for i, in := range insights {
		simplified[i] = simplify(in, times, ids)
	}
	if shape == ReplayArray {
		if len(simplified) == 0 {
			return nil
		}
		return [][]byte{mustJSON(simplified)}
	}
	payloads := make([][]byte, len(simplified))
	for i, r := range simplified {
		if shape == ReplaySingle {
			payloads[i] = mustJSON(r)
			continue
		}
		payloads[i] = mustJSON(replayedBatch{Workspace: info, Insights: []replayed{r}, InsightCount: 1, EmittedAt: r.CreatedAt})
	}
	return payloads
}

func simplify(in *Insight, times string, ids bool) replayed {
	r := replayed{Type: in.Type, Content: in.Content, Confidence: in.Confidence}
	if ids {
		r.ID = in.ID
	}
	if times == ReplaySeconds {
		r.CreatedAt = in.CreatedAt.UTC().Format(time.RFC3339)
	}
	if in.Target != nil {
		r.Target = &replayedTarget{EntityType: in.Target.EntityType, Hint: in.Target.Hint}
	}
	return r
}

// dataInsight is an insight in the REST form that Nex's OpenAPI document declares.
type dataInsight struct {
	ID          string    `json:"id,omitempty"`
	WorkspaceID string    `json:"workspace_id"`
	Content     string    `json:"content"`
	Type        string    `json:"type"`
	Entities    []entity  `json:"entities"`
	CreatedAt   time.Time `json:"created_at"`
}

type entity struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Type string `json:"type"`
}

// restPayload is the answer of GET /v1/insights.
func restPayload(workspaceID string, insights []*Insight, shape string, ids bool) []byte {
	if shape == RESTEnriched {
		list := make([]Insight, len(insights))
		for i, in := range insights {
			list[i] = *in
			if !ids {
				list[i].ID = ""
			}
		}
		return mustJSON(struct {
			Insights     []Insight `json:"insights"`
			InsightCount int       `json:"insight_count"`
		}{list, len(list)})
	}
	list := make([]dataInsight, len(insights))
	for i, in := range insights {
		list[i] = dataInsight{
			WorkspaceID: workspaceID, Content: in.Content, Type: in.Type, Entities: entities(in.Target), CreatedAt: in.CreatedAt,
		}
		if ids {
			list[i].ID = in.ID
		}
	}
	return mustJSON(struct {
		Data []dataInsight `json:"data"`
	}{list})
}

func entities(t *Target) []entity {
	if t == nil {
		return []entity{}
	}
	return []entity{{ID: digits(t.EntityType, t.Hint), Name: t.Hint, Type: t.EntityType}}
}

// mustJSON encodes what always can be encoded: structs of this package without floats that are no numbers. Invalid UTF-8
// becomes U+FFFD.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("nexsim: encode: " + err.Error())
	}
	return b
}
