package endpoint

import (
	"slices"

	"github.com/nex-crm/relay/internal/event"
)

// WantsType tells whether an event of a type from a workspace is one for the endpoint, by its patterns and workspaces.
func (e *Endpoint) WantsType(workspace, eventType string) bool {
	if len(e.Workspaces) > 0 && !slices.Contains(e.Workspaces, workspace) {
		return false
	}
	if len(e.Events) == 0 {
		return event.MatchPattern(DefaultEvents, eventType)
	}
	return slices.ContainsFunc(e.Events, func(p string) bool { return event.MatchPattern(p, eventType) })
}

// Subjects are where the events stand that the endpoint asks for by type and workspace. They may overlap.
func (e *Endpoint) Subjects() (list []string) {
	patterns, workspaces := e.Events, e.Workspaces
	if len(patterns) == 0 {
		patterns = []string{DefaultEvents}
	}
	if len(workspaces) == 0 {
		workspaces = []string{"*"}
	}
	for _, w := range workspaces {
		for _, p := range patterns {
			list = append(list, event.PatternSubject(w, p))
		}
	}
	return list
}

// WantsContent tells whether an event is one for the endpoint by its filter. An error says that the filter failed, which
// counts as no match.
func (e *Endpoint) WantsContent(view *View) (bool, error) {
	if e.Filter == "" {
		return true, nil
	}
	f, err := filters.get(e.Filter)
	if err != nil {
		return false, err
	}
	return f.Match(view)
}
