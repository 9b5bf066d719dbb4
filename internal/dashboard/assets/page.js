// The page: asks the API, shows what is wrong first, and does what its buttons say.

import { Fault, call, hasToken, list, readiness, setToken } from "./api.js";
import { ageAll, byID, confirm, el, keep, say, when } from "./dom.js";
import * as feed from "./feed.js";
import { endpointLevel, endpointState, mayResume, outcome, problems, undelivered, workspaceLevel } from "./problems.js";

// failuresMost are looked for, each so seldom: among many endpoints and attempts that costs the relay some tenths of a second.
const often = 10_000, shownMost = 200, fetchedMost = 10_000, failuresMost = 10, failuresSeldom = 30_000, countSeldom = 60_000;

const now = {
  at: 0, // when the relay last answered
  permission: null, ready: null, workspaces: [], endpoints: [], moreEndpoints: false, letters: [], moreLetters: false, lettersMost: 25,
  lastFailure: new Map(), // of the endpoints that fail, by id
  asked: new Map(), // when it was looked for
  undelivered: new Map(), // what the worst are still to get, by id
  counted: new Map(), // when that was asked for
  attempts: new Map(), // that are open: by the place on the page, of which endpoint they are, and they
  results: new Map(), // what became of what was done, by endpoint
};

const mayWrite = () => now.permission?.access === "write";
const seg = encodeURIComponent;

// Actions. Each answers what to say.

async function test(e) {
  const r = await call("POST", `api/v1/endpoints/${seg(e.id)}/test`);
  const text = r.delivered ? `The test event was delivered: status ${r.status}, ${Math.round(r.duration_ms)} ms.`
    : `The test event was not delivered: ${outcome(r)}${r.response ? `\nIt answered: ${r.response}` : ""}`;
  now.results.set(e.id, { text, bad: !r.delivered });
  return { text: `${e.id}: ${text}`, bad: !r.delivered };
}

async function pause(e) {
  await call("POST", `api/v1/endpoints/${seg(e.id)}/disable`);
  return { text: `${e.id} is paused. It keeps its place in the log.` };
}

async function resume(e) {
  const usual = e.resume || "all";
  const modes = [["all", "everything, oldest first"], ["newest-first", "everything, the newest first"], ["latest-per-target", "of each target the latest only"], ["skip", "nothing of it, what waits is removed too"]]
    .filter(([mode]) => !e.ordered || mode === "all" || mode === "skip");
  const mode = await confirm(`Resume ${e.id}`, "What does it get of what came meanwhile?", "Resume", modes.map(([m, what]) => [m, `${m}: ${what}`, m === usual]));
  if (mode === null) return null;
  await call("POST", `api/v1/endpoints/${seg(e.id)}/enable`, { resume: mode });
  return { text: `${e.id} is active again.` };
}

async function tryNow(e) {
  let n = 0;
  for (let more = true; more;) {
    const r = await call("POST", `api/v1/endpoints/${seg(e.id)}/retry`);
    n += r.retried;
    more = r.more;
  }
  return { text: n ? `${e.id}: ${n} deliver${n === 1 ? "y is" : "ies are"} tried now, not later.` : `${e.id}: nothing waits for a later attempt.` };
}

async function retryLetter(d) {
  await call("POST", `api/v1/dead-letters/${d.id}/retry`);
  return { text: `Event ${d.event_id} is delivered to ${d.endpoint} after all.` };
}

async function retryGroup(g) {
  const yes = await confirm(`Deliver all dead letters of ${g.endpoint}, class ${g.class}?`, "Each has its whole schedule before it again, and leaves the dead letters.", "Deliver them");
  if (yes === null) return null;
  let done = 0, skipped = 0, reasons = [];
  for (let more = true, after = 0; more;) {
    const r = await call("POST", `api/v1/dead-letters/retry`, { endpoint: g.endpoint, class: g.class, after });
    done += r.done;
    skipped += r.skipped ?? 0;
    reasons = [...new Set([...reasons, ...(r.reasons ?? [])])].slice(0, 5);
    more = r.more;
    after = r.last;
    if (more) say(`${done} are delivered after all, going on…`);
  }
  return { text: `${done} dead letters are delivered after all.${skipped ? ` ${skipped} stay: ${reasons.join("; ")}` : ""}`, bad: skipped > 0 };
}

async function retryAttempt(e, a) {
  await call("POST", `api/v1/endpoints/${seg(e.id)}/attempts/${a.id}/retry`);
  return { text: `Event ${a.event_id} is delivered to ${e.id} again.` };
}

