"use strict";
// The choice by memory, the plots and the table of report.html. `data` is made by report.py; sizes are in bytes.

const data = JSON.parse(document.getElementById("data").textContent);
const { files, reserve, unit } = data;
const [slider, exact, tip] = ["slider", "exact", "tip"].map((id) => document.getElementById(id));
const memoryUnit = data.slider.high >= 2 ** 31 ? [2 ** 30, "GiB"] : [2 ** 20, "MiB"];
let language = "en";
let memory = data.slider.start;
let drawn = []; // the spots of every plot and the area that they are in

// Words and numbers

function say(key, values = {}) {
  const known = { ...data.words, ...values };
  return data.phrases[language][key].replace(/\{(\w+)\}/g, (_, name) => known[name]);
}

function inMemory(bytes, round = Math.round) {
  const [unit, name, digits] = bytes >= 2 ** 30 ? [2 ** 30, "GiB", 2] : [2 ** 20, "MiB", 1];
  return `${(round((bytes / unit) * 10 ** digits) / 10 ** digits).toFixed(digits)} ${name}`;
}

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = chosen;
  document.title = say("title");
  for (const found of document.querySelectorAll("[data-say]")) {
    found.textContent = say(found.dataset.say, JSON.parse(found.dataset.values || "{}"));
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", button.dataset.language === chosen);
  }
  document.getElementById("exact-label").textContent = say("exact", { unit: memoryUnit[1] });
  legend();
  draw();
  choose();
}

// Which file fits

const fits = (file) => file.wants <= memory;
const left = (file) => memory - Math.max(reserve.least, Math.floor(memory / reserve.part)) - file.takes;
const least = (list, key) => list.reduce((a, b) => (a && (key(a) - key(b) || a.bytes - b.bytes) <= 0 ? a : b), null);

function choose() {
  const best = least(files.filter(fits), (file) => file.kld);
  for (const marked of document.querySelectorAll("[data-index]")) {
    const file = files[marked.dataset.index];
    marked.classList.toggle("over", !fits(file));
    marked.classList.toggle("best", file === best);
  }
  for (const [spots, area] of drawn) name(spots, area, best);
  document.getElementById("amount").textContent = inMemory(memory);
  slider.setAttribute("aria-valuetext", inMemory(memory));
  const result = document.getElementById("result");
  const wanted = best || least(files, (file) => file.wants);
  result.replaceChildren(element("strong", best ? say("take", { name: best.name }) : say("nothing")));
  result.append(best ? facts(best) : element("p", words("nothing_why", wanted)), element("p", best ? outlook(best) : ""));
  document.getElementById("command-of").textContent = say(data.repository ? "download" : "download_local");
  document.getElementById("command").textContent = wanted.command;
}

function facts(file) {
  const rows = [["size", file.text.size], ["divergence", file.text.kld], ["top", file.text.top]];
  for (const test of data.tests.filter((test) => file.rates[test])) {
    rows.push([test.startsWith("tg") ? "writing" : "reading", say("rate", { rate: file.rates[test].text })]);
  }
  rows.push(["needs", inMemory(file.takes)], ["left", inMemory(left(file))]);
  const list = document.createElement("dl");
  for (const [key, text] of rows) {
    const row = document.createElement("div");
    row.append(element("dt", say(key)), element("dd", text));
    list.append(row);
  }
  return list;
}

const words = (key, file) => say(key, { name: file.name, wants: inMemory(file.wants, Math.ceil) });

