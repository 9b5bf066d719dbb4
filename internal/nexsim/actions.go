package nexsim

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// selected is the body, or the part of it, that names the workspace to act upon.
type selected struct {
	Workspace string `json:"workspace"`
}

// one checks that a single workspace is named.
func (s *Sim) one(sel selected) error {
	_, err := s.find(sel.Workspace)
	return err
}

// some checks that a workspace is named that exists, or none at all.
func (s *Sim) some(sel selected) error {
	if sel.Workspace == "" {
		return nil
	}
	return s.one(sel)
}

func (s *Sim) controlState(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, mustJSON(s.State()))
}

func (s *Sim) controlEmitted(w http.ResponseWriter, r *http.Request) {
	ws, err := s.find(r.URL.Query().Get("workspace"))
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, mustJSON(ws.emitted()))
}

// emitRequest names one of three: how many to generate, the insights, or an event as it is.
type emitRequest struct {
	selected
	Count    int       `json:"count"`
	Insights []Insight `json:"insights"`
	Event    string    `json:"event"`
	Data     *string   `json:"data"`
}

func (s *Sim) controlEmit(in emitRequest) (any, error) {
	if err := s.one(in.selected); err != nil {
		return nil, err
	}
	switch {
	case in.Count < 0 || in.Count > maxEmit:
		return nil, fmt.Errorf("count %d: must be 0..%d", in.Count, maxEmit)
	case in.Data != nil && in.Insights != nil:
		return nil, errors.New("insights and data: only one can be given")
	case in.Data != nil:
		s.EmitRaw(in.Workspace, in.Event, []byte(*in.Data))
		return finished(nil)
	case in.Insights != nil:
		return s.EmitInsights(in.Workspace, in.Insights...), nil
	}
	return s.Emit(in.Workspace, in.Count), nil
}

type dropRequest struct {
	selected
	Abort bool `json:"abort"`
}

func (s *Sim) controlDrop(in dropRequest) (any, error) {
	if err := s.some(in.selected); err != nil {
		return nil, err
	}
	return streams{s.Drop(in.Workspace, in.Abort)}, nil
}

type stallRequest struct {
	selected
	New bool `json:"new"`
}

func (s *Sim) controlStall(in stallRequest) (any, error) {
	if err := s.some(in.selected); err != nil {
		return nil, err
	}
	return streams{s.Stall(in.Workspace, in.New)}, nil
}

func (s *Sim) controlResume(in selected) (any, error) {
	if err := s.some(in); err != nil {
		return nil, err
	}
	return streams{s.Resume(in.Workspace)}, nil
}

func (s *Sim) controlRefuse(in Refusal) (any, error) { return finished(s.Refuse(in)) }

type redirectRequest struct {
	selected
	Endpoint string `json:"endpoint"`
	Status   int    `json:"status"`
	Location string `json:"location"`
	Count    int    `json:"count"`
}

func (s *Sim) controlRedirect(in redirectRequest) (any, error) {
	return finished(s.Redirect(in.Workspace, in.Endpoint, in.Status, in.Location, in.Count))
}

func (s *Sim) controlClear(in selected) (any, error) {
	if err := s.some(in); err != nil {
		return nil, err
	}
	s.Clear(in.Workspace)
	return finished(nil)
}

func (s *Sim) controlCut(in selected) (any, error) {
	if err := s.one(in); err != nil {
		return nil, err
	}
	return s.Cut(in.Workspace), nil
}

type garbageRequest struct {
	selected
	Kind string `json:"kind"`
	Size int    `json:"size"`
}

func (s *Sim) controlGarbage(in garbageRequest) (any, error) {
	return finished(s.Garbage(in.Workspace, in.Kind, in.Size))
}

type wireRequest struct {
	selected
	LineEnding string   `json:"line_ending"`
	BOM        bool     `json:"bom"`
	Retry      duration `json:"retry"`
	Chunk      int      `json:"chunk"`
	SplitUTF8  bool     `json:"split_utf8"`
	Pause      duration `json:"pause"`
}

func (s *Sim) controlWire(in wireRequest) (any, error) {
	return finished(s.SetWire(in.Workspace, Wire{
		LineEnding: in.LineEnding, BOM: in.BOM, Retry: time.Duration(in.Retry), Chunk: in.Chunk, SplitUTF8: in.SplitUTF8,
		Pause: time.Duration(in.Pause),
	}))
}

type rateRequest struct {
	PerSecond float64 `json:"per_second"`
}

func (s *Sim) controlRate(in rateRequest) (any, error) { return finished(s.SetRate(in.PerSecond)) }

type duplicatesRequest struct {
	selected
	Share float64 `json:"share"`
}

func (s *Sim) controlDuplicates(in duplicatesRequest) (any, error) {
	return finished(s.SetDuplicates(in.Workspace, in.Share))
}

type limitRequest struct {
	PerSecond  float64 `json:"per_second"`
	Burst      int     `json:"burst"`
	RetryAfter bool    `json:"retry_after"`
}

func (s *Sim) controlLimit(in limitRequest) (any, error) { return finished(s.SetLimit(RateLimit(in))) }

type keyRequest struct {
	selected
	Token  string   `json:"token"`
	Scopes []string `json:"scopes"`
}

func (s *Sim) controlKey(in keyRequest) (any, error) {
	return finished(s.SetKey(in.Workspace, Key{Token: in.Token, Scopes: in.Scopes}))
}

type revokeRequest struct {
	Token string `json:"token"`
}

func (s *Sim) controlRevoke(in revokeRequest) (any, error) {
	if !s.RevokeKey(in.Token) {
		return nil, errors.New("token: unknown")
	}
	return finished(nil)
}

type restRequest struct {
	Shape string `json:"shape"`
	IDs   *bool  `json:"ids"` // true if missing
}

func (s *Sim) controlREST(in restRequest) (any, error) {
	return finished(s.SetREST(in.Shape, in.IDs == nil || *in.IDs))
}

type futureRequest struct {
	Refuse bool `json:"refuse"`
}

func (s *Sim) controlFuture(in futureRequest) (any, error) {
	s.SetFuture(in.Refuse)
	return finished(nil)
}

type replayRequest struct {
	Shape string `json:"shape"`
	Time  string `json:"time"` // "seconds" if missing
}

func (s *Sim) controlReplay(in replayRequest) (any, error) {
	return finished(s.SetReplay(in.Shape, orDefault(in.Time, ReplaySeconds)))
}

type clockRequest struct {
	Jump duration `json:"jump"`
}

func (s *Sim) controlClock(in clockRequest) (any, error) {
	s.JumpClock(time.Duration(in.Jump))
	return struct {
		Now time.Time `json:"now"`
	}{s.Now()}, nil
}
