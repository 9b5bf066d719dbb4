// Package nexsim stands for Nex: keys with scopes, the insight stream (SSE), insights over REST, believable contents from
// a seed, and every fault a reader of Nex must survive. It serves tests, the demo and the simulate command.
//
// [Sim.Handler] answers Nex's paths under /api/developers/v1/ and under /v1/:
//
//	GET /v1/insights/stream   the stream: connect comment, replay of the newest 20, live batches, keepalive comments
//	GET /v1/insights          ?from= (inclusive) &to= (exclusive) or ?last=30m|2h|1d, &limit= (20; 100 at most), newest first
//
// A refused request gets {"code":int,"message":string}: 400, 401, 403, 404, 405, 429, or what a fault asks for.
//
// The control API under /_sim/ is a thin layer over the methods of [Sim]. It knows no keys and can fill memory on
// request: it is meant for loopback, so never serve the handler on an address that strangers reach. Bodies and answers
// are JSON, durations are texts such as "1.5s". "workspace" is a slug; [ws] marks where leaving it out means all of them.
//
//	GET  /_sim/            this list
//	GET  /_sim/state       connections, emitted insights and requests by status, per workspace
//	GET  /_sim/emitted     ?workspace= the insights emitted so far, oldest first
//	POST /_sim/emit        {workspace, count} generated, or {workspace, insights: […]}, or {workspace, event, data} as it is
//	POST /_sim/drop        {[ws], abort} ends open streams: cleanly, or with abort in mid-response
//	POST /_sim/stall       {[ws], new} open streams fall silent, keepalives too; new: streams to come as well
//	POST /_sim/resume      {[ws]} ends a stall; what was held back is sent
//	POST /_sim/refuse      {[ws], endpoint: stream|rest|"", status, retry_after, message, body, content_type, count}
//	POST /_sim/redirect    {[ws], endpoint, status: 302|307…, location, count}
//	POST /_sim/clear       {[ws]} ends refusals and redirects
//	POST /_sim/cut         {workspace} sends the first half of a live batch and breaks the streams
//	POST /_sim/garbage     {workspace, kind: json|binary|utf8|oversize, size} sends what is no insight
//	POST /_sim/wire        {[ws], line_ending: lf|crlf|cr, bom, retry, chunk, split_utf8, pause} how streams are written
//	POST /_sim/rate        {per_second} insights generated over all workspaces
//	POST /_sim/duplicates  {[ws], share: 0..1} part of the generated insights that repeats an earlier text
//	POST /_sim/limit       {per_second, burst, retry_after} requests per key, above it 429; 0 = no limit
//	POST /_sim/key         {workspace, token, scopes} adds a key or changes its scopes
//	POST /_sim/revoke      {token} removes a key and ends its streams
//	POST /_sim/rest        {shape: data|enriched, ids} how REST answers
//	POST /_sim/future      {refuse} REST answers 400 to windows that end in the future
//	POST /_sim/replay      {shape: batch|single|array, time: seconds|none} how new streams replay
//	POST /_sim/clock       {jump} moves the clock of emitted_at, created_at, from, to and last
package nexsim
