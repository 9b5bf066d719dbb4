package shape

import _ "embed"

// Templates for chat services, to be used as they are or as a beginning: whatever an event of up to MaxEvent bytes holds, what
// they make is valid JSON within the service's limits, and nothing in it mentions anybody. A bare URL may still become a link.
// docs/shapes.md shows what they make.
var (
	//go:embed templates/slack.json.tmpl
	SlackTemplate string
	//go:embed templates/teams.json.tmpl
	TeamsTemplate string
	//go:embed templates/discord.json.tmpl
	DiscordTemplate string
)
