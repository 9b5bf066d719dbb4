package stream

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/nex"
)

const (
	// minWindow is where splitting ends. Nex's times may be finer than a second, even where it shows whole ones.
	minWindow = time.Millisecond
	// windowOverlap is by how much neighbouring windows overlap: whether Nex takes the ends of a window as part of it, and
	// whether it cuts them to seconds, must not matter.
	windowOverlap = time.Second
	// mostEqual is how often in a row a part of a window may hold just what the whole did before it is no longer split, unless
	// all of it belongs there: Nex may not look at fractions of a second.
	mostEqual = 4
)

// window is a span of time, from inclusive.
type window struct {
	from, to time.Time
	tries    int
	crowded  bool   // it is the rest of one that held too many
	page     uint64 // of the full page of the window that this is a part of: its hash
	equal    int    // how often in a row a part held the same page
}

func (w window) size() time.Duration { return w.to.Sub(w.from) }

// splitAt makes two windows of one, which overlap.
func (w window) splitAt(at time.Time, overlap time.Duration, tries int) (earlier, later window) {
	earlier, later = w, w
	earlier.tries, later.tries = tries, tries
	overlap = min(overlap, at.Sub(w.from)/4, w.to.Sub(at)/4)
	earlier.to, later.from = at.Add(overlap), at
	earlier.crowded = false
	return earlier, later
}

// splittable tells whether splitting a window may change anything, of which a full page is known.
func (w *window) splittable(page []nex.Insight) bool {
	if w.size() < 2*minWindow {
		return false
	}
	h := fnv.New64a()
	for _, in := range page {
		_, _ = h.Write(in.Raw)
	}
	sum := h.Sum64()
	if w.equal++; sum != w.page || w.size() >= time.Second {
		w.page, w.equal = sum, 0
	}
	return w.equal < mostEqual || w.belongs(page)
}

// belongs tells whether a window is smaller than a second and all of its page belongs there, with a millisecond to spare for
// how times were cut: so it is where Nex knows fractions of a second, or where all of that second is close together.
func (w *window) belongs(page []nex.Insight) bool {
	return w.size() < time.Second && !slices.ContainsFunc(page, func(in nex.Insight) bool {
		return in.Time.Before(w.from.Add(-minWindow)) || in.Time.After(w.to.Add(minWindow))
	})
}

// middle is where a window is split of which nothing is known.
func (w window) middle() time.Time { return w.from.Add(w.size() / 2) }

// splitPoint chooses where to split a window of which a full page is known. Where Nex gave the oldest, most of them fit into
// the earlier part. Where it gave the newest, the earlier part is half of the window, and half of that, until it holds no
// more than a page: the oldest are taken first, so that a filling gains something before it is through with all.
func splitPoint(w window, page []nex.Insight) time.Time {
	times := make([]time.Time, 0, len(page))
	for _, in := range page {
		if !in.Time.Before(w.from) && in.Time.Before(w.to) {
			times = append(times, in.Time)
		}
	}
	if len(times) > 0 {
		slices.SortFunc(times, time.Time.Compare)
		at := times[len(times)*9/10]
		first, last := times[0], times[len(times)-1]
		if first.Sub(w.from) >= w.to.Sub(last) {
			if at = times[len(times)/10]; at.After(w.middle()) {
				at = w.middle()
			}
		}
		unit := minWindow
		if w.size() >= 4*time.Second {
			unit = time.Second
		}
		at = at.Truncate(unit)
		if at.Sub(w.from) < unit {
			at = at.Add(unit) // what comes at once is parted from what comes after it
		}
		if at.Sub(w.from) >= minWindow && w.to.Sub(at) >= minWindow {
			return at
		}
	}
	return w.middle()
}
