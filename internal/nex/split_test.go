package nex

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"testing"
)

// FuzzSplit compares with encoding/json, whose copy of a value is the value.
func FuzzSplit(f *testing.F) {
	for _, in := range []string{
		live, `{}`, `[]`, ` { } `, "[\n1 , 2.5e3,true ,null\t]", `{"a":1,"a":{"b":[1,"]"]}, "c" : "\"}" }`, `{"\u0061\\":"é\ud83d\ude00","x":"\\"}`, `"text"`, `7`,
		"{\"\xff\":\"\xff\"}", `["\\\"",["\\\\"],{"a\"b":"[{"}]`, `{"a":[[[{"b":{}}]]],"c":-0.1}`,
	} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if in = bytes.TrimSpace(in); !json.Valid(in) {
			return
		}
		var wantObject map[string]json.RawMessage
		gotObject, err := objectOf(in)
		if want := in[0] == '{' && json.Unmarshal(in, &wantObject) == nil; want != (err == nil) {
			t.Fatalf("object %v, %v", want, err)
		}
		if !maps.EqualFunc(gotObject, wantObject, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Fatalf("%q\nwant %q", gotObject, wantObject)
		}
		var wantList []json.RawMessage
		gotList, err := arrayOf(in)
		if want := in[0] == '[' && json.Unmarshal(in, &wantList) == nil; want != (err == nil) {
			t.Fatalf("list %v, %v", want, err)
		}
		if !slices.EqualFunc(gotList, wantList, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Fatalf("%q\nwant %q", gotList, wantList)
		}
		var wantText string
		if in[0] == '"' {
			_ = json.Unmarshal(in, &wantText)
		}
		if got := textOf(in); got != wantText {
			t.Fatalf("%q, want %q", got, wantText)
		}
	})
}