function outlook(best) {
  const next = least(files.filter((file) => file.kld < best.kld), (file) => file.wants);
  return next ? words("next", next) : say("best");
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

// Plots: an x against the divergence on a log axis, drawn to the width that there is

const SHAPES = { mix: "M-4-4h8v8h-8z", auto: "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z", other: "M0-5.5 5.5 0 0 5.5-5.5 0z" };
const CROSS = "M-3-3 3 3M-3 3 3-3";

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function draw() {
  tip.hidden = true;
  drawn = [];
  plot("size-plot", (file) => [file.bytes / unit[0], 0], 1, say("size_axis", { unit: unit[1] }));
  const test = document.getElementById("test")?.value;
  const rate = (file) => (file.rates[test] ? [file.rates[test].mean, file.rates[test].deviation] : [0, 0]);
  if (test) plot("speed-plot", rate, -1, say("speed_axis"));
}

/** `value` gives x and its error; `better` is 1 where less is better, -1 where more is. */
function plot(id, value, better, title) {
  const box = document.querySelector(`#${id} .drawing`);
  const shown = files.filter((file) => file.kld > 0 && value(file)[0] > 0).sort((a, b) => value(a)[0] - value(b)[0]);
  if (!shown.length) return box.replaceChildren();
  const width = box.clientWidth, height = Math.min(430, Math.max(300, width * 0.7));
  const area = { left: 72, top: 8, right: width - 14, bottom: height - 44 };
  const x = scale(shown.map((file) => value(file)[0]), area.left + 14, area.right - 30, (v) => v);
  const y = scale(shown.map((file) => file.kld), area.bottom - 14, area.top + 14, Math.log);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": `${title}; ${say("points")}` });
  axes(drawing, area, x, y, title);
  drawing.append(svg("path", { class: "edge", d: edge(shown, value, x, y, better) }));
  const spots = shown.map((file) => point(drawing, file, value(file), x, y, area));
  drawn.push([spots, area]);
  keys(spots);
  const without = files.filter((file) => !(file.kld > 0)).map((file) => file.name);
  box.replaceChildren(drawing, element("p", without.length ? say("undrawn", { names: without.join(", ") }) : ""));
}

/** A function from values to places; `low` and `high` are the values at the ends. */
function scale(values, from, to, bend) {
  let [low, high] = [Math.min(...values), Math.max(...values)].map(bend);
  if (low === high) [low, high] = [low - Math.abs(low) / 2 - 1e-9, high + Math.abs(high) / 2 + 1e-9];
  const place = (value) => from + ((bend(value) - low) / (high - low)) * (to - from);
  return Object.assign(place, { low: Math.min(...values), high: Math.max(...values) });
}

function axes(drawing, area, x, y, title) {
  const line = (d) => drawing.append(svg("path", { class: "grid", d }));
  const text = (attributes, words) => drawing.append(svg("text", attributes, words));
  for (const tick of linearTicks(x, area).filter((tick) => x(tick) >= area.left && x(tick) <= area.right)) {
    line(`M${x(tick)} ${area.top}V${area.bottom}`);
    text({ x: x(tick), y: area.bottom + 16, "text-anchor": "middle" }, plain(tick));
  }
  for (const tick of logTicks(y).filter((tick) => y(tick) >= area.top && y(tick) <= area.bottom)) {
    line(`M${area.left} ${y(tick)}H${area.right}`);
    text({ x: area.left - 8, y: y(tick) + 4, "text-anchor": "end" }, plain(tick));
  }
  text({ x: (area.left + area.right) / 2, y: area.bottom + 36, "text-anchor": "middle" }, title);
  const middle = (area.top + area.bottom) / 2;
  text({ transform: `translate(12 ${middle}) rotate(-90)`, "text-anchor": "middle" }, say("kld_axis"));
}

function linearTicks(x, area) {
  const rough = ((x.high - x.low || x.high) * 70) / Math.max(70, area.right - area.left);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const first = Math.floor(x.low / step) - 1, count = Math.ceil(x.high / step) + 2 - first;
  return Array.from({ length: count }, (_, i) => (first + i) * step).filter((tick) => tick >= 0);
}

function logTicks(y) {
  const [first, last] = [y.low, y.high].map((value) => Math.floor(Math.log10(value)));
  const steps = last - first > 3 ? [1] : [1, 2, 5];
  const powers = Array.from({ length: last - first + 3 }, (_, i) => first - 1 + i);
  return powers.flatMap((power) => steps.map((step) => step * 10 ** power));
}

const plain = (value) => String(Number(value.toPrecision(6)));

/** A line through the files that nothing beats on both axes. */
function edge(shown, value, x, y, better) {
  let lowest = Infinity;
  const kept = [...shown].sort((a, b) => better * (value(a)[0] - value(b)[0]) || a.kld - b.kld);
  const line = kept.filter((file) => file.kld < lowest && (lowest = file.kld));
  return line.map((file, i) => `${i ? "L" : "M"}${x(value(file)[0])} ${y(file.kld)}`).join("");
}

function point(drawing, file, [mean, error], x, y, area) {
  const [cx, cy] = [x(mean), y(file.kld)];
  const low = Math.max(file.kld - file.error, file.kld / 3);
  const bar = [mean - error, mean + error].map((end) => Math.min(area.right, Math.max(area.left, x(end))));
  const bars = `M${cx} ${y(low)}V${y(file.kld + file.error)}M${bar[0]} ${cy}H${bar[1]}`;
  const mark = svg("g", { transform: `translate(${cx} ${cy})` });
  mark.append(svg("circle", { r: 10 }), svg("path", { class: "shape", d: SHAPES[file.kind] }));
  if (file.better) mark.append(svg("path", { class: "cross", d: CROSS }));
  const attributes = { class: `point ${file.kind}`, "data-index": files.indexOf(file), role: "img", tabindex: -1 };
  const group = svg("g", { ...attributes, "aria-label": about(file) }, svg("path", { class: "bar", d: bars }), mark);
  group.addEventListener("pointerenter", () => show(group, file));
  group.addEventListener("focus", () => show(group, file));
  for (const end of ["pointerleave", "blur"]) group.addEventListener(end, () => (tip.hidden = true));
  drawing.append(group);
  return { file, group, x: cx, y: cy, bar };
}

/** Names where there is room: that of the file to take always, then those that nothing beats; the others are in the tips. */
function name(spots, area, best) {
  for (const { group } of spots) group.querySelector("text")?.remove();
  const taken = spots.map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]);
  for (const { bar, y } of spots) taken.push([bar[0] + 2, y - 1, bar[1] - 2, y + 1]);
  const clashes = (a) => taken.filter((b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]).length;
  const rank = ({ file }) => (file === best ? 0 : file.better ? 2 : 1);
  for (const { file, group, x, y } of [...spots].sort((a, b) => rank(a) - rank(b))) {
    const text = svg("text", {}, file.name.length > 18 ? `${file.name.slice(0, 17)}…` : file.name);
    group.append(text);
    const wide = text.getComputedTextLength?.() || 6.5 * file.name.length;
    const places = [[9, -5], [-9 - wide, -5], [9, 13], [-9 - wide, 13], [-wide / 2, -10], [-wide / 2, 19]];
    const boxes = places.map(([dx, dy]) => [x + dx, y + dy - 9, x + dx + wide, y + dy + 2]);
    const inside = boxes.filter((box) => box[0] > area.left && box[2] < area.right + 14 && box[1] > 0);
    const [free] = inside.sort((a, b) => clashes(a) - clashes(b));
    if (!free || (clashes(free) && file !== best)) { text.remove(); continue; }
    taken.push(free);
    text.setAttribute("x", free[0]);
    text.setAttribute("y", free[1] + 9);
  }
}

