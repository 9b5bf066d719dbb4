package nexsim

// The material that insights are written from. {…} is filled in by facts.fill. Every content template names the person, the
// company and an amount, a date or a number, so that a text practically never comes twice.

// kind is one of Nex's insight types.
type kind struct {
	name, description string
	about             string // entity type of the target: "person", "company", or "" for either
	templates         []string
}

var kinds = []kind{
	{"opportunity", "A potential business opportunity", "", []string{
		"{person} expects {company} to approve a budget of {amount} for {product} in {quarter}",
		"{company} wants to extend {product} to {n} more seats; {person} will decide by {date}",
		"{person} asked for a quote on {product} for the {city} office of {company}, about {amount}",
		"{company} is leaving {rival} when its contract ends on {date}, and {person} is open to a pilot",
		"{person} would bring {product} to all {n} employees of {company} if {topic} is part of the deal",
		"A tender of {company} worth {amount} for {topic} closes on {date}; {person} runs it",
		"{person} mentioned that {company} has {amount} of unspent budget for {topic} until {date}",
	}},
	{"risk", "Something that may harm the relationship or a deal", "", []string{
		"{person} said {company} may not renew on {date} unless {topic} improves",
		"{company} has {n} open tickets about {product}, and {person} escalated the oldest on {date}",
		"{person} is comparing our offer of {amount} to {company} with {rival}",
		"The champion at {company}, {person}, leaves on {date} without a successor for {topic}",
		"{company} has not paid invoice {ref} over {amount}; {person} disputes the scope",
		"{person} warned that a hiring freeze at {company} puts the {amount} expansion on hold",
		"Legal at {company} rejected our terms on {topic}; {person} needs an answer before {date}",
	}},
	{"relationship", "How people or companies are connected", "", []string{
		"{person} of {company} worked with {other} on {topic} until {date}",
		"{other} introduced us to {person}, who signs off purchases up to {amount} at {company}",
		"{person} reports to {other} at {company} since {since}",
		"{company} and {rival} share a {amount} venture for {topic}, led by {person}",
		"{person} and {other} sit on the steering board of {company} that meets on {date}",
		"{person} recommended us to {other} after project {ref} at {company}",
	}},
	{"preference", "What someone likes, dislikes or insists on", "person", []string{
		"{person} prefers calls at {clock} and wants {company} contracts over {amount} on paper",
		"{person} wants weekly numbers on {topic}, at {clock}, for {company} account {ref}",
		"{person} ({company}) dislikes long decks: one page on {topic} before {date}",
		"{person} asked that nobody but {other} contacts {company} about order {ref}",
		"{person} of {company} pays yearly in advance, most recently {amount} on {date}",
		"For {company}, {person} insists on data kept in {city}, see annex {ref}",
	}},
	{"milestone", "A significant event or achievement", "", []string{
		"{company} goes live with {product} in {city} on {date}; {person} leads the rollout",
		"{company} closed a funding round of {amount}, {person} announced on {date}",
		"{person} became {role} of {company} on {date}",
		"{company} passed {n} customers in {quarter}, and {person} thanked us for {topic} (case {ref})",
		"{person} signed the {amount} renewal of {product} for {company} on {date}",
		"{company} opened its {city} site with {n} people on {date}; {person} is in charge",
	}},
	{"activity", "Something that was done or is going on", "", []string{
		"{person} took part in the {product} demo for {company} on {date} at {clock}",
		"{person} sent {n} questions about {topic} on behalf of {company} on {date}",
		"{company} is migrating {n} records to {product}; {person} expects to finish by {date}",
		"{person} and {other} reviewed proposal {ref} for {company} over {amount}",
		"{person} visited our {city} office with the {company} team on {date}",
		"{company} tested {topic} with {n} users; {person} shares results on {date}",
	}},
	{"characteristic", "A lasting trait of a person or company", "", []string{
		"{company} has {n} employees and spends about {amount} a year on {topic}, {person} told us",
		"{person} of {company} has worked on {topic} since {since} and reads every line of a contract",
		"{company} buys only through tenders above {amount}; {person} is the contact in {city}",
		"{person} negotiates hard: {company} got {percent} off order {ref}",
		"{company} runs {product} beside {rival} in {n} branches, according to {person}",
		"{company} makes {percent} of its {amount} revenue in {quarter}, says {person}",
	}},
	{"role_detail", "What someone is responsible for", "person", []string{
		"{person} is {role} at {company} and owns a budget of {amount} for {topic}",
		"{person} leads {n} people at {company} in {city} since {since}",
		"{person}, {role} of {company}, approves anything about {topic} above {amount}",
		"{person} takes over {topic} at {company} from {other} on {date}",
		"At {company}, {person} signs for {product} up to {amount}; beyond that {other} does",
		"{person} is on leave from {date}; {other} covers {topic} for {company} (note {ref})",
	}},
}

