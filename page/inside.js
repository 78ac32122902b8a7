"use strict";
// "Look inside": what the network sees and expects at the point that is being written, as in the paper's figures.

const MAP = { wide: 160, high: 120, cells: [0.012, 0.05] }; // of densities; standard deviations for a cell, two zooms
const VIOLET = [107, 63, 160]; // the colour of what the network thinks, opaque where it is sure

/** The next point's mixture {end, parts: [{pi, mu, sigma, rho}]} in raw outputs (1 + 6M), from where the pen is. */
function readMixture(outputs, bias) {
  const M = (outputs.length - 1) / 6;
  const raw = (parameter, m) => outputs[1 + parameter * M + m]; // pi, mu x, mu y, sigma x, sigma y, rho
  const weights = Array.from({ length: M }, (_, m) => raw(0, m) * (1 + bias)); // (eq. 62)
  const most = Math.max(...weights), total = sum(weights.map((weight) => Math.exp(weight - most)));
  const parts = weights.map((weight, m) => ({
    pi: Math.exp(weight - most) / total, // (eq. 19)
    mu: [0, 1].map((axis) => raw(1 + axis, m) + FACTS.mean[axis] / FACTS.std[axis]), // (eq. 20)
    sigma: [Math.exp(raw(3, m) - bias), Math.exp(raw(4, m) - bias)], // (eq. 21, 61)
    rho: Math.max(-0.999, Math.min(0.999, Math.tanh(raw(5, m)))), // (eq. 22)
  }));
  return { end: 1 / (1 + Math.exp(outputs[0])), parts }; // (eq. 18)
}

/** The mixture's density at a place (eq. 23 to 25). */
function densityAt(parts, x, y) {
  return sum(parts.map(({ pi, mu, sigma, rho }) => {
    const [a, b, rest] = [(x - mu[0]) / sigma[0], (y - mu[1]) / sigma[1], 1 - rho * rho];
    const z = a * a + b * b - 2 * rho * a * b; // (eq. 25)
    return (pi * Math.exp(-z / (2 * rest))) / (2 * Math.PI * sigma[0] * sigma[1] * Math.sqrt(rest)); // (eq. 24)
  }));
}

/** Set the cells of a canvas of some size to shares from 0 to 1 of the colour: `share(x, y)`. */
function paint(canvas, width, height, share) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let y = 0, n = 0; y < height; y++) {
    for (let x = 0; x < width; x++, n += 4) image.data.set([...VIOLET, 255 * Math.min(1, share(x, y))], n);
  }
  context.putImageData(image, 0, 0);
  return context;
}

/** The window over the text: a row for each character, a column for each step up to `last` (figure 13). */
function showWindow({ text, inside: { phi } }, last) {
  const row = text.length + 1, letters = $("window-text");
  paint($("window-map"), phi.length / row, text.length, (x, y) => (x <= last ? phi[x * row + y] : 0));
  letters.replaceChildren();
  [...text].forEach((textContent, u) => add(letters, "span", { textContent, style: `--phi: ${phi[last * row + u]}` }));
}

/** Where the pen goes next, seen from the middle; the ink so far, and a cross where it went (figure 10). */
function showDensity(parts, strokes, [x, y]) {
  const likely = parts.filter(({ pi }) => pi > 1e-3), [left, top] = [MAP.wide / 2, MAP.high / 2];
  const reach = sum(likely.map(({ pi, mu, sigma }) => pi * (Math.hypot(...mu) + 2 * Math.max(...sigma))));
  const cell = MAP.cells[reach < MAP.cells[0] * top ? 0 : 1];
  const density = (u, v) => densityAt(likely, (u - left) * cell, (v - top) * cell);
  const context = paint($("density-map"), MAP.wide, MAP.high, (u, v) => 0.4 * density(u, v) ** 0.25);
  const draw = (path, strokeStyle) => Object.assign(context, { strokeStyle }).stroke(new Path2D(path));
  const [pen] = strokes.at(-1).slice(-1), place = (offset, axis) => offset / FACTS.std[axis] / cell;
  const move = ([u, v]) => [left + place(u - pen[0], 0), top + place(v - pen[1], 1)];
  for (const stroke of strokes) draw(pathOf(stroke.map(move)), "#1b2a4a66");
  draw(`M${left + place(x, 0) - 4} ${top + place(y, 1)}h8m-4-4v8`, "#c2410c");
}

/** The weights of the mixture as bars, and how likely it is that the pen is lifted. */
function showWeights(parts, end) {
  $("weights").replaceChildren();
  for (const { pi } of parts) add($("weights"), "span", { style: `--pi: ${pi}` });
  $("lift").textContent = `${Math.round(100 * end)} %`;
}

/** Show what the network thought when it wrote ink up to a point. */
function showInside(ink, point) {
  if (!ink.inside || $("inside").hidden) return;
  const { phi, outputs } = ink.inside, steps = phi.length / (ink.text.length + 1), size = outputs.length / steps;
  const step = Math.max(0, Math.min(point, steps) - 1);
  const { end, parts } = readMixture(outputs.subarray(step * size, (step + 1) * size), ink.bias);
  showWindow(ink, step);
  showDensity(parts, toStrokes(ink.points.subarray(0, 3 * step + 3)), ink.points.subarray(3 * step + 3));
  showWeights(parts, end);
}
