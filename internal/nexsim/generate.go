package nexsim

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// generator writes insights. It holds no state that changes: all chance comes from the caller's rand.
type generator struct {
	batchMin, batchMax int
	sizeMin, sizeMax   int
	fold               *strings.Replacer
	corpus             corpus
}

func newGenerator(o Options) *generator {
	g := &generator{
		batchMin: o.BatchMin, batchMax: o.BatchMax, sizeMin: o.SizeMin, sizeMax: o.SizeMax,
		fold: strings.NewReplacer(asciiFold...),
	}
	g.corpus = newCorpus(rand.New(rand.NewPCG(o.Seed, hash("corpus"))), g)
	return g
}

func (g *generator) batchSize(r *rand.Rand) int {
	return g.batchMin + r.IntN(g.batchMax-g.batchMin+1)
}

// size draws the bytes of an insight's JSON. The exponent puts three quarters below three times the minimum when the
// maximum is 200 times the minimum.
func (g *generator) size(r *rand.Rand) int {
	ratio := float64(g.sizeMax) / float64(g.sizeMin)
	return min(g.sizeMax, int(float64(g.sizeMin)*math.Pow(ratio, math.Pow(r.Float64(), 8))))
}

// insight writes one, without id and time, of a drawn size.
func (g *generator) insight(r *rand.Rand) Insight {
	k := kinds[r.IntN(len(kinds))]
	f := g.facts(r)
	content := f.fill(pick(r, k.templates))
	if r.IntN(8) == 0 {
		content += f.fill(pick(r, asides))
	}
	confidence := math.Round(100*(0.35+0.64*r.Float64())) / 100
	in := Insight{
		Type: k.name, TypeDescription: k.description, Content: content,
		Confidence: confidence, ConfidenceLevel: level(confidence), Target: f.target(k.about),
	}
	size := g.size(r)
	in.Evidence = make([]Evidence, 1+min(r.IntN(3), size/2048)+size/corpusPart)
	for i := range in.Evidence {
		in.Evidence[i].Artifact = f.artifact()
	}
	missing := size - len(mustJSON(in))
	for i := range in.Evidence {
		part := max(0, missing) / (len(in.Evidence) - i)
		in.Evidence[i].Excerpt = g.corpus.excerpt(r, part)
		missing -= part
	}
	return in
}

func level(confidence float64) string {
	switch {
	case confidence >= 0.8:
		return "high"
	case confidence >= 0.5:
		return "medium"
	}
	return "low"
}

// facts are what one insight is about.
type facts struct {
	r            *rand.Rand
	g            *generator
	person       party
	company      party
	rival, other party
}

// party is a person or a company: the name, and its part of an address.
type party struct{ name, address string }

func (g *generator) facts(r *rand.Rand) *facts {
	f := &facts{r: r, g: g, person: g.person(r), company: g.company(r), rival: g.company(r), other: g.person(r)}
	for f.other == f.person {
		f.other = g.person(r)
	}
	for f.rival == f.company {
		f.rival = g.company(r)
	}
	return f
}

func (g *generator) person(r *rand.Rand) party {
	if r.IntN(25) == 0 {
		n := asianNames[r.IntN(len(asianNames))]
		return party{n[0], n[1]}
	}
	first, last := pick(r, firstNames), pick(r, lastNames)
	return party{first + " " + last, g.address(first) + "." + g.address(last)}
}

func (g *generator) company(r *rand.Rand) party {
	name := pick(r, companyNames) + " " + pick(r, companyForms)
	return party{name, g.address(name) + ".example"}
}

func (g *generator) address(name string) string { return g.fold.Replace(strings.ToLower(name)) }

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

// fill writes a template.
func (f *facts) fill(template string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(template, "{")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		name, after, _ := strings.Cut(rest, "}")
		b.WriteString(f.slot(name))
		template = after
	}
}

func (f *facts) slot(name string) string {
	switch name {
	case "person":
		return f.person.name
	case "first":
		first, _, _ := strings.Cut(f.person.name, " ")
		return first
	case "other":
		return f.other.name
	case "company":
		return f.company.name
	case "rival":
		return f.rival.name
	case "mail":
		return f.other.address + "@" + f.company.address
	case "role":
		return pick(f.r, roles)
	case "product":
		return pick(f.r, products)
	case "topic":
		return pick(f.r, topics)
	case "city":
		return pick(f.r, cities)
	}
	return number(f.r, name)
}

// firstDay begins the two years that dates are drawn from: contents depend on the seed alone, never on today.
var firstDay = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// number writes the slots that make a text unique.
func number(r *rand.Rand, name string) string {
	switch name {
	case "amount":
		return pick(r, []string{"€", "$", "£", "CHF "}) + thousands(1_000+50*r.IntN(40_000))
	case "date":
		day := firstDay.AddDate(0, 0, r.IntN(730))
		return day.Format(pick(r, []string{"2 January 2006", "January 2, 2006", "2006-01-02"}))
	case "since":
		return firstDay.AddDate(0, 0, -1-r.IntN(3000)).Format("2 January 2006")
	case "quarter":
		return "Q" + strconv.Itoa(1+r.IntN(4)) + " " + strconv.Itoa(2026+r.IntN(2))
	case "clock":
		return strconv.Itoa(8+r.IntN(10)) + pick(r, []string{":00", ":15", ":30", ":45"})
	case "percent":
		return strconv.Itoa(2+r.IntN(60)) + "%"
	case "n":
		return thousands(11 + r.IntN(9_989))
	case "ref":
		return pick(r, []string{"PO-", "Q-", "C-"}) + strconv.Itoa(100_000+r.IntN(900_000))
	case "long":
		return strconv.FormatUint(beyondFloat(r), 10)
	}
	panic("nexsim: template slot " + strconv.Quote(name) + " is unknown") // a test fills every template
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// beyondFloat is odd and above 2^53: a float64 cannot hold it.
func beyondFloat(r *rand.Rand) uint64 { return 1<<53 | r.Uint64N(1<<62) | 1 }

// longNumber is an id: mostly of a size that any program can read, one in eight beyond 2^53.
func longNumber(r *rand.Rand) uint64 {
	if r.IntN(8) == 0 {
		return beyondFloat(r)
	}
	return 10_000 + r.Uint64N(1e9)
}

func (f *facts) target(about string) *Target {
	if about == "" {
		about = pick(f.r, []string{"person", "company"})
	}
	if about == "company" {
		return &Target{Type: "entity", EntityType: about, Hint: f.company.name, Signals: []Signal{{"domain", f.company.address}}}
	}
	t := &Target{Type: "entity", EntityType: about, Hint: f.person.name}
	t.Signals = append(t.Signals, Signal{"email", f.person.address + "@" + f.company.address})
	if f.r.IntN(3) == 0 {
		profile := "https://www.linkedin.com/in/" + strings.ReplaceAll(f.person.address, ".", "-")
		t.Signals = append(t.Signals, Signal{"linkedin", profile})
	}
	return t
}

func (f *facts) artifact() Artifact {
	id := longNumber(f.r)
	switch f.r.IntN(4) {
	case 0:
		return Artifact{Type: "email", ID: id, Subject: "RE: " + f.fill("{product} & {topic}"), From: f.fill("{mail}")}
	case 1:
		return Artifact{Type: "meeting", ID: id, Subject: f.fill("{topic} with {first}, {date}")}
	case 2:
		return Artifact{Type: "chat", ID: id, Channel: "#" + f.g.address(f.company.name), From: f.other.name}
	}
	return Artifact{Type: "crm_note", ID: id, Subject: f.fill("{ref}: {topic}"), From: f.other.name}
}
