"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
// Colour-blind safe; one colour a peer, one dash pattern a round.
const COLOURS = ["#0969da", "#d1570a", "#1a7f37", "#8250df", "#9a6700", "#bf3989", "#57606a", "#0a7ea4"];
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2, 1, 2]];
const peers = [...new Set(data.steps.flatMap((step) => step.runs.map((run) => run.peer)))];

function element(name, text, parent, className) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (className) made.className = className;
  parent.append(made);
  return made;
}

function milliseconds(value) {
  if (value === null || value === undefined) return "";
  if (value >= 1000) return (value / 1000).toPrecision(3) + " s";
  return value >= 1 ? value.toPrecision(3) + " ms" : (value * 1000).toPrecision(3) + " µs";
}

function count(value) {
  return value === null || value === undefined ? "" : Math.round(value).toLocaleString("en");
}

function style(run) {
  return { stroke: COLOURS[peers.indexOf(run.peer) % COLOURS.length], dash: DASHES[(run.round - 1) % DASHES.length], width: 1.5 };
}

function chart(parent, title, x, lines, options) {
  const place = element("div", null, parent, "chart");
  const series = lines.map((line) => ({
    label: line.label, ...style(line.run), points: { show: x.length < 40, size: 4 }, spanGaps: false,
    value: (plot, value) => options.value(value),
  }));
  const plot = {
    title, width: options.width, height: 300,
    scales: { x: { time: false }, y: { distr: options.log ? 3 : 1, range: options.log ? undefined : (u, min, max) => [0, (max || 1) * 1.05] } },
    axes: [options.x, { size: 76, values: (u, splits) => splits.map((value) => value === null ? "" : options.value(value)) }],
    series: [{ label: options.xName, value: (u, value) => options.xValue(value) }, ...series],
    hooks: options.marks ? { draw: [(u) => drawMarks(u, options.marks)] } : {},
  };
  new uPlot(plot, [x, ...lines.map((line) => line.values)], place);
}

// One mark a stall, at the bottom, higher the longer it was, in red.
function drawMarks(u, marks) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = "rgba(207, 34, 46, .55)";
  ctx.lineWidth = 1.5 * devicePixelRatio;
  for (const [seconds, ms] of marks) {
    if (seconds < u.scales.x.min || seconds > u.scales.x.max) continue;
    const x = u.valToPos(seconds, "x", true);
    const height = bbox.height * Math.min(1, 0.08 + Math.log10(Math.max(1, ms / 10)) / 3);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top + bbox.height);
    ctx.lineTo(x, bbox.top + bbox.height - height);
    ctx.stroke();
  }
  ctx.restore();
}

function percentile(nines) {
  if (nines === null) return "";
  const decimals = Math.max(0, Math.ceil(nines - 2 - 1e-9));
  return nines <= 0 ? "0 %" : (100 - 100 * 10 ** -nines).toFixed(decimals) + " %";
}

function curves(parent, step, key, title) {
  const runs = step.runs.filter((run) => run[key].length > 0);
  if (runs.length === 0) return;
  const longest = Math.max(...runs.map((run) => run[key].length));
  const x = data.nines.slice(0, longest);
  const lines = runs.map((run) => ({ run, label: run.name, values: x.map((_, index) => run[key][index] ?? null) }));
  chart(parent, title, x, lines, {
    width: 560, log: true, value: milliseconds, xName: "percentile", xValue: percentile,
    x: { incrs: [1], values: (u, splits) => splits.map(percentile) },
  });
}

// All runs on one axis of whole intervals; an interval that a run does not have is a gap.
function timeSeries(parent, step, list, column, title, log, value) {
  const runs = step.runs.filter((run) => run[list].some((row) => row[column] !== null));
  if (runs.length === 0) return;
  const x = [...new Set(runs.flatMap((run) => run[list].map((row) => row[0])))].sort((a, b) => a - b);
  const lines = runs.map((run) => {
    const byTime = new Map(run[list].map((row) => [row[0], row[column]]));
    // A logarithm has no place for nothing.
    const shown = (found) => found === undefined || (log && found === 0) ? null : found;
    return { run, label: run.name, values: x.map((time) => shown(byTime.get(time))) };
  });
  chart(parent, title, x, lines, {
    width: 560, log, value, xName: "second", xValue: (second) => second === null ? "" : second + " s", x: {},
    marks: runs.flatMap((run) => run.stalls),
  });
}

function table(parent, head, rows, ratiosFrom) {
  const made = element("table", null, parent);
  const line = element("tr", null, made);
  head.forEach((text) => element("th", text, line));
  for (const row of rows) {
    const cells = element("tr", null, made);
    row.forEach((text, index) => element("td", text, cells, index >= ratiosFrom ? "ratio" : ""));
  }
}

function machine(parent) {
  table(parent, ["machine", ""], data.machine, 9);
}

function showStep(step, parent) {
  element("h2", step.name, parent);
  if (step.comparison) table(parent, step.comparison.head, step.comparison.rows, step.comparison.ratios_from);
  else table(parent, ["run", "msg/s", "broker CPU s per million", "p50", "p99", "p99.9", "max"], step.runs.map((run) => run.figures), 9);
  for (const run of step.runs.filter((run) => run.errors)) element("p", run.name + ": " + run.errors, parent, "error");
  const charts = element("div", null, parent, "charts");
  curves(charts, step, "send_curve", "send latency by percentile");
  curves(charts, step, "e2e_curve", "end-to-end latency by percentile");
  timeSeries(charts, step, "series", 1, "messages per second", false, count);
  timeSeries(charts, step, "series", 2, "p50 of each interval", true, milliseconds);
  timeSeries(charts, step, "series", 3, "p99 of each interval", true, milliseconds);
  timeSeries(charts, step, "series", 4, "longest of each interval", true, milliseconds);
  timeSeries(charts, step, "receipts", 3, "end-to-end p99 of each interval", true, milliseconds);
  timeSeries(charts, step, "receipts", 4, "end-to-end longest of each interval", true, milliseconds);
  element("p", step.settings, parent, "settings");
}

machine(document.getElementById("machine"));
for (const step of data.steps) showStep(step, document.getElementById("steps"));
