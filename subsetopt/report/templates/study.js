"use strict";

// Sorting: the button of a column orders the rows by the exact numbers behind the cells; empty cells stay last.
function sortBy(header) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const column = header.cellIndex;
  const numeric = header.classList.contains("num");
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  const key = (row) => {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent;
    return cell.dataset.sort === undefined ? null : Number(cell.dataset.sort);
  };
  const compare = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const rows = Array.from(body.rows, (row) => ({ row, key: key(row) }));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return ascending ? compare(a.key, b.key) : compare(b.key, a.key);
  });
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  body.append(...rows.map((entry) => entry.row));
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// The axes: scales, ticks and formats as in report/study/svg.py, drawn again for the methods that are shown.
const NICE = [1, 2, 2.5, 5, 10];

function number(value, digits = 3) {
  const text = value.toPrecision(digits);
  const size = Math.abs(value);
  const short = value !== 0 && (size < 1e-4 || size >= 1e6) ? Number(text).toExponential() : String(Number(text));
  return short.replace(/e([+-])(\d)$/, "e$10$2").replace(/^-/, "−");
}

function labels(ticks) {
  for (let digits = 3; digits < 7; digits += 1) {
    const texts = ticks.map((tick) => number(tick, digits));
    if (new Set(texts).size === texts.length) return texts;
  }
  return ticks.map((tick) => number(tick, 7));
}

function linearTicks(low, high) {
  const rough = (high - low) / 5;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = NICE.map((nice) => nice * magnitude).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i += 1) ticks.push(Number((i * step).toFixed(12)));
  return ticks;
}

function logTicks(low, high) {
  let inside = [];
  for (const parts of [[1, 2, 5], [1]]) {
    inside = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade += 1) {
      for (const part of parts) inside.push(part * 10 ** decade);
    }
    inside = inside.filter((tick) => low * 0.999 <= tick && tick <= high * 1.001);
    if (inside.length <= 8) return inside;
  }
  const every = Math.ceil(inside.length / 8);
  return inside.filter((_, i) => i % every === 0);
}

// A scale between data and pixels; `fitted` has the range that pixels from `first` to `last` need.
function scaleOf(entry) {
  const to = entry.log ? Math.log : (value) => value;
  const back = entry.log ? Math.exp : (value) => value;
  const share = (to(entry.high) - to(entry.low)) / (entry.end - entry.start);
  return {
    ...entry,
    pixel: (value) => entry.start + (to(value) - to(entry.low)) / share,
    ticks: entry.log && entry.high / entry.low >= 5 ? logTicks(entry.low, entry.high) : linearTicks(entry.low, entry.high),
    fitted(first, last) {
      let [low, high] = [first, last].map((at) => back(to(entry.low) + (at - entry.start) * share)).sort((a, b) => a - b);
      if (entry.log) {
        const margin = Math.max((high / low) ** 0.04, 1.02);
        [low, high] = [low / margin, high * margin];
      } else if (entry.zero && low > -1e-9) {
        [low, high] = [0, high * 1.03 || 1];
      } else {
        const margin = 0.05 * (high - low) || Math.abs(high) * 0.05 || 1;
        [low, high] = [low - margin, high + margin];
      }
      if (entry.limits) [low, high] = [Math.max(low, entry.limits[0]), Math.min(high, entry.limits[1])];
      return high > low ? scaleOf({ ...entry, low, high }) : scaleOf(entry);
    },
  };
}

function element(name, attributes, text = "") {
  const made = document.createElementNS(document.querySelector("svg").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function drawTicks(plot, x, y) {
  const drawn = plot.querySelector(".ticks");
  const format = y.percent ? (tick) => `${number(100 * tick)} %` : (tick) => number(tick);
  const texts = labels(x.ticks);
  drawn.replaceChildren(
    element("path", { class: "grid", d: y.ticks.map((tick) => `M${x.start} ${y.pixel(tick)}H${x.end}`).join("") }),
    ...y.ticks.map((tick) => element("text", { x: x.start - 6, y: y.pixel(tick) + 4.5, "text-anchor": "end" }, format(tick))),
    ...x.ticks.map((tick, i) => element("text", { x: x.pixel(tick), y: y.start + 17, "text-anchor": "middle" }, texts[i])),
  );
}

// The ends of the boxes in pixels; bands stretch the axis to at most half of the lines' own range on either side.
function extent(marks, bands, low, high) {
  const ends = (boxes) => [Math.min(...boxes.map(low)), Math.max(...boxes.map(high))];
  const [first, last] = ends(marks);
  if (!bands.length) return [first, last];
  const margin = (last - first) / 2 || Infinity;
  const [widest, farthest] = ends(bands);
  return [Math.min(first, Math.max(widest, first - margin)), Math.max(last, Math.min(farthest, last + margin))];
}

function rescale(plot) {
  const [x, y] = [scaleOf(JSON.parse(plot.dataset.x)), scaleOf(JSON.parse(plot.dataset.y))];
  const boxes = (kinds) => Array.from(plot.querySelectorAll(`g[data-s]:not(.off) :is(${kinds})`), (mark) => {
    const { x: left, y: top, width, height } = mark.getBBox();
    const [dx, dy] = mark.classList.contains("mark") ? [width / 2, height / 2] : [0, 0];
    return { left: left + dx, right: left + width - dx, top: top + dy, bottom: top + height - dy };
  });
  const marks = boxes(".line, .own, .whisker, .mark");
  if (!marks.length) return;
  const newX = x.fitted(...extent(marks, [], (box) => box.left, (box) => box.right));
  const newY = y.fitted(...extent(marks, boxes(".band"), (box) => box.top, (box) => box.bottom));
  const [ax, ay] = [x, y].map((old, i) => {
    const [start, end] = [old.low, old.high].map([newX, newY][i].pixel);
    return (end - start) / (old.end - old.start);
  });
  const [bx, by] = [newX.pixel(x.low) - ax * x.start, newY.pixel(y.low) - ay * y.start];
  for (const mark of plot.querySelectorAll(".line, .own, .whisker, .band, .front, .mark")) {
    if (!mark.classList.contains("mark")) {
      mark.setAttribute("transform", `matrix(${ax} 0 0 ${ay} ${bx} ${by})`);
      continue;
    }
    const box = mark.closest(".off") ? null : mark.getBBox();
    if (box === null) continue;
    const [cx, cy] = [box.x + box.width / 2, box.y + box.height / 2];
    mark.setAttribute("transform", `translate(${(ax - 1) * cx + bx} ${(ay - 1) * cy + by})`);
  }
  drawTicks(plot, newX, newY);
}

// The key: a press shows or hides one method in every picture, whose axes then fit the methods that are left.
for (const button of document.querySelectorAll(".key button")) {
  for (const group of document.querySelectorAll(`g[data-s="${button.dataset.s}"]`)) {
    group.prepend(element("title", {}, button.title));
  }
  button.addEventListener("click", () => {
    const show = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(show));
    for (const mark of document.querySelectorAll(`g[data-s="${button.dataset.s}"]`)) mark.classList.toggle("off", !show);
    document.querySelectorAll("figure > svg").forEach(rescale);
  });
}

// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