async function toggleAttempts(e, where) {
  if (now.attempts.has(where)) now.attempts.delete(where);
  else await loadAttempts(e.id, where);
  return null;
}

async function loadAttempts(id, where) {
  now.attempts.set(where, { id, data: (await call("GET", `api/v1/endpoints/${seg(id)}/attempts?limit=10`)).data });
}

// button does something once at a time, says what became of it, and has the page look again.
function button(label, name, at, act, main) {
  const b = el("button", { type: "button", "aria-label": name, class: main ? "main" : null }, label);
  b.dataset.at = at;
  b.addEventListener("click", async () => {
    b.disabled = true;
    try {
      const said = await act();
      if (said) say(said.text, said.bad);
    } catch (fault) {
      failed(fault, name);
    }
    b.disabled = false;
    await look();
    [...document.querySelectorAll("[data-at]")].find((n) => n.dataset.at === at)?.focus();
  });
  return b;
}

function failed(fault, what) {
  if (!(fault instanceof Fault)) throw fault;
  if (fault.status === 401) refused(fault);
  else say(`${what}: ${fault.message}${fault.status ? ` (${fault.status})` : ""}`, true);
}

function endpointButtons(e, which, where) {
  const open = now.attempts.has(where);
  const all = {
    test: () => mayWrite() && button("Test", `Send a test event to ${e.id}`, where + "test", () => test(e)),
    retry: () => mayWrite() && button("Try now", `Try what waits for ${e.id} now`, where + "retry", () => tryNow(e)),
    pause: () => mayWrite() && button("Pause", `Pause ${e.id}`, where + "pause", () => pause(e)),
    resume: () => mayWrite() && mayResume(e) && button("Resume…", `Resume ${e.id}`, where + "resume", () => resume(e), true),
    attempts: () => {
      const b = button(open ? "Hide attempts" : "Attempts", `${open ? "Hide" : "Show"} the last attempts of ${e.id}`, where + "attempts", () => toggleAttempts(e, where));
      b.setAttribute("aria-expanded", String(open));
      return b;
    },
  };
  return which.map((name) => all[name]?.());
}

// What is shown.

// state is told anew to who listens to the page only when it changes.
function state(text, level) {
  if (byID("state").textContent !== text) byID("state").textContent = text;
  byID("state").className = "state " + level;
}

const badge = (level, text) => el("span", { class: "badge " + level }, text);

function showProblem(p) {
  const acts = p.endpoint ? endpointButtons(p.endpoint, p.act, p.key) : p.group && mayWrite()
    ? [button("Deliver them after all…", `Deliver the dead letters of ${p.group.endpoint}, class ${p.group.class}`, p.key, () => retryGroup(p.group), true)] : [];
  const shown = acts.filter(Boolean);
  return el("li", { class: p.level },
    el("div", { class: "head" }, el("h3", {}, p.what), p.since && el("span", { class: "muted" }, p.group && "the newest ", when(p.since)), badge(p.level, p.level === "bad" ? "wrong" : "look")),
    p.why && el("p", { class: "why" }, p.why), p.endpoint && result(p.endpoint.id),
    p.endpoint && p.act.includes("attempts") && attempts(p.endpoint, p.key), shown.length > 0 && el("div", { class: "actions" }, ...shown));
}

function result(id) {
  const r = now.results.get(id);
  return r && el("p", { class: "why " + (r.bad ? "bad" : "good") }, r.text);
}

function attempts(e, where) {
  const open = now.attempts.get(where);
  if (!open) return null;
  if (!open.data.length) return el("p", { class: "muted" }, "No attempts within three days.");
  return el("ul", { class: "attempts" }, ...open.data.map((a) => el("li", { class: "row" },
    el("div", { class: "head" }, when(a.at), `attempt ${a.attempt}`, el("span", { class: a.outcome === "delivered" ? "good" : "bad" }, outcome(a)), `${Math.round(a.duration_ms)} ms`,
      a.next_at && el("span", {}, "next ", when(a.next_at))),
    mayWrite() && a.sequence > 0 && a.outcome !== "delivered" && el("div", { class: "actions" }, button("Deliver again", `Deliver event ${a.event_id} to ${e.id} again`, `${where}again${a.id}`, () => retryAttempt(e, a))),
    el("p", { class: "muted code" }, `${a.type} ${a.event_id}`), a.response && el("p", { class: "code muted" }, a.response))));
}

