package fanout

import (
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

// A write whose answer came too late is repeated, and stands there once; another that says the same stands there too.
func TestParcelStandsThereOnce(t *testing.T) {
	t.Parallel()
	log := bustest.New(t)
	later := time.Now().Add(time.Hour).Unix()
	for name, tt := range map[string]struct {
		at   int64
		list []*delivery
	}{
		"backlog":        {0, []*delivery{{endpoint: "backlog", sequence: 1}, {endpoint: "backlog", sequence: 2}}},
		"due":            {1, []*delivery{{endpoint: "due", sequence: 1}}},
		"several later":  {later, []*delivery{{endpoint: "several", sequence: 1}, {endpoint: "several", sequence: 2}}},
		"a forced later": {later, []*delivery{{endpoint: "forced", sequence: 1, forced: "f"}}},
	} {
		t.Run(name, func(t *testing.T) {
			put := func(times int) {
				t.Helper()
				msg, opts, err := parcel(place{endpoint: tt.list[0].endpoint, at: tt.at}, tt.list)
				if err != nil {
					t.Fatal(err)
				}
				for range times {
					if _, err := log.JetStream().PublishMsg(t.Context(), msg, opts...); err != nil {
						t.Fatal(err)
					}
				}
			}
			held := func() uint64 {
				t.Helper()
				s, err := log.JetStream().Stream(t.Context(), bus.StreamRetry)
				if err != nil {
					t.Fatal(err)
				}
				return s.CachedInfo().State.Msgs
			}
			before := held()
			put(2)
			if n := held() - before; n != 1 {
				t.Errorf("%d times, written twice", n)
			}
			put(1)
			if n := held() - before; n != 2 {
				t.Errorf("%d of two that say the same", n)
			}
		})
	}
}
