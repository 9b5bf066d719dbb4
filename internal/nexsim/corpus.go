package nexsim

import (
	"math/rand/v2"
	"sort"
	"strings"
	"unicode/utf8"
)

const (
	corpusBytes = 160 << 10
	// corpusPart is the most one excerpt takes, in bytes of JSON.
	corpusPart = 64 << 10
)

// corpus is the text that all evidence is cut from. Most excerpts share its memory, so that a history of large insights costs
// little more than one of small ones.
type corpus struct {
	text  string
	start []int // of each sentence in text, and the end of text
	cost  []int // bytes of JSON before each start
}

func newCorpus(r *rand.Rand, g *generator) corpus {
	var c corpus
	var b strings.Builder
	cost := 0
	add := func() {
		c.start = append(c.start, b.Len())
		c.cost = append(c.cost, cost)
	}
	for cost < corpusBytes {
		add()
		s := g.facts(r).fill(pick(r, sentences))
		b.WriteString(s)
		cost += jsonBytes(s)
	}
	add()
	c.text = b.String()
	return c
}

// excerpt returns a text that begins with a sentence and takes exactly size bytes (at most corpusPart) as JSON, without the
// quotes.
func (c corpus) excerpt(r *rand.Rand, size int) string {
	size = min(size, corpusPart)
	// A sentence with at least size bytes from its beginning to the end of the corpus.
	last := sort.Search(len(c.cost), func(i int) bool { return c.cost[len(c.cost)-1]-c.cost[i] < size }) - 1
	first := r.IntN(last + 1)
	// The end lies in the sentence before the first one that would begin too far away.
	end := sort.Search(len(c.cost), func(i int) bool { return c.cost[i]-c.cost[first] > size }) - 1
	missing := size - (c.cost[end] - c.cost[first])
	stop := c.start[end]
	for _, char := range c.text[stop:] {
		n := jsonBytesOf(char)
		if n > missing {
			break
		}
		missing -= n
		stop += utf8.RuneLen(char)
	}
	return c.text[c.start[first]:stop] + strings.Repeat(".", missing)
}

// jsonBytes is how many bytes encoding/json makes of s, without the quotes. s is valid UTF-8.
func jsonBytes(s string) int {
	n := 0
	for _, char := range s {
		n += jsonBytesOf(char)
	}
	return n
}

func jsonBytesOf(char rune) int {
	switch {
	case strings.ContainsRune("\"\\\n\r\t\b\f", char):
		return 2
	case char < 0x20, strings.ContainsRune("<>&\u2028\u2029", char):
		return 6
	}
	return utf8.RuneLen(char)
}
