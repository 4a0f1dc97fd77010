// SPDX-License-Identifier: Apache-2.0
// Elements, and numbers for people.

const svgNS = "http://www.w3.org/2000/svg";

function fill(e, props, kids) {
  for (const [k, v] of Object.entries(props || {})) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (v === true) e.setAttribute(k, "");
    else e.setAttribute(k, v);
  }
  e.append(...kids.flat(9).filter((k) => k !== undefined && k !== null && k !== false));
  return e;
}

export const h = (tag, props, ...kids) => fill(document.createElement(tag), props, kids);
export const svg = (tag, props, ...kids) => fill(document.createElementNS(svgNS, tag), props, kids);

// put replaces what is in an element; what had the focus keeps it, by its id.
export function put(e, ...kids) {
  const focused = e.contains(document.activeElement) ? document.activeElement.id : "";
  e.replaceChildren(...kids.flat(9).filter(Boolean));
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

const digits = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));

export function seconds(s) {
  if (!(s > 0)) return "0 ms";
  if (s < 1e-3) return digits(s * 1e6) + " µs";
  if (s < 1) return digits(s * 1e3) + " ms";
  if (s < 120) return digits(s) + " s";
  return (s / 60).toFixed(0) + " min";
}

// rate shows bytes per second in bits, as the papers do.
export function rate(bytes) {
  const b = bytes * 8;
  if (!(b >= 1000)) return Math.round(b || 0) + " bit/s";
  if (b < 1e6) return digits(b / 1e3) + " kbit/s";
  if (b < 1e9) return digits(b / 1e6) + " Mbit/s";
  return digits(b / 1e9) + " Gbit/s";
}

export const percent = (x) => Math.round(x * 100) + " %";

export function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1024) return (n >= 100 || n % 1 === 0 ? n.toFixed(0) : n.toFixed(1)) + " " + unit;
    n /= 1024;
  }
  return n.toFixed(1) + " TiB";
}

const two = (n) => String(n).padStart(2, "0");
export const clock = (t) => two(t.getHours()) + ":" + two(t.getMinutes()) + ":" + two(t.getSeconds());
export function when(t) {
  const day = new Date().toDateString() === t.toDateString() ? "" : t.getFullYear() + "-" + two(t.getMonth() + 1) + "-" + two(t.getDate()) + " ";
  return day + clock(t);
}

export function ago(ms) {
  const s = Math.max(0, ms / 1000);
  if (s < 60) return Math.floor(s) + " s ago";
  if (s < 3600) return Math.floor(s / 60) + " min ago";
  if (s < 172800) return Math.floor(s / 3600) + " h ago";
  return Math.floor(s / 86400) + " days ago";
}

// toast says what came of something; trouble stays until it is clicked away.
export function toast(text, bad) {
  const e = h("div", { class: "toast" + (bad ? " bad" : "") }, h("span", {}, text),
    h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => e.remove() }, "×"));
  document.getElementById("toasts").append(e);
  if (!bad) setTimeout(() => e.remove(), 6000);
}