function showEndpoint(e) {
  const level = endpointLevel(e), left = now.undelivered.get(e.id);
  const facts = [e.url, `gets ${e.events.join(", ")} of ${e.workspaces.length ? e.workspaces.join(", ") : "all workspaces"}`, e.ordered && "ordered", e.filter && `filter ${e.filter}`, e.source === "config" && "of the config file"];
  return el("li", { class: level + " row" },
    el("div", { class: "head" }, el("h3", {}, e.id), badge(level, endpointState(e))),
    el("div", { class: "actions" }, ...endpointButtons(e, [e.state === "active" ? "pause" : "resume", "test", "attempts"], "list " + e.id).filter(Boolean)),
    e.description && el("p", {}, e.description), el("p", { class: "muted code" }, facts.filter(Boolean).join("\n")),
    e.failing_since && el("p", { class: "bad" }, "Failing since ", when(e.failing_since)),
    left && el("p", {}, undelivered(left)),
    result(e.id), attempts(e, "list " + e.id));
}

function showLetter(d) {
  return el("li", { class: "bad row" },
    el("div", { class: "head" }, el("h3", {}, `${d.endpoint}: ${d.event_id}`), badge("bad", "class " + d.class)),
    mayWrite() && el("div", { class: "actions" }, button("Deliver after all", `Deliver event ${d.event_id} to ${d.endpoint} after all`, "letter " + d.id, () => retryLetter(d))),
    el("p", { class: "why" }, outcome(d)), el("p", { class: "muted" }, `${d.reason.replaceAll("_", " ")}, ${d.attempts} attempts, given up `, when(d.at)));
}

function showWorkspace(w) {
  const level = workspaceLevel(w);
  return el("li", { class: level },
    el("div", { class: "head" }, el("h3", {}, w.workspace), badge(level, w.state)),
    w.last_error && el("p", { class: "why " + (level === "bad" ? "bad" : "warn") }, w.last_error), w.warning && el("p", { class: "why warn" }, w.warning),
    el("p", { class: "muted" }, w.since && el("span", {}, w.state, " since ", when(w.since), ". "), w.last_event_at && el("span", {}, "Last event ", when(w.last_event_at), ". "),
      w.complete_to && el("span", {}, "Complete up to ", when(w.complete_to), ". "), w.next_attempt && el("span", {}, "Tries again ", when(w.next_attempt), ". "),
      w.replica && `Held by ${w.replica}. `, `${w.received} received, ${w.published} new, ${w.duplicates} known already${w.malformed ? `, ${w.malformed} malformed` : ""}.`));
}

function show() {
  const open = (id, where) => [now.attempts.get(where) ?? null, now.results.get(id) ?? null, now.undelivered.get(id) ?? null, mayWrite()];
  const wrong = problems(now);
  const bad = wrong.filter((p) => p.level === "bad").length;
  state(bad ? `${bad} ${bad === 1 ? "thing is" : "things are"} wrong` : wrong.length ? `${wrong.length} to look at` : "All is well", bad ? "bad" : wrong.length ? "warn" : "good");
  document.title = (bad ? `(${bad}) ` : "") + "relay";
  byID("fine").hidden = wrong.length > 0;
  keep(byID("problem-list"), wrong.slice(0, shownMost), (p) => p.key, (p) => [p, p.endpoint && open(p.endpoint.id, p.key), mayWrite()], showProblem);

  const search = byID("search").value.trim().toLowerCase();
  const rank = { bad: 0, warn: 1, good: 2 };
  const found = now.endpoints.filter((e) => [e.id, e.url, ...e.workspaces].some((t) => t.toLowerCase().includes(search)))
    .sort((a, b) => rank[endpointLevel(a)] - rank[endpointLevel(b)] || (a.id < b.id ? -1 : 1));
  keep(byID("endpoint-list"), found.slice(0, shownMost), (e) => e.id, (e) => [e, open(e.id, "list " + e.id)], showEndpoint);
  byID("endpoint-count").textContent = `${now.endpoints.length}${now.moreEndpoints ? " and more" : ""}`;
  byID("endpoint-more").textContent = found.length > shownMost ? `${found.length - shownMost} more: search for them.` : found.length ? "" : search ? "None has that." : "There are none yet.";

  keep(byID("dead-list"), now.letters, (d) => String(d.id), (d) => [d.id, mayWrite()], showLetter);
  byID("dead-count").textContent = now.letters.length ? `${now.letters.length}${now.moreLetters ? " and more" : ""}` : "none";
  byID("dead-more").hidden = !now.moreLetters;
  keep(byID("workspace-list"), now.workspaces, (w) => w.token, (w) => w, showWorkspace);
  ageAll();
}

// Looking: everything is asked anew, one at a time; who asks meanwhile is given the next answer.

let looking = null, lookAgain = false;

async function look() {
  if (looking) {
    lookAgain = true;
    return looking;
  }
  looking = (async () => {
    do {
      lookAgain = false;
      await lookOnce();
    } while (lookAgain);
  })().finally(() => { looking = null; });
  return looking;
}

