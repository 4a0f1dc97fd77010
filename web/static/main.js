// SPDX-License-Identifier: Apache-2.0
// What is shown: log in, the cluster, a VM. Addresses are fragments, so that the server
// need know nothing of them.

import { h, put, toast } from "./dom.js";
import { state, on, enter, login, logout } from "./store.js";
import { overview } from "./overview.js";
import { vmPage } from "./vm.js";
import { confirm } from "./actions.js";

const $ = (id) => document.getElementById(id);
let page = null;

function drawTop() {
  const { me, info, link } = state;
  put($("top"), h("a", { href: "#/", class: "brand", id: "home" }, h("img", { src: "icon.svg", alt: "", width: 22, height: 22 }), "tandem"),
    me && h("span", { class: "where" }, info.name ? "node " + info.name : ""),
    h("span", { class: "space" }),
    me && h("span", { class: "link " + link, role: "status" }, { live: "live", lost: "connection lost", connecting: "connecting" }[link]),
    me && h("span", { class: "who", title: me.expires ? "until " + new Date(me.expires).toLocaleString() : "" }, me.by === "socket" ? "local" : `${me.name} (${me.role})`),
    h("button", { type: "button", class: "quiet", id: "help", onclick: help, "aria-label": "Keys" }, "?"),
    me && me.by === "token" && h("button", { type: "button", class: "quiet", id: "logout", onclick: () => logout().catch((e) => toast(e.message, true)) }, "Log out"));
  const { trouble, etcd_voters: voters, etcd_voters_heard: heard } = info;
  const text = !me ? "" : trouble ? "The cluster can't be followed; VMs run on. " + trouble
    : info.name === "" ? "This host is in no cluster yet: run tandem cluster init, or tandem cluster join with a token."
    : voters && heard * 2 <= voters ? `Only ${heard} of ${voters} members of etcd are heard: nothing can be claimed or planned.` : "";
  put($("banner"), text && h("p", {}, text));
}

function drawLogin() {
  page?.close();
  page = null;
  document.title = "tandem: log in";
  const input = h("input", { type: "password", id: "token", name: "token", autocomplete: "current-password", required: true, spellcheck: "false" });
  const trouble = h("p", { class: "note bad", role: "alert", hidden: true });
  const form = h("form", { class: "card login", onsubmit: async (e) => {
    e.preventDefault();
    trouble.hidden = true;
    try {
      await login(input.value.trim());
      route();
    } catch (err) {
      trouble.textContent = err.message;
      trouble.hidden = false;
      input.select();
    }
  } }, h("h1", {}, "Log in"), h("input", { type: "text", name: "username", autocomplete: "username", value: "tandem", hidden: true, tabindex: -1 }), h("label", { for: "token" }, "Token"), input, trouble, h("button", { type: "submit", class: "main", id: "login" }, "Log in"),
    h("p", { class: "muted small" }, "On any host of the cluster, ", h("code", {}, "tandem cluster token create --role operate"), " makes one: ", h("code", {}, "view"), " looks, ", h("code", {}, "operate"), " works with VMs, ", h("code", {}, "admin"), " does everything."));
  put($("main"), form);
  input.focus();
  drawTop();
}

function route() {
  if (!state.me) return drawLogin();
  page?.close();
  const [, name] = /^#\/vm\/(.+)$/.exec(location.hash) || [];
  const root = $("main");
  try {
    page = name ? vmPage(root, decodeURIComponent(name)) : overview(root);
  } catch {
    location.hash = "#/"; // an address that is none
    return;
  }
  document.title = (page.title ? page.title + " · " : "") + "tandem";
  drawTop();
  scrollTo(0, 0);
}

function help() {
  const rows = [["/", "filter VMs"], ["j, k", "next VM, VM before"], ["Enter", "open the one in focus"], ["g", "to the cluster"], ["c", "open the console of a VM"], ["Shift+Esc", "leave a console"], ["?", "this"]];
  confirm({ title: "Keys", yes: "Good", text: [], fields: [h("dl", { class: "keys" }, rows.map(([k, what]) => h("div", {}, h("dt", {}, h("kbd", {}, k)), h("dd", {}, what)))), h("input", { type: "hidden" })] });
}

function step(by) {
  const links = [...document.querySelectorAll(".vm h3 a")];
  if (links.length) links[(links.indexOf(document.activeElement) + by + links.length) % links.length].focus();
}

const keys = { "/": () => $("filter")?.focus(), j: () => step(1), k: () => step(-1), g: () => (location.hash = "#/"), c: () => $("do-console")?.click(), "?": help };

addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, textarea, select, dialog") || !state.me) {
    if (e.key === "Escape" && e.target.id === "filter") e.target.blur();
    return;
  }
  if (keys[e.key]) {
    e.preventDefault();
    keys[e.key]();
  }
});
addEventListener("hashchange", () => location.hash !== "#main" && route());
$("skip").addEventListener("click", (e) => {
  e.preventDefault();
  $("main").focus();
});

on((what, name) => {
  if (what === "me") return route();
  if (["info", "link", "all"].includes(what)) drawTop();
  page?.change(what, name);
});

(async function begin() {
  try {
    await enter();
    route();
  } catch (e) {
    put($("main"), h("p", { class: "note bad" }, e.message));
    setTimeout(begin, 3000);
  }
})();
