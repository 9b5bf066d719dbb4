// Elements, out of text alone: nothing that comes from the API is ever read as markup.

import { span } from "./time.js";

export const byID = (id) => document.getElementById(id);

// el makes an element. Children are elements or texts; what is null or false is left out.
export function el(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== null && value !== false) e.setAttribute(name, value);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}

const signs = new WeakMap();

// keep shows items in a list and builds anew only what has changed, so that who reads, or is at a button, is not disturbed.
export function keep(parent, items, key, sign, build) {
  const old = new Map([...parent.children].map((n) => [n.dataset.key, n]));
  const nodes = items.map((item) => {
    const name = key(item), now = JSON.stringify(sign(item)), was = old.get(name);
    if (was && signs.get(was) === now) return was;
    const fresh = build(item);
    fresh.dataset.key = name;
    signs.set(fresh, now);
    return fresh;
  });
  if (nodes.length === parent.children.length && nodes.every((n, i) => n === parent.children[i])) return;
  const at = parent.contains(document.activeElement) ? document.activeElement.dataset.at : undefined;
  parent.replaceChildren(...nodes);
  if (at) [...parent.querySelectorAll("[data-at]")].find((n) => n.dataset.at === at)?.focus();
}

// when is a time as its distance, which ages, and whole for who asks.
export function when(time) {
  const e = el("time", { datetime: time, title: new Date(time).toLocaleString() });
  e.dataset.ages = "yes";
  age(e);
  return e;
}

function age(e) {
  const seconds = (Date.now() - Date.parse(e.dateTime)) / 1000;
  e.textContent = seconds < -0.5 ? `in ${span(seconds)}` : `${span(seconds)} ago`;
}

export const ageAll = () => document.querySelectorAll("time[data-ages]").forEach(age);

// say tells what became of something that was done.
export function say(text, bad) {
  byID("said-text").textContent = text;
  byID("said-text").className = bad ? "bad" : "";
  byID("said").hidden = false;
}

// confirm asks before something that is not taken back by a click: with choices, which one. It answers null for no.
export function confirm(title, text, yes, choices = []) {
  const dialog = byID("ask");
  byID("ask-title").textContent = title;
  byID("ask-text").textContent = text;
  byID("ask-yes").textContent = yes;
  byID("ask-choices").replaceChildren(...choices.map(([value, what, chosen]) =>
    el("label", { class: "choice" }, el("input", { type: "radio", name: "choice", value, checked: chosen ? "" : null }), " " + what)));
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener("close", () => {
      const chosen = byID("ask-choices").querySelector("input:checked")?.value ?? "";
      answer(dialog.returnValue === "yes" ? chosen : null);
    }, { once: true });
  });
}
