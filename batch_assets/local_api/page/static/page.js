"use strict";

const REFRESH_MS = 1000;
const RETRY_MS = 5000;

// The printed address has a token behind "#", which browsers send to no server. It is posted once, and removed.
function signIn() {
  const form = document.getElementById("sign-in");
  const token = location.hash.slice(1);
  if (!form || !token) return;
  history.replaceState(null, "", location.pathname);
  form.elements.token.value = token;
  form.submit();
}

// The server writes times in UTC; the browser knows the user's time zone.
function showLocalTimes(root) {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  for (const time of root.querySelectorAll("time")) {
    time.title = time.textContent;
    time.textContent = format.format(new Date(time.dateTime));
  }
}

// While a batch runs, the page is loaded again, and the parts that have changed are replaced. The server's HTML is
// compared, not the page's: what the user has opened there stays open.
const shown = new Map();

function isRunning() {
  return document.querySelector('[data-live="running"]') !== null;
}

async function refresh() {
  let pause = REFRESH_MS;
  try {
    if (!document.hidden) await replaceChanged();
    document.getElementById("offline").hidden = true;
  } catch {
    document.getElementById("offline").hidden = false;
    pause = RETRY_MS;
  }
  if (isRunning()) setTimeout(refresh, pause);
}

async function replaceChanged() {
  const response = await fetch(location.href);
  if (response.redirected || response.status === 403) return location.reload(); // signed out
  if (!response.ok) throw new Error(String(response.status));
  const loaded = new DOMParser().parseFromString(await response.text(), "text/html");
  showLocalTimes(loaded);
  const focused = document.activeElement.id;
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = loaded.getElementById(part.id);
    if (next === null || next.outerHTML === shown.get(part.id)) continue;
    shown.set(part.id, next.outerHTML);
    part.replaceWith(document.importNode(next, true));
  }
  if (focused && document.activeElement.id !== focused) document.getElementById(focused)?.focus();
}

signIn();
addEventListener("hashchange", signIn);
showLocalTimes(document);
for (const part of document.querySelectorAll("[data-live]")) shown.set(part.id, part.outerHTML);
if (isRunning()) setTimeout(refresh, REFRESH_MS);
