// SPDX-License-Identifier: Apache-2.0
// A terminal of 80 columns and 24 lines, as a serial console expects one: what a Linux
// console's programs use of ECMA-48 and xterm. It draws lines as text nodes.

const cols = 80, rows = 24, scrollback = 2000;
const blank = { fg: -1, bg: -1, bold: false, dim: false, line: false, inverse: false };
const same = (a, b) => a === b || (a.fg === b.fg && a.bg === b.bg && a.bold === b.bold && a.dim === b.dim && a.line === b.line && a.inverse === b.inverse);
const empty = () => Array.from({ length: cols }, () => ({ c: " ", a: blank }));

export class Screen {
  constructor(element, reply) {
    this.element = element;
    this.reply = reply; // to questions of programs
    this.decoder = new TextDecoder();
    this.past = document.createElement("div");
    this.page = document.createElement("div");
    element.append(this.past, this.page);
    this.lines = Array.from({ length: rows }, () => this.page.appendChild(document.createElement("div")));
    this.reset();
  }

  reset() {
    this.cells = Array.from({ length: rows }, empty);
    this.x = this.y = 0;
    this.at = blank;
    this.saved = [0, 0, blank];
    this.top = 0;
    this.end = rows - 1;
    this.wrapped = false; // the next character goes to the next line
    this.shown = true;
    this.keys = false; // application cursor keys
    this.other = null; // the main screen, while the alternate one is used
    this.left = [];
    this.step = this.ground;
    this.dirty = new Set(this.cells.keys());
    this.draw();
  }

  // write takes bytes of the guest.
  write(bytes) {
    for (const c of this.decoder.decode(bytes, { stream: true })) this.step(c);
    if (!this.asked) this.asked = requestAnimationFrame(() => this.draw());
  }

  ground(c) {
    const code = c.codePointAt(0);
    if (code >= 32 && code !== 127) return this.print(c);
    switch (c) {
      case "\r": this.x = 0; this.wrapped = false; break;
      case "\n": case "\v": case "\f": this.feed(); break;
      case "\b": this.to(this.x - 1, this.y); break;
      case "\t": this.to(Math.min(cols - 1, (this.x & ~7) + 8), this.y); break;
      case "\x1b": this.step = this.escape; break;
    }
  }

  escape(c) {
    this.step = this.ground;
    switch (c) {
      case "[": this.text = ""; this.step = this.control; break;
      case "]": case "P": case "^": case "_": this.step = this.string; break;
      case "(": case ")": case "#": case "%": this.step = () => (this.step = this.ground); break;
      case "7": this.saved = [this.x, this.y, this.at]; break;
      case "8": [this.x, this.y, this.at] = this.saved; this.touch(this.y); break;
      case "D": this.feed(); break;
      case "E": this.x = 0; this.feed(); break;
      case "M": if (this.y === this.top) this.down(1); else this.to(this.x, this.y - 1); break;
      case "c": this.reset(); break;
    }
  }

  string(c) { // ends with BEL, or with ESC \
    if (c === "\x07") this.step = this.ground;
    if (c === "\x1b") this.step = () => (this.step = this.ground);
  }

  control(c) {
    if (c >= "@" && c <= "~") {
      this.step = this.ground;
      this.command(c);
    } else if (c === "\x1b") this.step = this.escape;
    else if (this.text.length < 64) this.text += c;
  }