// asides follow now and then: real mail has quotes, markup, emoji, other scripts and long numbers.
var asides = []string{
	` (subject line: "RE: <draft> terms & conditions")`,
	" – “finally 🎉”, as {first} put it",
	" (客户编号 {long})",
	" — ticket {long}",
	" 👍🏽 from {first} & team",
	"; {first} wrote \"we're <all in> if R&D agrees\"",
	" (社内メモ:至急、{first}さんに確認)",
	` [share: \\fileserver\sales\{ref}]`,
}

// sentences make the evidence.
var sentences = []string{
	"Thanks for the quick call on {date}, it helped a lot to see {product} with our own data.\n",
	"We should have budget approval by {quarter}, and I would rather not wait longer than {date}. ",
	"As discussed, the number we have in mind is {amount}, including onboarding for the {city} team. ",
	"{other} from our side will join next time, since {topic} falls into their area. ",
	"Could you send the security questionnaire again? The link in your mail of {date} has expired.\n",
	"To be frank, {rival} came in {percent} lower, but their answer on {topic} was not convincing. ",
	"I checked with legal: clause {ref} is fine, the liability cap of {amount} is not. ",
	"We are at {n} users today and plan for twice that by {date}. ",
	"Please keep {other} <{mail}> in copy.\n",
	"> On {date} at {clock}, {other} wrote:\n> Is {topic} covered by the {product} licence, or is it extra?\n",
	"Our fiscal year ends on {date}, so the purchase order has to be out before. ",
	"Honestly? The team loves it 🚀 – {n} tickets closed in the first month. ",
	"Für {city} brauchen wir noch die Freigabe von {other}, spätestens am {date}. ",
	"Merci de confirmer le montant de {amount} avant le {date}, c’est déjà validé chez nous. ",
	"お世話になっております。{date}までにお見積り({amount})をいただけますと幸いです。\n",
	"Next steps: (1) {other} shares the export, (2) we review {topic}, (3) decision on {date}.\n",
	"The \"no-surprises\" rule applies: anything above {amount} goes to the board first. ",
	"Reference {ref}, internal number {long}. ",
	"R&D wants to see if latency < {n} ms & uptime > 99.9% hold under our load. ",
	"We moved the workshop in {city} to {date} at {clock}, room and dial-in stay the same. ",
	"If {topic} slips again, I cannot defend the renewal in front of {other}. ",
	"Last year we paid {amount} for the same volume, so please explain the difference. ",
	"Sorry for the late answer, the audit kept all of us busy until {date}. ",
	"Best regards\n\n--\n{other} | {role} | {city}\n\n",
}

