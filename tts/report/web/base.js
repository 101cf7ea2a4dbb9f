// What all parts share: building elements, formatting numbers, unpacking data, colours.

const $ = (id) => document.getElementById(id);

// An element. Children are nodes or text; nothing is ever read as HTML, whatever a model wrote.
function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "open") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  const kept = children.flat(Infinity).filter((child) => child != null && child !== false);
  element.append(...kept.flatMap((child) => (typeof child === "string" && element.matches("code, p, li") ? pieces(child) : [child])));
  return element;
}

// A text whose specs may be broken after their marks, and not in the middle of a word.
function pieces(text) {
  const parts = text.split(/(?<=\S[,:/_(])(?=\S)/);
  return parts.flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));
}

// -- numbers ---------------------------------------------------------------------------------------------------------

const NOTHING = "–";
const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);
const percent = (value, digits = 1) => (known(value) ? `${(100 * value).toFixed(digits)} %` : NOTHING);
const count = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : NOTHING);

function short(value) {
  if (!known(value)) return NOTHING;
  const size = Math.abs(value);
  if (size < 10000 && Number.isInteger(value)) return count(value);
  if (size >= 1e15 || size < 1e-3) return value.toExponential(size >= 1e15 ? 1 : 0).replace("e+", "e");
  const power = Math.max(0, Math.min(4, Math.floor(Math.log10(size) / 3)));
  const scaled = value / 1000 ** power;
  return `${+scaled.toPrecision(3)}${["", "k", "M", "B", "T"][power]}`;
}

function precise(value) {
  if (!known(value)) return NOTHING;
  const size = Math.abs(value);
  if (size >= 1e9 || (size < 1e-3 && size > 0)) return value.toExponential(2).replace("e+", "e");
  return size >= 1000 ? count(value) : String(+value.toPrecision(4));
}

function duration(seconds) {
  if (!known(seconds)) return NOTHING;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 90) return `${+seconds.toPrecision(3)} s`;
  return seconds < 5400 ? `${+(seconds / 60).toPrecision(3)} min` : `${+(seconds / 3600).toPrecision(3)} h`;
}

const interval = (low, high) => (known(low) ? `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)} %` : "");
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// -- data ------------------------------------------------------------------------------------------------------------

async function unpack(base64) {
  const packed = Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// The report's data inside this file; a chunk of details is unpacked when one of its problems is looked at.
const embedded = {
  live: false,
  chunks: new Map(),
  overview: () => unpack($("overview").textContent),
  async problem(place) {
    const number = data.chunks[place];
    if (number === null) return null;
    if (!this.chunks.has(number)) {
      if (this.chunks.size >= 8) this.chunks.delete(this.chunks.keys().next().value);
      this.chunks.set(number, unpack($(`chunk-${number}`).textContent));
    }
    return (await this.chunks.get(number))[place];
  },
};

// The same from `tts view`, which tells when there is more.
const served = {
  live: true,
  version: "",
  async ask(what, more = {}) {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(more)) query.set(name, value);
    const answer = await fetch(`/api/${what}?${query}`);
    if (answer.status === 204) return null;
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error);
    return body;
  },
  async overview() {
    const found = await this.ask("overview", { since: this.version });
    if (found) this.version = found.version;
    return found && found.overview;
  },
  problem(place) {
    return this.ask("problem", { place, name: data.problems[place] });
  },
};

const source = "live" in document.documentElement.dataset ? served : embedded;
let data; // the overview

// -- colours ---------------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const THEMES = ["auto", "light", "dark"];
let theme = "auto";

const isDark = () => (theme === "auto" ? dark.matches : theme === "dark");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// For all kinds of colour vision, after Okabe and Ito; the second row is for a dark ground.
const PALETTE = [
  ["#0072b2", "#d55e00", "#00845f", "#b8539b", "#3a9bd1", "#a87900", "#6a51c8", "#5f6368", "#8c1d4f", "#74761a"],
  ["#58b0f0", "#ff8a4c", "#2fc79a", "#f08fc8", "#9ad7ff", "#f0c340", "#a99bff", "#b3bac2", "#ff7a9c", "#cfd05a"],
];
const colourOf = (track) => PALETTE[isDark() ? 1 : 0][track % PALETTE[0].length];

function mix(from, to, share) {
  const parts = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const [a, b] = [parts(from), parts(to)];
  return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * share)).join(",")})`;
}

// From all wrong (orange) over the ground's grey to all right (blue).
function shareColour(share) {
  const [low, middle, high] = isDark() ? ["#e0662e", "#39414b", "#4fa8ee"] : ["#d9622b", "#eceae4", "#1769aa"];
  return share < 0.5 ? mix(low, middle, share * 2) : mix(middle, high, share * 2 - 1);
}

function amountColour(share) {
  const [low, high] = isDark() ? ["#2a313a", "#f0c340"] : ["#f1ede2", "#8a5a00"];
  return mix(low, high, share);
}

const redrawn = []; // what to draw again when colours change
function setTheme(next) {
  theme = next;
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  $("theme").textContent = `Colours: ${next}`;
  $("theme").setAttribute("aria-label", `Colours: ${next === "auto" ? "as the system" : next}. Change`);
  redrawn.forEach((draw) => draw());
}
dark.addEventListener("change", () => redrawn.forEach((draw) => draw()));

// -- controls --------------------------------------------------------------------------------------------------------

function choice(label, options, value, changed) {
  const select = h("select", { onchange: () => changed(select.value) },
    options.map(([name, text]) => h("option", { value: name }, text)));
  select.value = value;
  return h("label", { class: "control" }, h("span", {}, label), select);
}

function tick(label, value, changed) {
  const box = h("input", { type: "checkbox", checked: value, onchange: () => changed(box.checked) });
  return h("label", { class: "control tick" }, box, h("span", {}, label));
}

function section(id, title, ...children) {
  return h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), children);
}

// A table; columns are {name, cell, sort, left}. On a phone each row becomes a block with the names beside the values.
function table(columns, rows, caption) {
  const body = h("tbody");
  let by = null;
  let falling = true;
  const fillBody = () => {
    const value = (row) => by.sort(row) ?? -Infinity;
    const ordered = by ? [...rows].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0)) : rows;
    if (by && falling) ordered.reverse();
    body.replaceChildren(...ordered.map((row) => h("tr", {}, columns.map((column, i) => {
      const cell = column.cell(row);
      return h(i ? "td" : "th", { scope: i ? null : "row", class: column.left ? "left" : null, "data-name": column.name },
        cell);
    }))));
  };
  const heads = columns.map((column) => {
    if (!column.sort) return h("th", { scope: "col", class: column.left ? "left" : null }, column.name);
    const head = h("th", { scope: "col", class: column.left ? "left" : null }, h("button", {
      type: "button", class: "sort",
      onclick: () => {
        falling = by === column ? !falling : true;
        by = column;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        fillBody();
      },
    }, column.name));
    return head;
  });
  fillBody();
  return h("div", { class: "table" }, h("table", {},
    caption && h("caption", {}, caption), h("thead", {}, h("tr", {}, heads)), body));
}