/** One stop for the tab key in a plot, arrows from file to file. */
function keys(spots) {
  const groups = spots.map((spot) => spot.group);
  groups[0].setAttribute("tabindex", 0);
  groups.forEach((group, i) => group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = groups[i + step];
    if (event.key === "Escape") tip.hidden = true;
    if (!step) return;
    event.preventDefault();
    next?.focus();
  }));
}

function about(file) {
  const { size, kld, p99, top } = file.text;
  const lines = [`${file.name} · ${size}`, file.file, `${say("divergence")} ${kld}`, `${say("percentile")} ${p99}`, `${say("top")} ${top}`];
  for (const test of data.tests.filter((test) => file.rates[test])) {
    const rate = say("rate", { rate: file.rates[test].text });
    lines.push(`${say(test.startsWith("tg") ? "writing" : "reading")} ${rate}`);
  }
  lines.push(`${say("needs")} ${file.text.takes}`);
  if (file.better) lines.push(say("beaten_by", { name: file.better }));
  return lines.join("\n");
}

function show(group, file) {
  tip.textContent = `${about(file)}\n${say(fits(file) ? "fits" : "over")}`;
  tip.hidden = false;
  const spot = group.querySelector(".shape").getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${scrollX + Math.max(8, Math.min(room, spot.right + 12))}px`;
  const above = spot.top > tip.offsetHeight + 16;
  tip.style.top = `${scrollY + (above ? spot.top - tip.offsetHeight - 10 : spot.bottom + 10)}px`;
}

function legend() {
  const kinds = Object.keys(SHAPES).filter((kind) => files.some((file) => file.kind === kind));
  const icon = (kind, ...paths) => svg("svg", { viewBox: "-7 -7 14 14", "aria-hidden": true }, svg("g", { class: `point ${kind}` }, ...paths));
  const shape = (kind) => svg("path", { class: "shape", d: SHAPES[kind] });
  const rows = kinds.map((kind) => [icon(kind, shape(kind)), say(kind)]);
  const beaten = files.find((file) => file.better)?.kind;
  if (beaten) rows.push([icon(beaten, shape(beaten), svg("path", { class: "cross", d: CROSS })), say("beaten")]);
  rows.push([icon("other", svg("path", { class: "edge", d: "M-7 0H7" })), say("edge")], ["", say("points")]);
  document.getElementById("legend").replaceChildren(...rows.map(([mark, text]) => {
    const row = element("span", text);
    row.prepend(mark);
    return row;
  }));
}

// The table

function sortBy(header) {
  const key = header.dataset.key, body = document.querySelector("#files tbody");
  const value = (row) => {
    const file = files[row.dataset.index];
    return data.tests.includes(key) ? (file.rates[key]?.mean ?? -1) : file[key];
  };
  const turn = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
  const order = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  body.append(...[...body.rows].sort((a, b) => turn * order(value(a), value(b))));
}

// Events

function set(bytes) {
  memory = bytes;
  choose();
}

slider.addEventListener("input", () => {
  exact.value = Number((slider.value / memoryUnit[0]).toFixed(4));
  set(Number(slider.value));
});
exact.addEventListener("input", () => {
  const bytes = Math.round(exact.value * memoryUnit[0]);
  slider.value = bytes;
  set(bytes);
});
for (const header of document.querySelectorAll("#files thead th")) {
  header.firstElementChild.addEventListener("click", () => sortBy(header));
}
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => speak(button.dataset.language));
}
document.getElementById("test")?.addEventListener("change", () => { draw(); choose(); });
addEventListener("resize", () => { draw(); choose(); });
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

exact.value = Number((memory / memoryUnit[0]).toFixed(4));
const asked = location.hash.slice(1) || navigator.language.split("-")[0];
speak(asked in data.phrases ? asked : "en");
