package lease

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// rank orders replicas by who should hold name, best first: rendezvous hashing (highest random weight). Each replica
// computes it alone and all agree; one that joins or leaves moves no names but its own share.
func rank(name string, replicas []string) []string {
	type scored struct {
		replica string
		score   uint64
	}
	list := make([]scored, len(replicas))
	for i, r := range replicas {
		list[i] = scored{r, score(name, r)}
	}
	slices.SortFunc(list, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.replica, b.replica))
	})
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.replica
	}
	return out
}

// first is the first of rank.
func first(name string, replicas []string) string {
	var best string
	var most uint64
	for _, r := range replicas {
		if x := score(name, r); best == "" || x > most || x == most && r < best {
			best, most = r, x
		}
	}
	return best
}

// score mixes FNV-1a's sum once more (the finalizer of SplitMix64): alone, its high bits hardly depend on the last bytes.
func score(name, replica string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(replica))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(name))
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
