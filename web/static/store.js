// SPDX-License-Identifier: Apache-2.0
// The API, and what is known of the cluster. The stream keeps it true.

export const state = { me: null, info: {}, nodes: new Map(), vms: new Map(), events: new Map(), samples: new Map(), link: "connecting" };

const keptSamples = 300;
const roles = ["view", "operate", "admin"];
const listeners = new Set();

// on calls f(what, name) after each change, until the function that it returns is called.
export function on(f) {
  listeners.add(f);
  return () => listeners.delete(f);
}
const changed = (what, name) => listeners.forEach((f) => f(what, name));

export const may = (role) => !!state.me && roles.indexOf(state.me.role) >= roles.indexOf(role);

export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// ask asks the API.
export async function ask(method, path, body) {
  const options = { method, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch("/v1" + path, options);
  } catch {
    throw new Problem(0, "the node does not answer: is its daemon running?");
  }
  let value = {};
  try {
    value = await answer.json();
  } catch {} // an empty answer
  if (answer.ok) return value;
  if (answer.status === 401 && path !== "/session") leave();
  throw new Problem(answer.status, value.error || "the node answers " + answer.status);
}

export const vmPath = (name, rest = "") => "/vms/" + encodeURIComponent(name) + rest;

// enter finds out who we are, and follows the cluster; false: somebody must log in.
export async function enter() {
  try {
    state.me = await ask("GET", "/session");
  } catch (e) {
    if (e.status !== 401) throw e;
    leave();
    return false;
  }
  follow();
  return true;
}

export async function login(token) {
  await ask("POST", "/session", { token });
  return enter();
}

export async function logout() {
  await ask("DELETE", "/session");
  leave();
}

function leave() {
  stream?.close();
  stream = null;
  if (!state.me) return;
  state.me = null;
  for (const m of [state.nodes, state.vms, state.events, state.samples]) m.clear();
  changed("me");
}

let stream = null;
let waiting = null; // messages that came while how things are was being asked for

function link(word) {
  if (state.link === word) return;
  state.link = word;
  changed("link");
}

function follow() {
  stream?.close();
  const s = (stream = new EventSource("/v1/stream"));
  s.onopen = () => link("live");
  s.onerror = () => {
    if (s !== stream) return;
    link("lost");
    if (s.readyState !== EventSource.CLOSED) return; // it tries again by itself
    enter().catch(() => setTimeout(s.onerror, 3000));
  };
  s.addEventListener("reset", () => reload(s));
  for (const kind of ["info", "node", "vm", "gone", "event", "tick"]) {
    s.addEventListener(kind, (e) => {
      link("live");
      const v = JSON.parse(e.data);
      if (waiting) waiting.push([kind, v]);
      else take(kind, v);
    });
  }
}

// reload asks for how things are; what the stream says meanwhile is newer.
async function reload(s) {
  waiting = [];
  try {
    const [info, nodes, vms] = await Promise.all([ask("GET", "/info"), ask("GET", "/nodes"), ask("GET", "/vms")]);
    state.info = info;
    state.nodes = new Map(nodes.map((n) => [n.name, n]));
    state.vms = new Map(vms.map((v) => [v.name, v]));
    const known = [...state.events.keys()].filter((name) => state.vms.has(name));
    state.events.clear();
    await Promise.all([...new Set([...known, ...state.vms.keys()].slice(0, 100))].map(loadEvents));
    await Promise.all([...state.samples.keys()].map((name) => loadSamples(name)));
  } catch (e) {
    if (e.status === 503) state.info = { ...state.info, ...(await ask("GET", "/info").catch(() => ({}))) };
    if (s === stream && e.status !== 401) setTimeout(() => s === stream && reload(s), 3000);
  }
  const late = waiting;
  waiting = null;
  late.forEach(([kind, v]) => take(kind, v));
  changed("all");
}

// loadEvents asks for what happened to a VM.
export async function loadEvents(name) {
  state.events.set(name, await ask("GET", vmPath(name, "/events")));
  changed("event", name);
}

// loadSamples asks for the last minutes of a VM.
export async function loadSamples(name) {
  state.samples.set(name, await ask("GET", vmPath(name, "/samples")));
  changed("tick");
}

function take(kind, v) {
  switch (kind) {
    case "info":
      state.info = v;
      return changed("info");
    case "node":
      state.nodes.set(v.name, v);
      return changed("node", v.name);
    case "vm":
      state.vms.set(v.name, v);
      return changed("vm", v.name);
    case "gone":
      (v.kind === "vm" ? state.vms : state.nodes).delete(v.name);
      return changed(v.kind, v.name);
    case "event": {
      const list = state.events.get(v.vm) || [];
      if (list.some((e) => e.time === v.time && e.kind === v.kind && e.node === v.node)) return;
      list.push(v);
      list.sort((a, b) => (a.time < b.time ? -1 : 1));
      state.events.set(v.vm, list.slice(-200));
      return changed("event", v.vm);
    }
    case "tick":
      for (const x of v.samples) {
        const list = state.samples.get(x.vm) || [];
        if (list.length && list[list.length - 1].time >= x.time) continue;
        list.push(x);
        state.samples.set(x.vm, list.slice(-keptSamples));
      }
      return changed("tick");
  }
}

// newest is the newest sample of a VM, if it is one of the last seconds.
export function newest(name) {
  const list = state.samples.get(name) || [];
  const x = list[list.length - 1];
  return x && Date.now() - Date.parse(x.time) < 5000 ? x : null;
}