  command(c) {
    const hidden = this.text[0] === "?";
    if (/[<=>!"' $]/.test(this.text)) return;
    const n = this.text.replace("?", "").split(/[;:]/).map((s) => (s === "" ? undefined : Math.min(9999, Number(s) || 0)));
    const one = Math.max(1, n[0] || 1);
    switch (c) {
      case "A": this.to(this.x, Math.max(this.y >= this.top ? this.top : 0, this.y - one)); break;
      case "B": case "e": this.to(this.x, Math.min(this.y <= this.end ? this.end : rows - 1, this.y + one)); break;
      case "C": case "a": this.to(this.x + one, this.y); break;
      case "D": this.to(this.x - one, this.y); break;
      case "E": this.to(0, this.y + one); break;
      case "F": this.to(0, this.y - one); break;
      case "G": case "`": this.to(one - 1, this.y); break;
      case "d": this.to(this.x, one - 1); break;
      case "H": case "f": this.to((n[1] || 1) - 1, one - 1); break;
      case "J":
        if (!n[0]) this.clear(this.y, this.x, cols), this.wipe(this.y + 1, rows);
        else if (n[0] === 1) this.wipe(0, this.y), this.clear(this.y, 0, this.x + 1);
        else this.wipe(0, rows);
        break;
      case "K": this.clear(this.y, n[0] ? 0 : this.x, n[0] === 1 ? this.x + 1 : cols); break;
      case "X": this.clear(this.y, this.x, this.x + one); break;
      case "P": this.shift(one, 0); break;
      case "@": this.shift(0, one); break;
      case "L": this.region(this.y, () => this.down(one)); break;
      case "M": this.region(this.y, () => this.up(one)); break;
      case "S": this.up(one); break;
      case "T": this.down(one); break;
      case "r":
        this.top = Math.min(rows - 1, one - 1);
        this.end = Math.min(rows, n[1] || rows) - 1;
        if (this.top >= this.end) [this.top, this.end] = [0, rows - 1];
        this.to(0, 0);
        break;
      case "m": this.colour(n); break;
      case "s": this.saved = [this.x, this.y, this.at]; break;
      case "u": [this.x, this.y, this.at] = this.saved; this.touch(this.y); break;
      case "n": if (n[0] === 6) this.reply(`\x1b[${this.y + 1};${this.x + 1}R`); else if (n[0] === 5) this.reply("\x1b[0n"); break;
      case "c": this.reply("\x1b[?1;2c"); break;
      case "h": case "l": if (hidden) n.forEach((m) => this.mode(m, c === "h")); break;
    }
  }

  mode(m, set) {
    if (m === 1) this.keys = set;
    if (m === 25) { this.shown = set; this.touch(this.y); }
    if (![47, 1047, 1049].includes(m) || set === !!this.other) return;
    if (set) {
      this.other = [this.cells, this.x, this.y];
      this.cells = Array.from({ length: rows }, empty);
    } else {
      [this.cells, this.x, this.y] = this.other;
      this.other = null;
    }
    for (let i = 0; i < rows; i++) this.touch(i);
  }

  colour(n) {
    let a = { ...this.at };
    for (let i = 0; i < n.length; i++) {
      const p = n[i] || 0;
      if (p === 0) a = { ...blank };
      else if (p === 1) a.bold = true;
      else if (p === 2) a.dim = true;
      else if (p === 4) a.line = true;
      else if (p === 7) a.inverse = true;
      else if (p === 22) a.bold = a.dim = false;
      else if (p === 24) a.line = false;
      else if (p === 27) a.inverse = false;
      else if (p >= 30 && p <= 37) a.fg = p - 30;
      else if (p >= 40 && p <= 47) a.bg = p - 40;
      else if (p >= 90 && p <= 97) a.fg = p - 82;
      else if (p >= 100 && p <= 107) a.bg = p - 92;
      else if (p === 39) a.fg = -1;
      else if (p === 49) a.bg = -1;
      else if (p === 38 || p === 48) { // of the longer palettes only the first sixteen
        const c = n[i + 1] === 5 && n[i + 2] < 16 ? n[i + 2] : -1;
        a[p === 38 ? "fg" : "bg"] = c;
        i += n[i + 1] === 5 ? 2 : 4;
      }
    }
    this.at = same(a, blank) ? blank : a;
  }

  print(c) {
    if (this.wrapped) {
      this.x = 0;
      this.feed();
    }
    this.cells[this.y][this.x] = { c, a: this.at };
    this.touch(this.y);
    if (this.x === cols - 1) this.wrapped = true;
    else this.x++;
  }

  feed() {
    this.wrapped = false;
    if (this.y === this.end) this.up(1);
    else this.to(this.x, Math.min(rows - 1, this.y + 1));
  }

  to(x, y) {
    this.touch(this.y);
    this.x = Math.max(0, Math.min(cols - 1, x));
    this.y = Math.max(0, Math.min(rows - 1, y));
    this.wrapped = false;
    this.touch(this.y);
  }

  up(n) {
    for (n = Math.min(n, rows); n > 0; n--) {
      const [gone] = this.cells.splice(this.top, 1);
      if (this.top === 0 && !this.other) this.left.push(gone);
      this.cells.splice(this.end, 0, empty());
    }
    for (let i = this.top; i <= this.end; i++) this.touch(i);
  }

  down(n) {
    for (n = Math.min(n, rows); n > 0; n--) {
      this.cells.splice(this.end, 1);
      this.cells.splice(this.top, 0, empty());
    }
    for (let i = this.top; i <= this.end; i++) this.touch(i);
  }

  // region does something to the lines from one on.
  region(from, f) {
    if (from < this.top || from > this.end) return;
    const top = this.top, left = this.left;
    this.top = from;
    this.left = []; // lines that are deleted do not leave at the top
    f();
    [this.top, this.left] = [top, left];
  }

  shift(out, into) {
    const row = this.cells[this.y];
    row.splice(this.x, Math.min(out, cols - this.x));
    row.splice(this.x, 0, ...empty().slice(0, Math.min(into, cols - this.x)));
    while (row.length < cols) row.push({ c: " ", a: blank });
    row.length = cols;
    this.touch(this.y);
  }

  clear(y, from, to) {
    const a = this.at.bg < 0 ? blank : { ...blank, bg: this.at.bg };
    for (let x = from; x < Math.min(to, cols); x++) this.cells[y][x] = { c: " ", a };
    this.touch(y);
  }

  wipe(from, to) {
    for (let y = from; y < to; y++) this.clear(y, 0, cols);
  }

  touch(y) { this.dirty.add(y); }

  draw() {
    this.asked = 0;
    const box = this.element.parentElement;
    const low = !box || box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    for (const row of this.left.slice(-scrollback)) {
      const line = document.createElement("div");
      this.fill(line, row, -1);
      this.past.append(line);
    }
    this.left = [];
    while (this.past.childElementCount > scrollback) this.past.firstChild.remove();
    for (const y of this.dirty) this.fill(this.lines[y], this.cells[y], this.shown && y === this.y ? this.x : -1);
    this.dirty.clear();
    if (low && box) box.scrollTop = box.scrollHeight;
  }

  // fill makes a line of runs of one look.
  fill(line, row, cursor) {
    const out = [];
    let text = "", look = "";
    const flush = () => {
      if (!text) return;
      if (!look) out.push(text);
      else {
        const e = document.createElement("span");
        e.className = look;
        e.textContent = text;
        out.push(e);
      }
      text = "";
    };
    let length = cols;
    while (length > 0 && row[length - 1].c === " " && row[length - 1].a === blank && length - 1 !== cursor) length--;
    for (let x = 0; x < length; x++) {
      const { c, a } = row[x];
      const now = (a === blank ? "" : style(a)) + (x === cursor ? " cursor" : "");
      if (now !== look) {
        flush();
        look = now;
      }
      text += c;
    }
    flush();
    line.replaceChildren(...(out.length ? out : ["\u200b"]));
  }
}

function style(a) {
  let { fg, bg } = a;
  if (a.inverse) [fg, bg] = [bg < 0 ? 16 : bg, fg < 0 ? 17 : fg];
  if (a.bold && fg >= 0 && fg < 8) fg += 8;
  return [fg >= 0 && "f" + fg, bg >= 0 && "b" + bg, a.bold && "bold", a.dim && "dim", a.line && "line"].filter(Boolean).join(" ");
}

const special = { Enter: "\r", Backspace: "\x7f", Tab: "\t", Escape: "\x1b", Delete: "\x1b[3~", Insert: "\x1b[2~", PageUp: "\x1b[5~", PageDown: "\x1b[6~",
  F1: "\x1bOP", F2: "\x1bOQ", F3: "\x1bOR", F4: "\x1bOS", F5: "\x1b[15~", F6: "\x1b[17~", F7: "\x1b[18~", F8: "\x1b[19~", F9: "\x1b[20~", F10: "\x1b[21~" };
const cursors = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D", Home: "H", End: "F" };

// bytesOf is what a key sends; null leaves it to the browser.
export function bytesOf(e, keys) {
  if (e.metaKey || e.isComposing || (e.shiftKey && e.ctrlKey)) return null;
  if (cursors[e.key]) return "\x1b" + (keys ? "O" : "[") + cursors[e.key];
  if (special[e.key]) return special[e.key];
  if (e.key.length !== 1) return null;
  if (e.ctrlKey) {
    const code = e.key === " " ? 64 : e.key.toUpperCase().charCodeAt(0);
    return code >= 64 && code < 96 ? String.fromCharCode(code - 64) : null;
  }
  return e.altKey ? "\x1b" + e.key : null; // the rest comes as input
}
