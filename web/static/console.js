// SPDX-License-Identifier: Apache-2.0
// A VM's console in the page. When another copy becomes the VM it is joined again there.

import { h } from "./dom.js";
import { state, vmPath } from "./store.js";
import { Screen, bytesOf } from "./screen.js";

const again = 700, later = 3000; // ms between two tries, and while the VM does not run
const piece = 4096; // of what is pasted

export function openConsole(name, closed) {
  const page = h("div", { class: "page" });
  const typed = h("textarea", { class: "typed", id: "typed", rows: 1, autocapitalize: "off", autocomplete: "off", autocorrect: "off", spellcheck: "false", "aria-label": `Console of ${name}: what is typed goes to the guest. Shift and Escape leave it.` });
  const box = h("div", { class: "terminal", onclick: () => getSelection().isCollapsed && typed.focus({ preventScroll: true }) }, page, typed);
  const word = h("span", { class: "muted" });
  const element = h("div", { class: "console" }, box,
    h("p", { class: "bar" }, word, h("span", { class: "muted hint" }, "Shift+Esc leaves the keyboard · Ctrl+Shift+C copies"),
      h("button", { type: "button", id: "console-close", onclick: () => stop() }, "Close")));
  const text = new TextEncoder();
  function send(s) {
    const b = text.encode(s);
    for (let i = 0; i < b.length && socket?.readyState === WebSocket.OPEN; i += piece) socket.send(b.subarray(i, i + piece));
  }
  const screen = new Screen(page, send);
  let socket = null, over = false, before = false;

  function say(what) {
    word.textContent = what;
    element.dataset.state = what;
  }

  function join() {
    if (over) return;
    say(before ? "looking for the VM …" : "joining …");
    const s = (socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/v1" + vmPath(name, "/console") + (before ? "?recent=no" : "")));
    s.binaryType = "arraybuffer";
    s.onopen = () => {
      before = true;
      say("joined");
    };
    s.onmessage = (e) => screen.write(new Uint8Array(e.data));
    s.onclose = () => {
      if (over) return;
      const runs = state.vms.get(name)?.primary?.state === "running";
      say(runs ? "the primary is gone, or can't be reached; looking for the VM …" : "the VM does not run");
      setTimeout(join, runs ? again : later);
    };
  }

  function stop() {
    over = true;
    socket?.close();
    element.remove();
    closed();
  }

  typed.addEventListener("keydown", (e) => {
    if (e.key === "Escape" && e.shiftKey) {
      e.preventDefault();
      return document.getElementById("console-close").focus();
    }
    if (e.key.startsWith("Page") && e.shiftKey) {
      e.preventDefault();
      return box.scrollBy(0, (e.key === "PageUp" ? -0.9 : 0.9) * box.clientHeight);
    }
    const b = bytesOf(e, screen.keys);
    if (b === null) return;
    e.preventDefault();
    e.stopPropagation();
    send(b);
  });
  typed.addEventListener("input", (e) => {
    if (e.isComposing) return;
    send(typed.value.replace(/\r?\n/g, "\r"));
    typed.value = "";
  });
  typed.addEventListener("compositionend", () => {
    send(typed.value);
    typed.value = "";
  });
  join();
  return { element, stop, focus: () => typed.focus({ preventScroll: true }) };
}
