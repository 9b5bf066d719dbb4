// The relay's API, as this page asks it. The token stands in the Authorization header and in the session's storage, nowhere else.

const stored = "relay-token", patience = 60_000;
let token = sessionStorage.getItem(stored) ?? "";

export const hasToken = () => token !== "";

export function setToken(text) {
  token = text.trim();
  if (token) sessionStorage.setItem(stored, token);
  else sessionStorage.removeItem(stored);
}

// Fault is an answer that is none: what the API says is wrong, as it says it. Without an answer its status is 0.
export class Fault extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(method, path, { body, headers = {}, signal } = {}) {
  const init = { method, headers: { ...headers }, signal: signal ?? AbortSignal.timeout(patience), cache: "no-store", credentials: "omit", redirect: "error" };
  if (token) init.headers.Authorization = "Bearer " + token;
  if (body !== undefined) {
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new Fault(0, "the relay does not answer");
  }
  if (answer.ok) return answer;
  const text = await answer.text().catch(() => "");
  let said = text;
  try {
    said = JSON.parse(text).message ?? text;
  } catch { /* it comes from something in between */ }
  throw new Fault(answer.status, said || answer.statusText || "status " + answer.status);
}

// call is one request, and what it answers.
export async function call(method, path, body) {
  const answer = await ask(method, path, { body });
  try {
    return answer.status === 204 ? null : await answer.json();
  } catch {
    throw new Fault(0, "the relay's answer broke off");
  }
}

// list is a long list, page by page, up to most entries; more tells that there are others.
export async function list(method, path, most) {
  const data = [];
  for (let cursor = ""; ;) {
    const page = await call(method, cursor ? path + "&cursor=" + encodeURIComponent(cursor) : path);
    data.push(...page.data);
    if (!page.next || data.length >= most) return { data, more: Boolean(page.next) };
    cursor = page.next;
  }
}

// readiness is what /readyz says, whatever its status.
export async function readiness() {
  try {
    const answer = await fetch("readyz", { signal: AbortSignal.timeout(patience), cache: "no-store", credentials: "omit", redirect: "error" });
    return (await answer.json()).checks ?? {};
  } catch {
    return null;
  }
}

// events reads Server-Sent Events (WHATWG HTML, section 9.2.6) out of a text that comes in pieces. The relay ends lines with \n.
export function events(tell) {
  let rest = "", id = "", name = "", data = [];
  const line = (text) => {
    if (text === "") {
      if (data.length) tell(name || "message", data.join("\n"), id);
      name = "";
      data = [];
      return;
    }
    const colon = text.indexOf(":");
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
    else if (field === "id") id = value;
  };
  return (piece) => {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    lines.forEach(line);
  };
}

// stream tells what comes, until it ends or a minute has brought nothing, not even a comment: then the connection is a dead one. It
// goes on behind last, and answers where it is to go on the next time.
export async function stream(method, path, last, begun, tell) {
  const quiet = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => quiet.abort(), patience);
  };
  try {
    heard();
    const answer = await ask(method, path, { headers: last ? { "Last-Event-ID": last } : {}, signal: quiet.signal });
    begun();
    const feed = events((name, data, id) => {
      if (id) last = id;
      tell(name, data);
    });
    const text = new TextDecoder();
    const reader = answer.body.getReader();
    for (; ;) {
      const { done, value } = await reader.read();
      if (done) break;
      heard();
      feed(text.decode(value, { stream: true }));
    }
  } catch (e) {
    if (e instanceof Fault && e.status !== 0) throw e; // an answer; anything else is a connection that broke
  } finally {
    clearTimeout(timer);
  }
  return last;
}
