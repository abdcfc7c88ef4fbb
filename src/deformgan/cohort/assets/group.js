"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const at = Object.fromEntries(data.columns.map((column, index) => [column.name, index]));
const ROW = 31, SPARE = 12, BATCH = 60, ON_PAPER = 60;
const KEY = "deformgan-ratings-" + data.key;
const shown = { states: new Set(), outliers: false, unrated: false, words: "", sort: -1, down: false, order: [] };
let now = 0, made = 0, paper = false;

// ratings: those of the table, over them those of this browser
const own = read();
const grade = (row) => (own[data.rows[row][at.id]] || {}).rating ?? data.rows[row][at.rating] ?? "";
function read() { try { return JSON.parse(localStorage.getItem(KEY)) || {}; } catch { return {}; } }
function keep() { try { localStorage.setItem(KEY, JSON.stringify(own)); } catch { /* private windows forget */ } }
const note = (row) => (own[data.rows[row][at.id]] || {}).note ?? data.rows[row][at.note] ?? "";
function rate(row, value, words) {
  own[data.rows[row][at.id]] = { rating: value, rater: $("rater").value, note: words };
  keep(); count();
}

function create(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
const label = (column) => column.name.replace(/_(mm|percent|mb)$/, "").replaceAll("_", " ");
function text(value, column) {
  if (value === null || value === undefined || value === "") return column.number ? "–" : "";
  return typeof value === "number" && column.number ? String(+value.toPrecision(4)) : String(value);
}
function isOut(value, column) {
  if (!column.fence || value === null) return false;
  return column.bad === "low" ? value < column.fence[0] : value > column.fence[1];
}

// which rows, in which order
const haystack = data.rows.map((row) => row.filter((v) => typeof v === "string").join(" ").toLowerCase());
const isDone = (i) => !["failed", "pending"].includes(data.rows[i][at.state]);
function choose() {
  const words = shown.words.toLowerCase().split(/\s+/).filter(Boolean);
  const order = [];
  for (let i = 0; i < data.rows.length; i++) {
    const row = data.rows[i];
    if (shown.states.size && !shown.states.has(row[at.state])) continue;
    if (shown.outliers && !row[at.outliers]) continue;
    if (shown.unrated && grade(i)) continue;
    if (words.every((word) => haystack[i].includes(word))) order.push(i);
  }
  if (shown.sort >= 0) {
    const sign = shown.down ? -1 : 1, c = shown.sort;
    const empty = (v) => v === null || v === undefined || v === "";
    order.sort((a, b) => {
      const x = data.rows[a][c], y = data.rows[b][c];
      if (empty(x) || empty(y)) return empty(x) - empty(y) || a - b;
      return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true })) || a - b;
    });
  }
  // what has no result cannot be judged by eye
  const last = shown.sort < 0 && !$("gallery").hidden ? order.filter((i) => !isDone(i)) : [];
  shown.order = last.length ? [...order.filter(isDone), ...last] : order;
  now = 0;
  $("number").textContent = order.length === data.total ? `(${data.total})` : `(${order.length} of ${data.total})`;
  $("frame").scrollTop = 0;
  draw(); cards(); strips();
}

// the table: only the rows in sight are made
function head() {
  data.columns.forEach((column, index) => {
    const button = create("button", { title: column.text, textContent: label(column) + (column.unit ? ` (${column.unit})` : "") });
    button.addEventListener("click", () => {
      shown.down = shown.sort === index ? !shown.down : column.bad === "high";
      shown.sort = index;
      document.querySelectorAll("#head th").forEach((cell, i) => cell.setAttribute("aria-sort", i !== index ? "none" : shown.down ? "descending" : "ascending"));
      choose();
    });
    $("head").append(create("th", { className: column.number ? "number" : "", scope: "col" }, button));
  });
}
function draw() {
  const frame = $("frame"), body = $("body");
  if (frame.hidden) return;
  const first = paper ? 0 : Math.max(0, Math.floor(frame.scrollTop / ROW) - SPARE);
  const last = Math.min(shown.order.length, paper ? ON_PAPER : first + Math.ceil((frame.clientHeight || 600) / ROW) + 2 * SPARE);
  const rows = [gap(first)];
  for (let i = first; i < last; i++) rows.push(line(shown.order[i]));
  rows.push(gap(paper ? 0 : shown.order.length - last));
  body.replaceChildren(...rows);
}
function gap(rows) {
  const cell = create("td", { colSpan: data.columns.length });
  cell.style.height = rows * ROW + "px";
  const row = create("tr", { className: "gap" }, cell);
  row.hidden = rows === 0;
  return row;
}
function line(index) {
  const row = create("tr");
  data.columns.forEach((column, c) => {
    const value = column.name === "rating" ? grade(index) : column.name === "note" ? note(index) : data.rows[index][c];
    const cell = create("td", { className: column.number ? "number" : "", title: typeof value === "string" ? value : "" });
    if (column.name === "id") cell.append(link(index));
    else cell.textContent = text(value, column);
    if (column.name === "state") cell.classList.add(value);
    if (column.number && isOut(value, column)) cell.classList.add("out");
    row.append(cell);
  });
  return row;
}
function link(index) {
  const name = data.rows[index][at.id], report = data.reports[index];
  return report ? create("a", { href: address(report), target: "_blank", rel: "noopener", textContent: name }) : name;
}
const address = (report) => report.split("/").map(encodeURIComponent).join("/");

