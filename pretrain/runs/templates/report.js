"use strict";
// Draws the page from the JSON above: curves against a choice of horizontal axis, tables, heat maps.

const data = JSON.parse(document.getElementById("data").textContent);
const WIDTH = 560, HEIGHT = 264, LEFT = 66, RIGHT = 12, TOP = 20, BOTTOM = 40;
const AXES = {
  tokens: ["tokens", short], flops: ["FLOPs", short], seconds: ["time", clock], step: ["steps", short],
};
let axis = "tokens";

window.addEventListener("error", (event) => { document.documentElement.dataset.error = event.message; });

// ---- numbers ----

function short(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-2 || size >= 1e18) return value.toExponential(1).replace("+", "");
  for (const [unit, letter] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return trim(value / unit) + " " + letter;
  }
  return trim(value);
}

function trim(value) {
  return String(Number(value.toPrecision(3)));
}

function clock(seconds) {
  const whole = Math.round(seconds), two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)} h` : `${minutes}:${two(whole % 60)} min`;
}

function exact(value) {
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, index) => (first + index) * step);
}

// ---- elements ----

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function html(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  Object.assign(node, attributes);
  node.append(...children);
  return node;
}

// ---- curves ----

function chart({ title, unit, series, smooth }) {
  const ys = series.flatMap((one) => one.y);
  const [x0, x1] = [0, Math.max(...data.charts.flatMap((one) => one.series.map((line) => line.x[axis].at(-1)))) || 1];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  const margin = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
  [y0, y1] = [y0 >= 0 && y0 < 0.3 * (y1 - y0) ? 0 : y0 - margin, y1 + margin];
  const X = (value) => LEFT + (value - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
  const Y = (value) => HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);

  const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  bands(plot, X, x1);
  for (const value of ticks(y0, y1, 5)) {
    plot.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: Y(value), y2: Y(value) }));
    plot.append(svg("text", { x: LEFT - 6, y: Y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  const format = AXES[axis][1];
  for (const value of ticks(x0, x1, 5)) {
    plot.append(svg("text", { x: X(value), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, format(value)));
  }
  const middle = (TOP + HEIGHT - BOTTOM) / 2;
  plot.append(svg("text", { class: "title", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6 }, AXES[axis][0]));
  plot.append(svg("text", { class: "title", transform: `translate(11 ${middle}) rotate(-90)` }, unit || title.toLowerCase()));
  for (const one of series) {
    const points = one.y.map((y, index) => [X(one.x[axis][index]), Y(y)]);
    const path = "M" + points.map((point) => point.map((value) => value.toFixed(1)).join(",")).join("L");
    plot.append(svg("path", { class: `line ${one.style}`, d: path }));
    if (one.dots) points.forEach(([cx, cy]) => plot.append(svg("circle", { class: `dot ${one.style}`, cx, cy, r: 2.4 })));
  }
  data.changes.forEach((change, index) => {
    const at = X(change.at[axis]), isRight = at > WIDTH / 2, y = HEIGHT - BOTTOM - 6 - 11 * (index % 3);
    const line = svg("line", { class: "growth", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM });
    line.append(svg("title", {}, `${change.operator} at step ${change.step}`));
    const beside = { class: "operator", x: isRight ? at - 4 : at + 4, y, "text-anchor": isRight ? "end" : "start" };
    plot.append(line, svg("text", beside, change.operator));
  });
  const caption = html("figcaption", {}, title);
  if (unit) caption.append(html("span", {}, unit));
  if (series.length > 1) {
    for (const one of series) caption.append(html("span", {}, html("i", { className: one.style }), one.name));
  }
  const figure = html("figure", {}, caption, plot);
  follow(figure, plot, series, X, x0, x1, format);
  return figure;
}

function bands(plot, X, end) {
  data.stages.forEach((stage, index) => {
    const from = X(stage.at[axis]), to = X(index + 1 < data.stages.length ? data.stages[index + 1].at[axis] : end);
    const height = HEIGHT - BOTTOM - TOP;
    if (index % 2 === 0) plot.append(svg("rect", { class: "band", x: from, y: TOP, width: Math.max(to - from, 0), height }));
    const fits = to - from > 6.5 * stage.stage.length;
    if (fits) plot.append(svg("text", { x: (from + to) / 2, y: TOP - 6, "text-anchor": "middle" }, stage.stage));
  });
}

// The values under the pointer.
function follow(figure, plot, series, X, x0, x1, format) {
  const tip = html("div", { className: "tip" }), cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
  figure.append(tip);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const inside = (event.clientX - box.left) / box.width * WIDTH;
    const wanted = x0 + (inside - LEFT) / (WIDTH - LEFT - RIGHT) * (x1 - x0);
    const lines = series.map((one) => {
      const index = nearest(one.x[axis], wanted);
      return [one.x[axis][index], `${one.name} ${exact(one.y[index])}`];
    });
    const at = X(lines[0][0]);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    plot.append(cursor);
    tip.textContent = [`${AXES[axis][0]} ${format(lines[0][0])}`, ...lines.map((line) => line[1])].join("\n");
    tip.style.display = "block";
    tip.style.left = `${Math.min(event.clientX - box.left + 20, box.width - 150)}px`;
    tip.style.top = `${event.clientY - box.top + 30}px`;
  });
  plot.addEventListener("pointerleave", () => { tip.style.display = "none"; cursor.remove(); });
}

function nearest(sorted, wanted) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < wanted) low = middle; else high = middle;
  }
  return wanted - sorted[low] < sorted[high] - wanted ? low : high;
}

// ---- tables and heat maps ----

function table(parent, title, columns, rows) {
  if (!rows.length) return;
  const isNumber = columns.map((_, index) => rows.every((row) => typeof row[index] === "number" || row[index] === ""));
  const line = (tag, cells) => html("tr", {}, ...cells.map((cell, index) =>
    html(tag, { className: isNumber[index] ? "number" : "" }, exact(cell))));
  const content = html("table", {}, html("thead", {}, line("th", columns)),
    html("tbody", {}, ...rows.map((row) => line("td", row))));
  parent.append(html("h2", {}, title), html("div", { className: "scroll" }, content));
}

function heatMap({ title, rows, columns, values }) {
  const cell = { width: Math.min(40, 900 / columns.length), height: Math.max(3, Math.min(16, 480 / rows.length)) };
  const flat = values.flat(), low = Math.min(0, ...flat), high = Math.max(...flat);
  const every = Math.ceil(10 / cell.height), left = 12 + 6.3 * Math.max(...rows.map((row) => row.length));
  const width = left + Math.max(cell.width * columns.length, 80) + 4; // the step below has room
  const plot = svg("svg", { viewBox: `0 -5 ${width} ${cell.height * rows.length + 27}` });
  plot.style.width = `${width}px`;
  values.forEach((row, i) => {
    if (i % every === 0) plot.append(svg("text", { x: left - 6, y: (i + 0.5) * cell.height + 4, "text-anchor": "end" }, rows[i]));
    row.forEach((value, j) => {
      const shade = (value - low) / (high - low || 1);
      const rect = svg("rect", { class: "cell", x: left + j * cell.width, y: i * cell.height, width: cell.width + 0.3,
        height: cell.height + 0.3, fill: `hsl(215 70% ${95 - 65 * shade}%)` });
      rect.append(svg("title", {}, `${rows[i]}, step ${columns[j]}: ${exact(value)}`));
      plot.append(rect);
    });
  });
  const below = cell.height * rows.length + 15;
  plot.append(svg("text", { x: left, y: below }, `step ${exact(columns[0])}`));
  if (columns.length > 4) {
    const end = left + cell.width * columns.length;
    plot.append(svg("text", { x: end, y: below, "text-anchor": "end" }, `step ${exact(columns.at(-1))}`));
  }
  const range = `${exact(low)} (light) to ${exact(high)} (dark)`;
  return html("figure", {}, html("figcaption", {}, title, html("span", {}, range)), html("div", { className: "scroll" }, plot));
}

// ---- the page ----

function draw() {
  document.getElementById("charts").replaceChildren(...data.charts.map(chart));
  for (const button of document.querySelectorAll("nav button")) {
    button.setAttribute("aria-pressed", String(button.value === axis));
  }
}

document.getElementById("summary").textContent = data.summary;
for (const [name, value, unit] of data.totals) {
  const shown = typeof value === "string" ? value : unit === "s" ? clock(value) : unit === "%" ? `${(100 * value).toFixed(1)}%` : unit === "nats" ? value.toFixed(4) : short(value);
  document.getElementById("totals").append(html("div", {}, html("dt", {}, name), html("dd", {}, shown)));
}
const nav = document.getElementById("axes");
nav.append("against ");
for (const [value, [name]] of Object.entries(AXES)) {
  nav.append(html("button", { value, onclick: () => { axis = value; draw(); } }, name));
}
draw();
table(document.getElementById("stages"), "Stages", data.stage_table.columns, data.stage_table.rows);
table(document.getElementById("changes"), "Changes of shape", data.change_table.columns, data.change_table.rows);
if (data.maps.length) document.getElementById("maps").append(html("h2", {}, "Over time"), ...data.maps.map(heatMap));
table(document.getElementById("events"), "Other events", data.event_table.columns, data.event_table.rows);
document.documentElement.dataset.drawn = "yes";
