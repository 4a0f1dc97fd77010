// SPDX-License-Identifier: Apache-2.0
// One VM: its two copies, how it does, what happened to it, and its console.

import { h, put, seconds, rate, percent, bytes, when } from "./dom.js";
import { state, newest, may, loadEvents, loadSamples } from "./store.js";
import { pill } from "./overview.js";
import { vmActions } from "./actions.js";
import { plot } from "./plot.js";
import { show } from "./history.js";
import { openConsole } from "./console.js";

const plots = [
  { title: "Execution lag", field: "execution_lag_seconds", format: seconds, least: 0.01 },
  { title: "Log rate", field: "log_bytes_per_second", format: rate, least: 12500, scale: 8 },
  { title: "Output delay", field: "output_delay_seconds", format: seconds, least: 0.001 },
  { title: "CPU share", field: "cpu_share", format: percent, least: 1, most: 1 },
];

function box(role, c, absent) {
  const node = c && state.nodes.get(c.node);
  return h("div", { class: "copy " + role + (c ? " " + c.state.replace(" ", "-") : " none") },
    h("span", { class: "role" }, role),
    c ? [h("strong", {}, c.node), h("span", { class: "state" }, c.state), node?.domain && h("small", { class: "muted" }, "domain " + node.domain)]
      : h("span", { class: "muted" }, absent));
}

function channel(v) {
  const x = newest(v.name), on = v.backup && ["protected", "syncing", "cloning"].includes(v.backup.state);
  return h("div", { class: "channel" + (on ? " on" : "") + (v.protected ? " good" : "") },
    h("span", { class: "wire", "aria-hidden": "true" }),
    on ? h("span", {}, x ? `lag ${seconds(x.execution_lag_seconds)} · log ${rate(x.log_bytes_per_second)}` : "logging channel") : h("span", { class: "muted" }, "no channel"));
}

function moving(v) {
  if (!v.move) return null;
  const { role, to, done, over, since } = v.move;
  if (done || (over && Date.now() / 1000 - since > 3600)) return null;
  return h("p", { class: over ? "note bad" : "note" }, over ? `The ${role} was not moved to ${to}: ${over}` : `The ${role} is on its way to ${to} …`);
}

function hardware(v) {
  const s = v.spec, rows = [["CPUs", s.cpus], ["Memory", bytes(s.memory)], ["Image", s.image], ["Kernel", s.kernel], ["Firmware", s.firmware], ["Network", s.network || "none"],
    ...(s.disks || []).map((d, i) => ["Disk", d + (s.disk_sizes?.[i] ? ` (${bytes(s.disk_sizes[i])})` : "")]), ["Engine", s.engine], ["Detection timeout", s.timeout],
    ["Made", when(new Date(v.made))], ["Labels", s.labels?.join(", ")], ["Groups", s.groups?.join(", ")], ["Spread", s.spread]];
  return h("dl", { class: "facts" }, rows.filter((r) => r[1]).map(([k, x]) => h("div", {}, h("dt", {}, k), h("dd", {}, String(x)))));
}

export function vmPage(root, name) {
  const head = h("div", { class: "head" }), pair = h("section", { class: "duo", "aria-label": "Copies" }), actions = h("div", { class: "actions", role: "toolbar", "aria-label": "Actions" });
  const figures = plots.map(plot), past = h("div"), list = h("ol", { class: "events" }), more = h("details", {}, h("summary", { id: "all-events" }, "All events"), list);
  const place = h("div"), facts = h("div");
  let open = null;
  const toggle = h("button", { type: "button", id: "do-console", onclick: () => join() }, "Open the console");
  function join() {
    open = openConsole(name, () => {
      open = null;
      put(place, toggle);
      toggle.focus();
    });
    put(place, open.element);
    open.focus();
  }
  function refuse() {
    if (open) return;
    const v = state.vms.get(name), off = !may("operate") ? "needs the role operate" : v?.primary?.state !== "running" ? "the VM does not run" : "";
    toggle.disabled = !!off;
    toggle.title = off;
    if (!toggle.isConnected) put(place, toggle);
  }
  put(root, head, pair, actions,
    h("section", { class: "plots", "aria-label": "Live numbers" }, figures.map((f) => f.figure)),
    h("section", { class: "card" }, h("h2", {}, "History"), past, more),
    h("section", { class: "card" }, h("h2", {}, "Console"), place),
    h("section", { class: "card" }, h("h2", {}, "Hardware"), facts));

  function draw() {
    const v = state.vms.get(name);
    if (!v) {
      put(head, h("p", { class: "crumb" }, h("a", { href: "#/", id: "up" }, "‹ Cluster")), h("h1", {}, name), h("p", { class: "muted" }, "There is no VM of this name, or not any more."));
      return put(pair), put(actions);
    }
    put(head, h("p", { class: "crumb" }, h("a", { href: "#/", id: "up" }, "‹ Cluster")), h("div", { class: "bar" }, h("h1", {}, v.name), pill(v), h("span", { class: "muted" }, "epoch " + v.epoch)),
      v.detail && h("p", { class: "muted" }, v.detail), moving(v));
    put(pair, box("primary", v.primary, v.power ? "starting …" : "not running"), channel(v), box("backup", v.backup, v.ft ? "none yet" : "FT is disabled"), v.next && box("next", v.next));
    put(actions, vmActions(v));
    put(facts, hardware(v));
    refuse();
  }
  function drawPast() {
    const events = state.events.get(name) || [];
    show(past, events, [...state.nodes.keys()].sort());
    if (more.open) drawList(events);
  }
  const drawList = (events) => put(list, events.slice().reverse().map((e) => h("li", {}, h("time", { datetime: e.time }, when(new Date(e.time))), h("span", { class: "kind" }, e.kind), h("span", { class: "at" }, e.node), h("span", {}, e.text))));
  more.addEventListener("toggle", () => more.open && drawList(state.events.get(name) || []));
  function tick() {
    const samples = state.samples.get(name) || [], v = state.vms.get(name), now = Date.now();
    figures.forEach((f) => f.update(samples, now));
    if (v) pair.querySelector(".channel")?.replaceWith(channel(v));
  }
  draw();
  drawPast();
  tick();
  loadEvents(name).catch(() => {});
  loadSamples(name).catch(() => {});
  const timer = setInterval(tick, 1000), slow = setInterval(drawPast, 30000);
  return {
    title: name,
    change(what, which) {
      if (what === "tick" || what === "info" || what === "link") return;
      if (what === "event") return which === name && drawPast();
      if (what === "vm" && which !== name) return;
      draw();
      if (what === "all") drawPast();
    },
    close() {
      clearInterval(timer);
      clearInterval(slow);
      open?.stop();
    },
  };
}
