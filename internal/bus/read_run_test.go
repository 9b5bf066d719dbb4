package bus_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// A run of events comes in order and with all that they have, as far as the bytes go, and without what the log does not hold.
func TestReadRun(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	for i := range 8 {
		if _, err := b.JetStream().Publish(t.Context(), fmt.Sprintf("nex.acme.insight.k%d", i), []byte(strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Erase(t.Context(), bus.StreamNex, []uint64{4}, false); err != nil {
		t.Fatal(err)
	}
	read := func(from, to uint64, bytes int) (list []uint64) {
		t.Helper()
		err := b.ReadRun(t.Context(), from, to, bytes, func(m bus.Stored) {
			if m.Subject != fmt.Sprintf("nex.acme.insight.k%d", m.Sequence-1) || len(m.Data) != 100 || m.Time.IsZero() {
				t.Errorf("got %+v", m)
			}
			list = append(list, m.Sequence)
		})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if got := read(2, 6, 1<<20); !slices.Equal(got, []uint64{2, 3, 5, 6}) {
		t.Errorf("2 to 6 are %v", got)
	}
	if got := read(2, 6, 300); len(got) == 0 || len(got) > 3 || got[0] != 2 {
		t.Errorf("the first of them, in 300 bytes, are %v", got)
	}
	if got := read(9, 12, 1<<20); len(got) != 0 {
		t.Errorf("behind the end are %v", got)
	}
}
