// SPDX-License-Identifier: Apache-2.0
// Live numbers as lines. SVG takes its colours from the style sheet, so light and dark
// need nothing here.

import { h, svg, put, clock } from "./dom.js";

const span = 300; // seconds
const W = 480, H = 160, left = 74, bottom = 18, top = 20;

// nice rounds a bound up to 1, 2 or 5 times a power of ten.
function nice(x) {
  if (!(x > 0)) return 1;
  const p = 10 ** Math.floor(Math.log10(x));
  for (const m of [1, 2, 5, 10]) if (m * p >= x * 0.999) return m * p;
  return 10 * p;
}

// short leaves out decimals that say nothing.
const short = (text) => text.replace(/\.(\d*?)0+ /, (_, d) => (d ? "." + d : "") + " ");

// runs cuts samples where seconds are missing or another copy became the VM.
function runs(list) {
  const out = [];
  let last = null;
  for (const x of list) {
    const t = Date.parse(x.time) / 1000;
    if (!last || t - last.t > 4 || x.epoch !== last.epoch) out.push([]);
    out[out.length - 1].push([t, x]);
    last = { t, epoch: x.epoch };
  }
  return out;
}

// plot makes a figure of one number; update draws the last minutes anew.
export function plot({ title, field, format, least, most, scale = 1 }) {
  const value = h("output", { class: "value" }, "–");
  const body = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", preserveAspectRatio: "none" });
  const note = svg("text", { class: "readout", x: W - 4, y: 12, "text-anchor": "end" });
  const hair = svg("line", { class: "hair", y1: top, y2: H - bottom, visibility: "hidden" });
  const figure = h("figure", { class: "plot " + field }, h("figcaption", {}, h("span", {}, title), value), body);
  let drawn = [], x = () => 0;

  body.addEventListener("pointermove", (e) => {
    const box = body.getBoundingClientRect();
    const at = ((e.clientX - box.left) / box.width) * W;
    let best = null;
    for (const d of drawn) if (!best || Math.abs(x(d[0]) - at) < Math.abs(x(best[0]) - at)) best = d;
    if (!best) return;
    hair.setAttribute("x1", x(best[0]));
    hair.setAttribute("x2", x(best[0]));
    hair.setAttribute("visibility", "visible");
    note.textContent = clock(new Date(best[0] * 1000)) + "  " + format(best[1][field]);
  });
  body.addEventListener("pointerleave", () => {
    hair.setAttribute("visibility", "hidden");
    note.textContent = "";
  });

  function update(list, now) {
    const end = now / 1000, begin = end - span;
    const parts = runs(list.filter((s) => Date.parse(s.time) / 1000 > begin));
    drawn = parts.flat();
    const peak = drawn.reduce((m, [, s]) => Math.max(m, s[field]), 0);
    const bound = most || nice(Math.max(least, peak * 1.05) * scale) / scale;
    x = (t) => left + ((t - begin) / span) * (W - left - 4);
    const y = (v) => H - bottom - (Math.min(v, bound) / bound) * (H - bottom - top);
    const lines = [0, 0.5, 1].map((f) => [
      svg("line", { class: "grid", x1: left, x2: W - 4, y1: y(f * bound), y2: y(f * bound) }),
      svg("text", { class: "axis", x: left - 6, y: y(f * bound) + 4, "text-anchor": "end" }, f ? short(format(f * bound)) : "0"),
    ]);
    const times = [0, 1, 2, 3, 4, 5].map((m) => svg("text", { class: "axis", x: x(end - m * 60), y: H - 4, "text-anchor": m ? "middle" : "end" }, m ? `−${m} min` : "now")).slice(0, 5);
    const paths = parts.map((p) => {
      const d = p.map(([t, s], i) => (i ? "L" : "M") + x(t).toFixed(1) + " " + y(s[field]).toFixed(1)).join("");
      return [svg("path", { class: "area", d: d + `L${x(p[p.length - 1][0]).toFixed(1)} ${y(0)}L${x(p[0][0]).toFixed(1)} ${y(0)}Z` }), svg("path", { class: "line", d })];
    });
    const marks = parts.slice(1).filter((p, i) => p[0][1].epoch !== parts[i][0][1].epoch).map((p) => [
      svg("line", { class: "mark", x1: x(p[0][0]), x2: x(p[0][0]), y1: top, y2: H - bottom }),
      svg("text", { class: "mark", x: Math.min(x(p[0][0]) + 4, W - 4), y: 12, "text-anchor": x(p[0][0]) > W - 60 ? "end" : "start" }, "epoch " + p[0][1].epoch),
    ]);
    put(body, lines, times, paths, marks, hair, note);
    const last = drawn[drawn.length - 1];
    const fresh = last && end - last[0] < 5;
    value.textContent = fresh ? format(last[1][field]) : "–";
    body.setAttribute("aria-label", `${title}: ${fresh ? format(last[1][field]) : "not known"} now, at most ${format(peak)} in the last 5 minutes`);
  }
  return { figure, update };
}

// spark is a line of the last minute, without axes.
export function spark(list, field, label) {
  const end = Date.now() / 1000, begin = end - 60;
  const near = list.filter((s) => Date.parse(s.time) / 1000 > begin);
  const peak = Math.max(1e-9, ...near.map((s) => s[field]));
  const d = near.map((s, i) => (i ? "L" : "M") + (((Date.parse(s.time) / 1000 - begin) / 60) * 120).toFixed(1) + " " + (26 - (s[field] / peak) * 22).toFixed(1)).join("");
  return svg("svg", { class: "spark " + field, viewBox: "0 0 120 28", preserveAspectRatio: "none", role: "img", "aria-label": label }, svg("path", { class: "line", d }));
}
