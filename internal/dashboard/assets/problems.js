// What is wrong, out of what the API answers: pure functions, the worst first. do names the actions of page.js that mend it.

import { span } from "./time.js";

const conditions = {
  nats: "NATS cannot be reached or takes nothing: nothing comes in and nothing goes out. Look at its disk and at the relay's log.",
  fanout: "The log is not being read: nothing is delivered. Look at the relay's log.",
  streams: "None of this replica's streams is up: nothing comes from Nex. See the workspaces below.",
  leases: "This replica has no session and may hold no streams: NATS is slow, or away.",
};

const outcomes = {
  delivered: "delivered", gone: "the receiver is gone (410)", throttled: "the receiver asks for less", client_error: "refused by the receiver",
  server_error: "the receiver failed", redirect: "a redirect, which is not followed", unexpected: "an answer that HTTP does not know",
  timeout: "no answer in time", dns_error: "the name was not found", dial_error: "no connection", tls_error: "no TLS connection",
  refused_target: "an address that the relay does not call", proxy_error: "the proxy failed", connection_error: "the connection broke",
  not_granted: "the receiver did not consent", invalid_request: "a request that cannot be made", canceled: "cut by a stop of the relay",
};

// outcome is an outcome in words, with the status and the error that belong to it.
export function outcome(a) {
  let text = outcomes[a.outcome] ?? a.outcome ?? "not attempted";
  if (a.status) text += ", status " + a.status;
  if (a.error) text += ": " + a.error;
  return text;
}

// undelivered is what an endpoint is still to get, in words; empty where it is not known.
export function undelivered(u) {
  if (!u) return "";
  if (!u.count) return "Nothing is undelivered.";
  const old = u.oldest?.age_seconds ? `, the oldest ${span(u.oldest.age_seconds)} old` : "";
  return `${u.exact ? "" : "At least "}${u.count} undelivered${old}.`;
}

// mayResume tells whether the API can let an endpoint go on: a pause in the config file is taken back there.
export const mayResume = (e) => e.state === "disabled" && e.enabled || e.source === "api";

export function endpointLevel(e) {
  if (e.state === "disabled" || e.failing_since || e.held_up || e.loss_ahead) return "bad";
  if (e.state === "paused" || e.filter_error || e.warnings?.length) return "warn";
  return "good";
}

export function endpointState(e) {
  if (e.state !== "active") return e.state;
  if (e.held_up) return "held up";
  return e.failing_since ? "failing" : "active";
}

function ofEndpoint(e, last, left) {
  const list = [];
  const add = (level, what, why, act, since) => list.push({ key: `endpoint ${e.id} ${what} ${list.length}`, level, endpoint: e, what: `${e.id}: ${what}`, why, act, since });
  const lately = last ? `Its last failure: ${outcome(last)}.${last.response ? `\nIt answered: ${last.response.slice(0, 300)}` : ""}` : "";
  const waits = undelivered(left), kept = e.loss_ahead ? "" : "Nothing is lost: it keeps its place in the log.";
  if (e.loss_ahead) {
    add("bad", "the log will lose what it is still to get", [waits, e.state === "active" ? "Mend its receiver, or let the log keep more (stream.max_age, stream.max_bytes)." : "Resume it, or let the log keep more (stream.max_age, stream.max_bytes)."].filter(Boolean).join("\n"),
      e.state === "active" ? ["test", "attempts"] : ["resume", "test"], e.loss_ahead);
  }
  if (e.state === "disabled") {
    const paused = e.disabled?.reason === "paused over the API";
    add(paused ? "warn" : "bad", paused ? "paused" : "disabled by the relay", [e.disabled?.reason, paused ? "" : lately, waits, kept].filter(Boolean).join("\n"),
      ["resume", "test", "attempts"], e.disabled?.at);
  } else if (e.state === "paused") {
    const how = mayResume(e) ? "By its owner." : "It has enabled: false in the config file, and is resumed there.";
    add("warn", "paused", [how, waits, kept].filter(Boolean).join("\n"), mayResume(e) ? ["resume", "test"] : ["test"]);
  }
  if (e.state === "active" && e.held_up) {
    add("bad", "held up", [`Event ${e.held_up.sequence} fails, and an ordered endpoint waits for it; attempt ${e.held_up.attempt} is next.`, lately, waits].filter(Boolean).join("\n"), ["test", "retry", "attempts", "pause"], e.failing_since);
  } else if (e.state === "active" && e.failing_since) {
    add("bad", "failing", [lately || "It has taken nothing since.", waits].filter(Boolean).join("\n"), ["test", "retry", "attempts", "pause"], e.failing_since);
  }
  if (e.filter_error) add("warn", "its filter fails on events", `${e.filter_error.count} times, the last: ${e.filter_error.error}`, [], e.filter_error.at);
  for (const w of e.warnings ?? []) add("warn", "will not be delivered to", w, []);
  return list;
}

function ofWorkspace(w) {
  const broken = { unauthorized: "its key is refused", waiting: "its stream is down" }[w.state];
  const out = { key: "workspace " + w.workspace, since: w.since };
  if (broken) {
    const mend = w.state === "unauthorized" ? "Give it a key with the scope insight.stream, in the file or the secret it is read from: it is taken up at once." : "";
    return [{ ...out, level: "bad", what: `${w.workspace}: ${broken}`, why: [w.last_error, mend].filter(Boolean).join("\n"), act: [] }];
  }
  if (w.warning || w.last_error) {
    return [{ ...out, level: "warn", what: `${w.workspace}: ${w.warning ? "misconfigured" : "had a fault"}`, why: [w.warning, w.last_error].filter(Boolean).join("\n"), act: [] }];
  }
  return [];
}

export function workspaceLevel(w) {
  return ofWorkspace(w)[0]?.level ?? (w.state === "connected" || w.state === "elsewhere" ? "good" : "warn");
}

// groups are dead letters by endpoint and class: what fails alike is mended alike.
export function groups(letters) {
  const all = new Map();
  for (const d of letters) {
    const key = d.endpoint + " " + d.class;
    const g = all.get(key) ?? { key, endpoint: d.endpoint, class: d.class, count: 0, newest: d };
    g.count++;
    all.set(key, g);
  }
  return [...all.values()];
}

export function problems({ ready, workspaces, endpoints, lastFailure, undelivered: left, letters, moreLetters }) {
  const list = [];
  for (const [name, holds] of Object.entries(ready ?? {})) {
    if (!holds) list.push({ key: "ready " + name, level: "bad", what: `The relay is not ready: ${name}`, why: conditions[name] ?? "", act: [] });
  }
  for (const w of workspaces) list.push(...ofWorkspace(w));
  for (const e of endpoints) list.push(...ofEndpoint(e, lastFailure.get(e.id), left.get(e.id)));
  for (const g of groups(letters)) {
    list.push({
      key: "dead " + g.key, level: "bad", group: g, what: `${g.endpoint}: ${g.count}${moreLetters ? " or more" : ""} dead letter${g.count === 1 && !moreLetters ? "" : "s"}, class ${g.class}`,
      why: `Given up after ${g.newest.attempts} attempts, the last: ${outcome(g.newest)}. They are kept until they are delivered or deleted.`,
      act: ["retryGroup"], since: g.newest.at,
    });
  }
  const rank = (p) => (p.level === "bad" ? 0 : 1);
  return list.sort((a, b) => rank(a) - rank(b));
}