var (
	firstNames = []string{
		"John", "Zoë", "José", "Amara", "Łukasz", "Priya", "Søren", "Chloé", "Mateo", "Ingrid", "Kwame", "Leila", "Tomás",
		"Hannah", "Björn", "Aoife", "Rafael", "Noor", "Daniel", "Élodie", "Viktor", "Sofia", "Omar", "Grace", "Jürgen",
		"Nadia", "Felipe", "Maeve", "Arjun", "Clara", "Emil", "Fatima", "Hugo", "Iris", "Jonas", "Katarína", "Liam",
		"Mireille", "Nils", "Olivia", "Paulo", "Rosa", "Samuel", "Tilda", "Umut", "Valentina", "Willem", "Yara",
	}
	lastNames = []string{
		"Smith", "Okafor", "García", "Nowak", "Müller", "Andersson", "Dubois", "Rossi", "Haddad", "Sharma", "O’Brien",
		"Kowalczyk", "Jensen", "Silva", "Novák", "Fischer", "Moreau", "Costa", "Lindqvist", "Mensah", "Petrov", "Brandt",
		"Núñez", "Walsh", "Ekström", "Yıldız", "Barros", "Keller", "Laurent", "Marchetti", "Nguyen", "Oyelaran", "Pereira",
		"Quist", "Reyes", "Schäfer", "Tanner", "Ueda", "Vogel", "Whitfield", "Xavier", "Young", "Zimmermann", "Ångström",
		"Bright", "Castellano", "Delacroix", "Eriksen", "Farouk", "Gallagher", "Hofmann", "Ivers", "Jankowski", "Kaya",
	}
	// asianNames are written as they are; the second column is for addresses.
	asianNames = [][2]string{
		{"田中 美咲", "misaki.tanaka"}, {"佐藤 健一", "kenichi.sato"}, {"李伟", "wei.li"}, {"王芳", "fang.wang"},
		{"김서연", "seoyeon.kim"}, {"박준호", "junho.park"}, {"陳怡君", "yijun.chen"}, {"鈴木 陽子", "yoko.suzuki"},
	}
	companyNames = []string{
		"Northwick", "Kestrel", "Halden", "Brüggemann", "Quillon", "Maravel", "Tessaly", "Ostrava Metall", "Fjordane",
		"Vela Nova", "Corvane", "Dunmore", "Elmsworth", "Ferrance", "Grünwald", "Hartley & Voss", "Ironbridge", "Juniper Row",
		"Kaldera", "Lumenor", "Montclair", "Nordhavn", "Ochoa & Daughters", "Pellworth", "Rådhus", "Silverbrook", "Trevanion",
		"Umbrage", "Verdane", "Westerlund", "Yarrow", "Zephyria", "Ardenne", "Bellamy", "Cinderford", "Drayton",
	}
	companyForms = []string{
		"Logistics", "Labs", "Foods", "Robotics", "Health", "Energy", "Textiles", "Insurance", "Systems", "Partners",
		"Marine", "Analytics", "GmbH", "S.A.", "AB", "Ltd", "Biotech", "Studios",
	}
	roles = []string{
		"head of procurement", "CFO", "VP Sales", "IT director", "chief of staff", "plant manager", "COO", "data protection officer",
		"head of customer success", "general counsel", "head of R&D", "regional manager", "CTO", "controller",
	}
	products = []string{
		"Pulse Analytics", "Atlas CRM", "Fleetwise", "Harbor Backup", "the Enterprise plan", "Ledgerline", "Signal Desk",
		"the API gateway", "Beacon Search", "Quoteflow",
	}
	topics = []string{
		"single sign-on", "data residency", "the migration", "onboarding", "reporting", "SLA penalties", "invoice approval",
		"mobile access", "the audit trail", "multi-currency pricing", "support response times", "the CRM cleanup",
		"lead scoring", "GDPR exports", "warehouse integration", "forecast accuracy",
	}
	cities = []string{
		"Lisbon", "Zürich", "Kraków", "Austin", "São Paulo", "Malmö", "Nairobi", "Singapore", "Montréal", "Leeds", "大阪",
		"Wrocław", "Cape Town", "Bogotá", "Lyon", "Utrecht",
	}
	// asciiFold makes addresses of the names above.
	asciiFold = []string{
		"ä", "a", "å", "a", "á", "a", "ã", "a", "ç", "c", "é", "e", "è", "e", "ë", "e", "í", "i", "ı", "i", "ł", "l", "ñ", "n",
		"ó", "o", "ö", "o", "ø", "o", "ú", "u", "ü", "u", "’", "", ".", "", " & ", "-", " ", "-",
	}
)
