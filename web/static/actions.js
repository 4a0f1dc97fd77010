// SPDX-License-Identifier: Apache-2.0
// What can be done, as buttons. What hurts is asked for twice.

import { h, toast } from "./dom.js";
import { state, ask, may, vmPath } from "./store.js";

// confirm asks whether something is meant; fields may be in the question. It answers false or the form's values.
export function confirm({ title, text, yes, bad, fields = [] }) {
  return new Promise((done) => {
    const form = h("form", { method: "dialog" },
      h("h2", { id: "ask-title" }, title), text.map((t) => h("p", {}, t)), fields,
      h("menu", {}, h("button", { type: "button", id: "ask-no", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "submit", id: "ask-yes", class: bad ? "bad" : "main" }, yes)));
    const dialog = h("dialog", { "aria-labelledby": "ask-title" }, form);
    let answer = false;
    form.addEventListener("submit", () => (answer = Object.fromEntries(new FormData(form))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      done(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    (fields.length ? form.querySelector("select, input") : form.querySelector("#ask-no")).focus();
  });
}

async function run(what, ...request) {
  try {
    await ask(...request);
    toast(what);
  } catch (e) {
    toast(e.message, true);
  }
}

// button makes one that its role may press.
function button(id, label, role, act, props = {}) {
  const allowed = may(role);
  return h("button", { type: "button", id, onclick: act, disabled: !allowed, title: allowed ? undefined : `needs the role ${role}`, ...props }, label);
}

const change = (v, q, what) => run(what, "PATCH", vmPath(v.name), q);

async function stop(v) {
  if (await confirm({ title: `Stop ${v.name}?`, bad: true, yes: "Pull the plug",
    text: ["Both copies end at once, as when the plug is pulled: the guest is not asked, and what it has not written is lost.", "Shut down asks it first."] }))
    change(v, { power: false }, `${v.name} is being stopped`);
}

async function shutdown(v) {
  if (await confirm({ title: `Shut down ${v.name}?`, yes: "Press the power button", text: ["The guest ends its programs and powers off, and both copies end with it. One that does not answer runs on: Stop pulls its plug."] }))
    run(`the power button of ${v.name} is pressed`, "POST", vmPath(v.name, "/shutdown"));
}

async function reset(v) {
  if (await confirm({ title: `Reset ${v.name}?`, bad: true, yes: "Press reset", text: ["The guest boots anew at once, and what it has not written is lost."] }))
    run(`${v.name} is reset`, "POST", vmPath(v.name, "/reset"));
}

async function unprotect(v) {
  if (await confirm({ title: `Disable FT of ${v.name}?`, bad: true, yes: "Disable FT", text: ["Its backup ends, and no other is made: the loss of the primary's host is then the loss of the VM, until it is started from its disk."] }))
    change(v, { ft: false }, `FT of ${v.name} is disabled`);
}

async function fail(v) {
  if (await confirm({ title: `Test the failover of ${v.name}?`, bad: true, yes: "Kill the primary",
    text: [`The primary on ${v.primary?.node} is killed, as by kill -9, and the backup on ${v.backup?.node} goes on.`, "Connections stay open. The VM is not protected until a new backup is made, which takes some seconds."] }))
    run(`the primary of ${v.name} is killed`, "POST", vmPath(v.name, "/test-failover"));
}

async function move(v) {
  const fit = [...state.nodes.values()].filter((n) => n.state === "up" && !n.evacuation && !n.cordoned && !n.witness && n.name !== v.primary?.node);
  if (!fit.length) return toast("there is no other host that takes copies", true);
  const q = await confirm({ title: `Migrate ${v.name}`, yes: "Migrate",
    text: ["Connections stay open. To a host without a copy the backup is moved first; the VM is not protected while that is made."],
    fields: [
      h("label", {}, "Copy", h("select", { name: "role", id: "ask-role" }, h("option", { value: "primary" }, "primary"), v.ft && h("option", { value: "backup" }, "backup"))),
      h("label", {}, "To host", h("select", { name: "to", id: "ask-to" }, fit.map((n) => h("option", { value: n.name }, n.name + (n.name === v.backup?.node ? " (has the backup)" : ""))))),
    ] });
  if (q) run(`the ${q.role} of ${v.name} is to move to ${q.to}`, "POST", vmPath(v.name, "/move"), q);
}

// vmActions are the buttons of a VM.
export function vmActions(v) {
  const running = v.primary?.state === "running";
  const list = [
    v.power && v.primary?.state !== "powered off"
      ? button("do-stop", "Stop", "operate", () => stop(v), { class: "hurts" })
      : button("do-start", "Start", "operate", () => change(v, { power: true }, `${v.name} is being started`), { class: "main" }),
    running && v.power && button("do-shutdown", "Shut down", "operate", () => shutdown(v), { class: "hurts" }),
    running && button("do-reset", "Reset", "operate", () => reset(v), { class: "hurts" }),
    v.ft ? button("do-ft", "Disable FT", "operate", () => unprotect(v), { class: "hurts" })
         : button("do-ft", "Enable FT", "operate", () => change(v, { ft: true }, `FT of ${v.name} is enabled`)),
    running && button("do-move", "Migrate …", "operate", () => move(v)),
    v.protected && button("do-fail", "Test failover", "operate", () => fail(v), { class: "hurts" }),
  ];
  return list.filter(Boolean);
}

async function evacuate(n) {
  const q = await confirm({ title: `Evacuate ${n.name}?`, yes: "Evacuate",
    text: [`Its ${n.primaries} primaries and ${n.backups} backups move to other hosts, and it takes no more copies until it is restored.`],
    fields: [h("label", { class: "check" }, h("input", { type: "checkbox", name: "force", id: "ask-force" }), "even if VMs lose their protection by it")] });
  if (q) run(`${n.name} is being evacuated`, "PATCH", "/nodes/" + encodeURIComponent(n.name), { evacuation: q.force ? "force" : "evacuate" });
}

// nodeActions are the buttons of a host.
export function nodeActions(n) {
  if (n.witness) return [];
  return n.evacuation || n.cordoned
    ? [button("restore-" + n.name, "Restore", "operate", () => run(`${n.name} takes copies again`, "PATCH", "/nodes/" + encodeURIComponent(n.name), { evacuation: "", cordoned: false }))]
    : [button("evacuate-" + n.name, "Evacuate …", "operate", () => evacuate(n))];
}
