// Fetches this page again every few seconds and exchanges what lives in it; the page works without.
"use strict";

const SECONDS = 5;
const KEY = "knock-exporter.paused";
const box = document.querySelector(".refresh");
const button = document.getElementById("pause");
const told = document.getElementById("updated");
let updated = new Date();
let paused = false;
try {
  paused = sessionStorage.getItem(KEY) === "yes";
} catch {
  // Storage is switched off: the pause lasts as long as the page.
}

function tell(problem) {
  const time = updated.toLocaleTimeString();
  told.textContent = problem ? `${problem}; as of ${time}` : `as of ${time}`;
  box.classList.toggle("old", Boolean(problem));
}

function show() {
  button.setAttribute("aria-pressed", String(paused));
  box.hidden = false;
}

// Where a person is in a part that is about to be exchanged: found again by the link or the id.
function place(part) {
  const active = document.activeElement;
  if (!part.contains(active)) return () => {};
  const selector = active.id
    ? `#${CSS.escape(active.id)}`
    : active.hasAttribute("href")
      ? `a[href="${CSS.escape(active.getAttribute("href"))}"]`
      : `${active.tagName}[aria-labelledby="${CSS.escape(active.getAttribute("aria-labelledby") || "")}"]`;
  const top = active.scrollLeft;
  return () => {
    const again = part.querySelector(selector) || (active.tagName === "SUMMARY" && part.querySelector("summary"));
    if (!again) return;
    again.focus({ preventScroll: true });
    again.scrollLeft = top;
  };
}

function exchange(part, fresh) {
  if (part.innerHTML === fresh.innerHTML) return;
  const open = [...part.querySelectorAll("details[open]")].map((each) => each.id);
  for (const id of open) fresh.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  const back = place(part);
  part.replaceChildren(...fresh.childNodes);
  back();
}

function isSelecting() {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed);
}

async function refresh() {
  if (paused || document.hidden || isSelecting()) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(SECONDS * 1000) });
    if (!answer.ok) {
      tell(answer.status === 404 ? "no longer followed" : `answered ${answer.status}`);
      return;
    }
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (paused || isSelecting()) return;
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
      if (other) exchange(part, other);
    }
    document.title = fresh.title;
    updated = new Date();
    tell("");
  } catch {
    tell("the exporter does not answer");
  }
}

async function go() {
  await refresh();
  setTimeout(go, SECONDS * 1000);
}

if (box) {
  button.addEventListener("click", () => {
    paused = !paused;
    try {
      sessionStorage.setItem(KEY, paused ? "yes" : "no");
    } catch {
      // As above.
    }
    show();
    if (!paused) refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  tell("");
  show();
  setTimeout(go, SECONDS * 1000);
}