// the pictures: a batch at a time, as one scrolls
function cards() {
  if ($("gallery").hidden) return;
  $("cards").replaceChildren();
  made = 0;
  further(BATCH);
  mark(now);
}
function further(number) {
  const stop = Math.min(shown.order.length, made + number);
  const batch = document.createDocumentFragment();
  for (; made < stop; made++) batch.append(card(shown.order[made], made));
  $("cards").append(batch);
}
function card(index, place) {
  const row = data.rows[index], picture = data.pictures[index];
  const view = picture
    ? create("img", { src: "data:image/webp;base64," + picture, alt: `${row[at.id]} before (above) and after`, decoding: "async" })
    : create("div", { className: "none", textContent: row[at.cause] || "no picture" });
  const grades = create("div", { className: "grades" });
  if (isDone(index)) data.grades.forEach((name) => {
    const button = create("button", { textContent: name });
    button.setAttribute("aria-pressed", grade(index) === name);
    button.addEventListener("click", () => { mark(place); give(name); });
    grades.append(button);
  });
  const words = create("input", { placeholder: "note", value: note(index) });
  words.setAttribute("aria-label", "Note on " + row[at.id]);
  words.addEventListener("change", () => rate(index, grade(index), words.value));
  const verdict = create("span", { className: "verdict", textContent: row[at.state] });
  const why = (picture && row[at.cause]) || (row[at.outliers] ? "outlier: " + row[at.outliers].replaceAll("_", " ") : " ");
  return create("article", { className: "card " + row[at.state] }, view, create("p", {}, verdict, link(index)), create("p", { textContent: why, title: why }), grades, words);
}
function mark(place) {
  now = Math.max(0, Math.min(place, shown.order.length - 1));
  if (now >= made) further(BATCH);
  $("cards").querySelector(".now")?.classList.remove("now");
  const element = $("cards").children[now];
  element?.classList.add("now");
  return element;
}
function give(name) {
  const index = shown.order[now], element = $("cards").children[now];
  if (index === undefined || !isDone(index)) return;
  rate(index, grade(index) === name ? "" : name, note(index));
  element.querySelectorAll(".grades button").forEach((b) => b.setAttribute("aria-pressed", grade(index) === b.textContent));
}
addEventListener("keydown", (event) => {
  if ($("gallery").hidden || event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) mark(now + step)?.scrollIntoView({ block: "nearest" });
  else if (event.key >= "0" && event.key <= String(data.grades.length)) give(data.grades[event.key - 1] ?? grade(shown.order[now]));
  else if (event.key === "Enter" && !event.target.matches("button, a") && data.reports[shown.order[now]]) open(address(data.reports[shown.order[now]]), "_blank", "noopener");
  else return;
  event.preventDefault();
});

