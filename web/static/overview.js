// SPDX-License-Identifier: Apache-2.0
// The cluster at a glance.

import { h, put, seconds, rate, bytes, percent } from "./dom.js";
import { state, newest, loadSamples } from "./store.js";
import { nodeActions } from "./actions.js";
import { spark } from "./plot.js";
import { failovers } from "./history.js";

// look is how a status word looks: a class and a sign, so that colour is not all.
export function look(v) {
  if (v.deleted) return ["off", "○", "being deleted"];
  if (v.protected) return ["good", "●", v.status];
  if (!v.power && v.status.endsWith("not running")) return ["off", "○", v.status];
  if (/starting/.test(v.status)) return ["wait", "◐", v.status];
  if (/disabled/.test(v.status)) return ["plain", "◌", v.status];
  return ["bad", "▲", v.status];
}

export function pill(v) {
  const [kind, sign, text] = look(v);
  return h("span", { class: "pill " + kind }, h("span", { "aria-hidden": "true" }, sign), " ", text);
}

const copy = (role, c) => h("span", { class: "chip " + role + (c ? "" : " none") }, h("b", {}, role), c ? ` ${c.node} ` : " –", c && h("small", {}, c.state));

function figures(v) {
  const x = newest(v.name);
  return [
    ["lag", "Lag", x ? seconds(x.execution_lag_seconds) : "–", "execution_lag_seconds"],
    ["log", "Log", x ? rate(x.log_bytes_per_second) : "–", "log_bytes_per_second"],
    ["delay", "Output delay", x ? seconds(x.output_delay_seconds) : "–", "output_delay_seconds"],
    ["share", "CPU share", x ? percent(x.cpu_share) : "–", "cpu_share"],
  ].map(([id, label, text, field]) => h("div", { class: "figure" }, h("dt", {}, label), h("dd", {}, text), id !== "share" && spark(state.samples.get(v.name) || [], field, `${label}, the last minute`)));
}

function card(v) {
  return h("article", { class: "card vm", "data-vm": v.name },
    h("header", {}, h("h3", {}, h("a", { href: "#/vm/" + encodeURIComponent(v.name), id: "vm-" + v.name }, v.name)), pill(v)),
    v.detail && h("p", { class: "muted detail" }, v.detail),
    h("p", { class: "pair" }, copy("primary", v.primary), h("span", { class: "arrow", "aria-hidden": "true" }, "⇄"), copy("backup", v.backup)),
    v.primary && h("dl", { class: "figures" }, figures(v)),
    h("p", { class: "muted small" }, `epoch ${v.epoch} · ${v.spec.cpus} CPU${v.spec.cpus > 1 ? "s" : ""} · ${bytes(v.spec.memory)}`));
}

function host(n) {
  const used = Math.max(0, n.memory - n.memory_left), part = n.memory ? used / n.memory : 0;
  const kind = { up: "good", witness: "plain", down: "bad", dead: "off" }[n.state] || "bad";
  const sign = { up: "●", witness: "◌", down: "▲", dead: "○" }[n.state] || "▲";
  return h("article", { class: "card host" },
    h("header", {}, h("h3", {}, n.name, n.self && h("small", {}, " this node")), h("span", { class: "pill " + kind }, h("span", { "aria-hidden": "true" }, sign), " ", n.state)),
    h("p", { class: "muted small" }, [n.address, n.domain && "domain " + n.domain, n.etcd && "etcd " + n.etcd, n.evacuation && "evacuated", n.cordoned && "cordoned"].filter(Boolean).join(" · ")),
    !n.witness && [
      h("p", {}, `${n.primaries} primar${n.primaries === 1 ? "y" : "ies"}, ${n.backups} backup${n.backups === 1 ? "" : "s"} · ${n.cpus} CPUs`),
      h("meter", { min: 0, max: 1, value: part.toFixed(3), "aria-label": "memory used" }),
      h("p", { class: "muted small" }, n.memory ? `${bytes(n.memory_left)} of ${bytes(n.memory)} left` : "memory not known"),
    ],
    h("div", { class: "actions" }, nodeActions(n)));
}

// What needs somebody comes first.
const ranks = ["bad", "wait", "good", "plain", "off"];
const byNeed = (a, b) => ranks.indexOf(look(a)[0]) - ranks.indexOf(look(b)[0]) || byName(a, b);
const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true });

const maxAsked = 24; // VMs whose last minutes are asked for; of others only what comes from now on is shown

export function overview(root) {
  const asked = new Set();
  const sums = h("dl", { class: "sums" }), vms = h("div", { class: "grid" }), hosts = h("div", { class: "grid hosts" });
  const filter = h("input", { type: "search", id: "filter", placeholder: "Filter VMs  ( / )", "aria-label": "Filter VMs", oninput: () => drawVMs() });
  put(root, h("h1", { class: "sr" }, "Cluster"), sums,
    h("div", { class: "bar" }, h("h2", {}, "VMs"), filter), vms,
    h("h2", {}, "Hosts"), hosts);

  function drawSums() {
    const nodes = [...state.nodes.values()].filter((n) => !n.witness), list = [...state.vms.values()];
    const up = nodes.filter((n) => n.state === "up").length, wanted = list.filter((v) => v.power && v.ft), safe = wanted.filter((v) => v.protected).length;
    const past = [...state.events.values()].reduce((n, e) => n + failovers(e, Date.now() - 86400e3).length, 0);
    const { etcd_voters: voters, etcd_voters_heard: heard } = state.info;
    const sum = (label, value, of, bad) => h("div", { class: bad ? "bad" : "" }, h("dt", {}, label), h("dd", {}, String(value), of !== null && h("small", {}, ` of ${of}`)));
    put(sums, sum("hosts up", up, nodes.length, up < nodes.length), sum("VMs protected", safe, wanted.length, safe < wanted.length),
      voters > 0 && sum("etcd votes heard", heard, voters, heard < voters), sum("failovers in 24 h", past, null, false));
  }
  function drawVMs() {
    const want = filter.value.trim().toLowerCase();
    const list = [...state.vms.values()].filter((v) => [v.name, v.status, v.primary?.node, v.backup?.node].join(" ").toLowerCase().includes(want)).sort(byNeed);
    put(vms, list.length ? list.map(card)
      : h("p", { class: "muted" }, state.vms.size ? "No VM fits the filter." : "No VMs yet: tandem create makes one."));
  }
  const drawHosts = () => put(hosts, [...state.nodes.values()].sort(byName).map(host));
  function tick() {
    for (const e of vms.querySelectorAll("[data-vm]")) {
      const v = state.vms.get(e.dataset.vm);
      const into = e.querySelector(".figures");
      if (v && into) put(into, figures(v));
    }
  }
  const draw = () => (drawSums(), drawVMs(), drawHosts());
  function loadPast() {
    const running = [...state.vms.values()].filter((v) => v.primary?.state === "running" && !asked.has(v.name));
    for (const v of running.slice(0, maxAsked - asked.size)) {
      asked.add(v.name);
      loadSamples(v.name).catch(() => {});
    }
  }
  draw();
  loadPast();
  return {
    title: "",
    change(what) {
      if (what === "tick") return tick();
      if (what === "all") loadPast();
      if (what === "node" || what === "all") drawHosts();
      if (what === "vm" || what === "all") drawVMs();
      drawSums();
    },
    close() {},
  };
}