async function lookOnce() {
  try {
    now.permission = await call("GET", "api/v1/token");
    now.ready = await readiness();
    now.workspaces = (await call("GET", "api/v1/workspaces")).data;
    const endpoints = await list("GET", "api/v1/endpoints?limit=1000", fetchedMost);
    [now.endpoints, now.moreEndpoints] = [endpoints.data, endpoints.more];
    const letters = await list("GET", "api/v1/dead-letters?limit=25", now.lettersMost);
    now.letters = letters.data.map(({ event, ...d }) => d); // the event itself is not shown, and may be large
    now.moreLetters = letters.more;
    await lookAtFailures();
    now.at = Date.now();
    entered();
    show();
    count();
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    if (fault.status === 401) return refused(fault);
    state(fault.message + (now.at ? `: what you see is of ${new Date(now.at).toLocaleTimeString()}` : ""), "bad");
    document.title = "(!) relay";
  }
}

// count asks what the worst are still to get, beside the looking: with a filter it may take the relay a while.
let counting = false;

async function count() {
  if (counting) return;
  counting = true;
  const rank = { bad: 0, warn: 1, good: 2 };
  const worst = now.endpoints.filter((e) => endpointLevel(e) !== "good").sort((a, b) => rank[endpointLevel(a)] - rank[endpointLevel(b)]).slice(0, failuresMost);
  forget(now.counted, now.undelivered, new Set(worst.map((e) => e.id)));
  for (const { id } of worst) {
    if (Date.now() - (now.counted.get(id) ?? 0) < countSeldom) continue;
    now.counted.set(id, Date.now());
    const left = await call("GET", `api/v1/endpoints/${seg(id)}/undelivered`).catch(() => null); // what is wrong the next look tells
    if (left) now.undelivered.set(id, left);
    else now.undelivered.delete(id);
    show();
  }
  counting = false;
}

// forget drops what is known of those that are not meant any more.
function forget(asked, known, meant) {
  for (const id of asked.keys()) {
    if (!meant.has(id)) {
      asked.delete(id);
      known.delete(id);
    }
  }
}

async function lookAtFailures() {
  const known = new Set(now.endpoints.map((e) => e.id));
  for (const [where, { id }] of now.attempts) {
    if (known.has(id)) await loadAttempts(id, where);
    else now.attempts.delete(where);
  }
  const failing = new Set(now.endpoints.filter((e) => e.failing_since || e.held_up || e.state === "disabled").slice(0, failuresMost).map((e) => e.id));
  forget(now.asked, now.lastFailure, failing);
  for (const id of failing) {
    if (Date.now() - (now.asked.get(id) ?? 0) < failuresSeldom) continue;
    now.asked.set(id, Date.now());
    const [last] = (await call("GET", `api/v1/endpoints/${seg(id)}/attempts?limit=1&failed=true`)).data;
    if (last) now.lastFailure.set(id, last);
  }
}

function entered() {
  const p = now.permission;
  byID("login").hidden = true;
  byID("content").hidden = false;
  byID("forget").hidden = !hasToken();
  byID("who").textContent = `${p.name}: ${p.access === "write" ? "may change things" : "only reads"}${p.workspaces.length ? `, of ${p.workspaces.join(", ")}` : ""}`;
  feed.run((news) => {
    if (/^nex\.relay\.(endpoint|stream)/.test(news.type)) soon();
  }, refused);
}

// soon looks in a moment: news come in numbers.
let coming = 0;
function soon() {
  if (!coming) coming = setTimeout(() => { coming = 0; look(); }, 1000);
}

function refused(fault) {
  byID("refused").textContent = hasToken() ? fault.message : "";
  setToken("");
  byID("content").hidden = true;
  byID("forget").hidden = true;
  byID("who").textContent = "";
  state("A token is needed", "");
  document.title = "relay";
  if (byID("login").hidden) {
    byID("login").hidden = false;
    byID("token").focus();
  }
}

byID("login").addEventListener("submit", (e) => {
  e.preventDefault();
  setToken(byID("token").value);
  byID("token").value = "";
  look();
});
byID("forget").addEventListener("click", () => {
  setToken("");
  location.reload();
});
byID("said-close").addEventListener("click", () => { byID("said").hidden = true; });
byID("search").addEventListener("input", show);
byID("dead-more").addEventListener("click", () => {
  now.lettersMost += 25;
  look();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
feed.prepare();
setInterval(ageAll, often);
setInterval(() => { if (!document.hidden && byID("login").hidden) look(); }, often);
look();