// strip plots
const plots = [];
const brief = (v) => String(Math.abs(v) < 1e-3 ? +v.toFixed(3) : +v.toPrecision(3));
function scatter(i) { const x = Math.sin(i * 12.9898) * 43758.5453; return x - Math.floor(x); } // the same place each time
function makeStrips() {
  data.columns.forEach((column, c) => {
    const values = data.rows.map((row) => row[c]);
    const known = values.filter((v) => typeof v === "number");
    if (!column.number || known.length < 2) return;
    if (known.every((v) => v === known[0])) return; // nothing to see
    let low = Infinity, high = -Infinity;
    for (const v of known) { if (v < low) low = v; if (v > high) high = v; }
    const canvas = create("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${column.name}: ${known.length} pairs from ${low} to ${high}; the table has the values`);
    const range = create("span", { textContent: `${brief(low)} to ${brief(high)} ${column.unit}` });
    $("strips").append(create("figure", { title: column.text }, create("figcaption", {}, label(column), range), canvas));
    const plot = { column, canvas, values, low, high: high > low ? high : low + 1 };
    plots.push(plot);
    canvas.addEventListener("mousemove", (event) => tip(plot, event));
    canvas.addEventListener("mouseleave", () => { $("tip").hidden = true; });
    canvas.addEventListener("click", (event) => {
      const index = nearest(plot, event);
      if (index >= 0 && data.reports[index]) open(address(data.reports[index]), "_blank", "noopener");
    });
  });
}
const MARGIN = 8;
const place = (plot, index, width, height) => [
  MARGIN + scatter(index) * (width - 2 * MARGIN),
  height - MARGIN - ((plot.values[index] - plot.low) / (plot.high - plot.low)) * (height - 2 * MARGIN),
];
function strips() {
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue("--" + name);
  const chosen = new Set(shown.order), sharp = devicePixelRatio || 1;
  const colours = Object.fromEntries(["pass", "look", "fail", "failed", "pending"].map((name) => [name, colour(name)]));
  for (const plot of plots) {
    const width = plot.canvas.clientWidth, height = plot.canvas.clientHeight;
    plot.canvas.width = width * sharp; plot.canvas.height = height * sharp;
    const pen = plot.canvas.getContext("2d");
    pen.scale(sharp, sharp);
    pen.strokeStyle = colour("soft"); pen.setLineDash([2, 3]);
    for (const fence of plot.column.fence || []) {
      const y = height - MARGIN - ((fence - plot.low) / (plot.high - plot.low)) * (height - 2 * MARGIN);
      if (y > 0 && y < height) { pen.beginPath(); pen.moveTo(0, y); pen.lineTo(width, y); pen.stroke(); }
    }
    const size = data.rows.length > 1000 ? 3 : 5;
    for (const inside of [false, true]) {
      pen.globalAlpha = inside ? 0.8 : 0.12;
      for (let i = plot.values.length - 1; i >= 0; i--) { // the doubtful come first in the data, and so on top
        if (typeof plot.values[i] !== "number" || chosen.has(i) !== inside) continue;
        const [x, y] = place(plot, i, width, height);
        const state = data.rows[i][at.state], wide = state === "fail" || state === "failed" ? size * 1.6 : size; // not by colour alone
        pen.fillStyle = colours[state];
        pen.fillRect(x - wide / 2, y - wide / 2, wide, wide);
      }
    }
  }
}
function nearest(plot, event) {
  const box = plot.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = 144;
  for (const i of shown.order) {
    if (typeof plot.values[i] !== "number") continue;
    const [px, py] = place(plot, i, box.width, box.height), far = (px - x) ** 2 + (py - y) ** 2;
    if (far < least) { least = far; best = i; }
  }
  return best;
}
function tip(plot, event) {
  const index = nearest(plot, event);
  $("tip").hidden = index < 0;
  if (index < 0) return;
  $("tip").textContent = `${data.rows[index][at.id]}: ${plot.values[index]} ${plot.column.unit} (${data.rows[index][at.state]})`;
  $("tip").style.left = Math.min(event.clientX + 12, innerWidth - 220) + "px";
  $("tip").style.top = event.clientY + 12 + "px";
}

// ratings as a file
function count() {
  const rated = data.rows.filter((_, i) => grade(i)).length;
  $("rated").textContent = `${rated} of ${data.rows.length} rated`;
  $("unrated").querySelector("b").textContent = data.rows.length - rated;
}
function save() {
  const clean = (value) => String(value ?? "").replace(/\s+/g, " ").trim();
  const lines = [["id", "rating", "rater", "note"]];
  data.rows.forEach((row, i) => {
    const mine = own[row[at.id]];
    if (mine || row[at.rating]) lines.push([row[at.id], grade(i), mine ? mine.rater || $("rater").value : row[at.rater], note(i)]);
  });
  const file = URL.createObjectURL(new Blob([lines.map((l) => l.map(clean).join("\t")).join("\n") + "\n"], { type: "text/tab-separated-values" }));
  const anchor = create("a", { href: file, download: "ratings.tsv", hidden: true });
  document.body.append(anchor); // some browsers save nothing from a link that is on no page
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(file), 60000); // a busy browser begins to save it only seconds later
}

// what can be pressed
function toggle(button, change) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    change(on); choose();
  });
}
document.querySelectorAll("[data-state]").forEach((button) => toggle(button, (on) => shown.states[on ? "add" : "delete"](button.dataset.state)));
toggle($("outliers"), (on) => { shown.outliers = on; });
toggle($("unrated"), (on) => { shown.unrated = on; });
$("outliers").querySelector("b").textContent = data.rows.filter((row) => row[at.outliers]).length;
let waiting;
$("search").addEventListener("input", (event) => { clearTimeout(waiting); waiting = setTimeout(() => { shown.words = event.target.value; choose(); }, 120); });
function view(pictures) {
  $("gallery").hidden = !pictures; $("frame").hidden = pictures;
  $("rating").classList.toggle("stays", pictures);
  $("as-pictures").setAttribute("aria-pressed", pictures); $("as-table").setAttribute("aria-pressed", !pictures);
  choose();
}
$("as-pictures").addEventListener("click", () => view(true));
$("as-table").addEventListener("click", () => view(false));
$("frame").addEventListener("scroll", draw, { passive: true });
new IntersectionObserver((seen) => { if (seen[0].isIntersecting && !$("gallery").hidden) further(BATCH); }, { rootMargin: "800px" }).observe($("more"));
// paper has no scrolling: the first rows as they are sorted and filtered, in the colours of a light page
function print(on) {
  paper = on;
  document.documentElement.classList.toggle("paper", on);
  $("on-paper").textContent = on && shown.order.length > ON_PAPER && !$("frame").hidden ? `The first ${ON_PAPER} of ${shown.order.length} pairs.` : "";
  draw(); strips();
}
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));
addEventListener("resize", () => { strips(); draw(); });
$("save").addEventListener("click", save);
$("forget").addEventListener("click", () => { for (const name of Object.keys(own)) delete own[name]; keep(); count(); choose(); });
head(); makeStrips(); count();
view(false);
