// SPDX-License-Identifier: Apache-2.0
// A VM's failovers, read out of its events: which copy was the VM when, when it was
// protected, and what each change of hands took.

import { h, svg, put, seconds, when, ago } from "./dom.js";

const change = /^(\S+) → (\S+?): ?([^]*)$/;
const owning = new Set(["Solo", "Syncing", "Protected", "Live"]);

// read makes reigns {epoch, node, from, to}, guarded {from, to} and incidents out of events.
export function read(events, now) {
  const reigns = [], guarded = [], incidents = [];
  let lost = new Map(); // when a node's copy noticed a loss, and why
  let asked = null;
  let open = null; // the span of protection
  const close = (t) => {
    if (open) guarded.push({ from: open, to: t });
    open = null;
  };
  const reign = (e, t) => {
    const last = reigns[reigns.length - 1];
    if (!e.epoch || (last && last.epoch >= e.epoch)) return;
    if (last) last.to = t;
    reigns.push({ epoch: e.epoch, node: e.node, from: t, to: now });
  };
  for (const e of events) {
    const t = Date.parse(e.time);
    if (e.kind === "asked" && /^(test-failover|move|power false)/.test(e.text)) asked = { t, text: e.text };
    const hint = asked && t - asked.t < 60000 ? asked.text : "";
    if (e.kind === "state") {
      const [, from, to, why] = change.exec(e.text) || [];
      if (!to) continue;
      if ((from === "Replaying" && to === "Draining") || (from === "Protected" && to === "Claiming")) lost.set(e.node, { t, why, from });
      if (from === "Protected" && to !== "Protected") close(t);
      if (to === "Protected") open = open || t;
      const l = lost.get(e.node);
      if (to === "Solo" && from === "Claiming" && l && l.from === "Protected")
        incidents.push({ t, kind: "backup lost", epoch: e.epoch, node: e.node, took: (t - l.t) / 1000, why: l.why, hint });
      if (owning.has(to)) reign(e, t);
    } else if (e.kind === "live") {
      close(t);
      reign(e, t);
      const l = lost.get(e.node);
      const swift = l && t - l.t < 60000;
      incidents.push({ t, kind: swift || e.epoch > 1 ? "failover" : "start", epoch: e.epoch, node: e.node, took: swift ? (t - l.t) / 1000 : null, why: swift ? l.why : e.text, hint });
      lost.delete(e.node);
    } else if (e.kind === "restarted" || e.kind === "diverged") {
      close(t);
      incidents.push({ t, kind: e.kind, epoch: e.epoch, node: e.node, took: null, why: e.text, hint });
    } else if (e.kind === "exit") close(t);
  }
  close(now);
  return { reigns, guarded, incidents };
}

export const failovers = (events, since) => read(events, Date.now()).incidents.filter((i) => i.kind === "failover" && i.t >= since);

const W = 960, lane = 34;

// line draws who was the VM when, and marks failovers.
function line({ reigns, guarded, incidents }, hosts, now) {
  const begin = Math.min(reigns[0].from, now - 60000), x = (t) => ((t - begin) / (now - begin)) * (W - 8) + 4;
  const hue = (node) => "host" + (Math.max(0, hosts.indexOf(node)) % 6);
  const step = [60, 300, 900, 3600, 4 * 3600, 86400, 7 * 86400].map((s) => s * 1000).find((s) => (now - begin) / s <= 8) || (now - begin) / 6;
  const ticks = [];
  for (let t = Math.ceil(begin / step) * step; x(t) < W - 44; t += step) {
    ticks.push(svg("line", { class: "grid", x1: x(t), x2: x(t), y1: 0, y2: 78 }), svg("text", { class: "axis", x: x(t) + 3, y: 90 }, when(new Date(t)).replace(/:00$/, "")));
  }
  const spans = reigns.map((r) => {
    const wide = x(r.to) - x(r.from);
    return svg("g", {}, svg("title", {}, `epoch ${r.epoch} on ${r.node}, from ${when(new Date(r.from))}`),
      svg("rect", { class: "reign " + hue(r.node), x: x(r.from), y: 4, width: Math.max(2, wide - 1), height: lane - 8, rx: 4 }),
      wide > 70 && svg("text", { class: "reign", x: x(r.from) + 8, y: 22 }, `${r.node} · ${r.epoch}`));
  });
  const safe = guarded.map((g) => svg("rect", { class: "guarded", x: x(g.from), y: lane + 4, width: Math.max(1.5, x(g.to) - x(g.from)), height: 10, rx: 2 }));
  const marks = incidents.filter((i) => i.kind !== "start").map((i) => svg("g", { class: "incident " + i.kind.replace(" ", "-") },
    svg("title", {}, `${i.kind}, ${when(new Date(i.t))}`),
    svg("line", { x1: x(i.t), x2: x(i.t), y1: 2, y2: 64 }), svg("path", { d: `M${x(i.t)} 62l5 9h-10z` })));
  return svg("svg", { class: "timeline", viewBox: `0 0 ${W} 96`, role: "img", "aria-label": "Which copy was the VM, when it was protected, and failovers" },
    ticks, svg("rect", { class: "bare", x: 4, y: lane + 4, width: W - 8, height: 10, rx: 2 }), safe, spans, marks);
}

const names = { failover: "Failover", "backup lost": "Backup lost", restarted: "Restarted from disk", diverged: "Diverged", start: "Went live" };

function row(i, now) {
  const what = { failover: `the copy on ${i.node} went live in epoch ${i.epoch}`, "backup lost": `the primary on ${i.node} went on alone` }[i.kind] || i.node;
  return h("li", { class: i.kind.replace(" ", "-") },
    h("time", { datetime: new Date(i.t).toISOString(), title: when(new Date(i.t)) }, when(new Date(i.t)), h("small", {}, ago(now - i.t))),
    h("div", {}, h("strong", {}, names[i.kind] || i.kind), ": ", what,
      i.took !== null && h("span", { class: "took" }, ` in ${seconds(i.took)}`),
      h("p", {}, i.why, i.hint && h("em", {}, ` — asked for: ${i.hint}`))));
}

// show fills an element with a VM's history.
export function show(into, events, hosts) {
  const now = Date.now(), past = read(events, now);
  const list = past.incidents.slice(-20).reverse();
  put(into,
    past.reigns.length ? h("div", { class: "scroll" }, line(past, hosts, now)) : null,
    past.reigns.length ? h("p", { class: "legend" }, h("span", { class: "key reigns" }, "host and epoch of the primary"), h("span", { class: "key safe" }, "protected"), h("span", { class: "key marked" }, "failover")) : null,
    list.length ? h("ol", { class: "incidents" }, list.map((i) => row(i, now))) : h("p", { class: "muted" }, "No failovers in the events that are kept."));
  const strip = into.querySelector(".scroll");
  if (strip) strip.scrollLeft = strip.scrollWidth; // what is newest
}
