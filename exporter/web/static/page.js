// Fetches this page again every few seconds and takes over what has changed; the page works without.
"use strict";

const SECONDS = 5;
const KEY = "knock-exporter.paused";
const box = document.querySelector(".refresh");
const button = document.getElementById("pause");
const told = document.getElementById("updated");
const trouble = document.getElementById("trouble");
let updated = new Date();
let paused = false;
let asking = false;
try {
  paused = sessionStorage.getItem(KEY) === "yes";
} catch {
  // Storage is switched off: the pause lasts as long as the page.
}

// Elements with an id are the same before and after; others are where they stand among their kind.
function partner(fresh, rest) {
  const same = (each) => each.nodeName === fresh.nodeName && (each.id || "") === (fresh.id || "");
  const index = rest.findIndex(same);
  return index < 0 ? null : rest.splice(index, 1)[0];
}

function takeAttributes(old, fresh) {
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
}

// Nodes stay where they can, and with them focus, selection, scroll positions and what is open.
function become(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  takeAttributes(old, fresh);
  const rest = [...old.childNodes];
  const wanted = [...fresh.childNodes].map((child) => {
    const kept = partner(child, rest);
    if (kept) become(kept, child);
    return kept || child;
  });
  for (const each of rest) each.remove();
  wanted.forEach((child, index) => {
    if (old.childNodes[index] !== child) old.insertBefore(child, old.childNodes[index] || null);
  });
}

function take(fresh) {
  const focus = document.activeElement;
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (other && part.outerHTML !== other.outerHTML) become(part, other);
  }
  if (document.activeElement === focus) return;
  // It was moved, or has gone from this page.
  (focus.isConnected ? focus : document.getElementById("main")).focus({ preventScroll: true });
}

function isSelecting() {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed);
}

function tell(problem) {
  if (!problem) updated = new Date();
  const time = `${updated.toISOString().slice(11, 19)} UTC`;
  told.textContent = `updated ${time}`;
  const text = problem && `${problem}: what you see is of ${time}.`;
  if (trouble.textContent !== text) trouble.textContent = text;
}

async function ask() {
  const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(2 * SECONDS * 1000) });
  if (!answer.ok && answer.status !== 404) throw new Error(String(answer.status));
  return { gone: !answer.ok, page: new DOMParser().parseFromString(await answer.text(), "text/html") };
}

async function refresh() {
  if (asking || paused || document.hidden || isSelecting()) return;
  asking = true;
  try {
    const { gone, page } = await ask();
    if (paused || isSelecting()) return;
    if (!gone) {
      take(page);
      document.title = page.title;
    }
    tell(gone ? "This is not followed any more" : "");
  } catch {
    tell("The exporter does not answer as it should");
  } finally {
    asking = false;
  }
}

async function go() {
  await refresh();
  setTimeout(go, SECONDS * 1000);
}

function show() {
  button.setAttribute("aria-pressed", String(paused));
  box.hidden = false;
}

function toggle() {
  paused = !paused;
  try {
    sessionStorage.setItem(KEY, paused ? "yes" : "no");
  } catch {
    // As above.
  }
  show();
  refresh();
}

if (box) {
  button.addEventListener("click", toggle);
  document.addEventListener("visibilitychange", refresh);
  tell("");
  show();
  setTimeout(go, SECONDS * 1000);
}

// What is not asked for needs no place in the URL.
const form = document.querySelector(".filters");
form?.addEventListener("formdata", ({ formData }) => {
  for (const [name, value] of [...formData]) if (!value) formData.delete(name);
});
