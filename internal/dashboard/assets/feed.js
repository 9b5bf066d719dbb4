// The live feed: what /api/v1/live tells, the newest first.

import { Fault, stream } from "./api.js";
import { byID, el } from "./dom.js";
import { outcome } from "./problems.js";

const most = 200, again = 3000;
let waiting = [], due = false, held = false, running = false, last = "";

const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

function describe(kind, e) {
  switch (kind) {
    case "event":
      return { text: `${clock(e.stored)}  event ${e.sequence}  ${e.workspace}  ${e.type}  ${e.subject ?? ""}` };
    case "news": {
      const bad = /(failing|disabled|dead_letter|loss_ahead|unauthorized|disconnected|not_fillable|malformed|same_workspace)$/.test(e.type);
      return { bad, text: `${clock(e.stored)}  news ${e.sequence}  ${e.workspace === "_" ? "" : e.workspace + "  "}${e.type}  ${e.subject ?? ""}  ${e.data ? JSON.stringify(e.data) : ""}` };
    }
    case "attempt": {
      const next = e.verdict === "retry" && e.next_at ? `  again at ${clock(e.next_at)}` : e.verdict === "dead" ? "  given up" : "";
      return { bad: e.outcome !== "delivered", text: `${clock(e.at)}  attempt ${e.attempt}  ${e.endpoint}  ${e.type}  ${outcome(e)}  ${Math.round(e.duration_ms)} ms${next}` };
    }
    case "dropped":
      return { bad: true, always: true, text: `${e.count} entries are missing here: this page was too slow for them` };
  }
  return null;
}

const wanted = (kind, d) => d.always || byID("show-" + kind)?.checked && (d.bad || !byID("show-failed").checked);

// draw puts what has come since the last frame on the page: however much comes, the page is changed once a frame.
function draw() {
  due = false;
  if (held) return;
  const box = byID("live-list");
  const rows = waiting.slice(-most).map(([kind, d]) => {
    const row = el("li", { class: d.bad ? "bad" : null }, d.text);
    row.dataset.kind = kind;
    row.dataset.bad = d.bad ? "yes" : "";
    row.hidden = !wanted(kind, d);
    return row;
  });
  waiting = [];
  box.prepend(...rows.reverse());
  while (box.children.length > most) box.lastChild.remove();
}

function tell(kind, text, onNews) {
  const e = JSON.parse(text);
  const d = describe(kind, e);
  if (!d) return;
  waiting.push([kind, d]);
  if (waiting.length > most) waiting.shift();
  if (kind === "news") onNews(e);
  if (!due) {
    due = true;
    requestAnimationFrame(draw);
  }
}

export function prepare() {
  byID("live-hold").addEventListener("click", () => {
    held = !held;
    byID("live-hold").setAttribute("aria-pressed", String(held));
    byID("live-hold").textContent = held ? "Go on" : "Hold";
    if (!held) draw();
  });
  for (const id of ["show-event", "show-attempt", "show-news", "show-failed"]) {
    byID(id).addEventListener("change", () => {
      for (const row of byID("live-list").children) row.hidden = !wanted(row.dataset.kind, { bad: row.dataset.bad !== "", always: row.dataset.kind === "dropped" });
    });
  }
}

// run keeps the feed open. refused is told when the token is not taken any more.
export async function run(onNews, refused) {
  if (running) return;
  running = true;
  const state = (text) => { byID("live-state").textContent = text; };
  for (; ;) {
    try {
      last = await stream("GET", "api/v1/live", last, () => state("connected"), (kind, text) => tell(kind, text, onNews));
      state("the connection ended, connecting again");
    } catch (fault) {
      state(fault.message);
      if (fault instanceof Fault && fault.status === 401) {
        running = false;
        refused(fault);
        return;
      }
      if (fault instanceof Fault && fault.status === 400) last = "";
    }
    await new Promise((done) => setTimeout(done, again));
  }
}
