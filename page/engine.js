"use strict";
// The network of Graves (2013), arXiv 1308.0850, as model.py has it: what it says of the next point, and a line that is
// sampled from that, point by point. Numbers in brackets are the paper's equations; offsets are normalised.

/** The weights in NETWORK.data: {name: matrix {rows, columns, weights: Int8Array, scales} or Float32Array}. */
async function unpackWeights(network) {
  const text = atob(network.data), packed = new Uint8Array(text.length), found = {};
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  let place = 0; // in `buffer`: first all numbers of 32 bits, then those of 8
  const take = (Kind, count) => {
    place += count * Kind.BYTES_PER_ELEMENT;
    return new Kind(buffer, place - count * Kind.BYTES_PER_ELEMENT, count);
  };
  for (const [name, rows, columns] of network.shapes) {
    const numbers = take(Float32Array, rows);
    found[name] = columns ? { rows, columns, scales: numbers } : numbers;
  }
  for (const each of Object.values(found)) if (each.columns) each.weights = take(Int8Array, each.rows * each.columns);
  return found;
}

/** Matrix times vector in plain JavaScript: what products.c does, but that it rounds the vector to 16 bits. */
class PlainProducts {
  vector(length) { return new Float32Array(length); }
  matrix(packed) { return packed; }

  /** y += M x, where row r of the matrix M is scales[r] * weights[r]. */
  multiply({ rows, columns, weights, scales }, x, y) {
    for (let row = 0, place = 0; row < rows; row++) {
      let sum = 0;
      for (let column = 0; column < columns; column++) sum += weights[place++] * x[column];
      y[row] += scales[row] * sum;
    }
  }
}

/** The same by products.c in WebAssembly: matrices and vectors lie in its memory, which never gives any back. */
class WasmProducts {
  constructor(module) {
    this.exports = new WebAssembly.Instance(module).exports;
    this.end = this.exports.__heap_base.value;
    this.exports.memory.grow(256); // 16 MiB, once: views of it end when it grows
  }

  take(Kind, length) {
    const begin = (this.end + 15) & ~15;
    this.end = begin + length * Kind.BYTES_PER_ELEMENT;
    return new Kind(this.exports.memory.buffer, begin, length);
  }

  vector(length) { return this.take(Float32Array, (length + 15) & ~15); }

  matrix({ rows, columns, weights, scales }) {
    const height = (rows + 3) & ~3, width = (columns + 15) & ~15;
    const placed = { height, width, weights: this.take(Int8Array, height * width), scales: this.vector(height) };
    for (let row = 0; row < rows; row++) {
      placed.weights.set(weights.subarray(row * columns, (row + 1) * columns), row * width);
    }
    placed.scales.set(scales);
    return placed;
  }

  multiply({ height, width, weights, scales }, x, y) {
    this.exports.multiply(height, width, weights.byteOffset, scales.byteOffset, x.byteOffset, y.byteOffset);
  }
}

/** The fastest products that the browser has, for `module`: PRODUCTS, in base64. */
function makeProducts(module) {
  try {
    return new WasmProducts(new WebAssembly.Module(Uint8Array.from(atob(module), (c) => c.charCodeAt(0))));
  } catch {
    return new PlainProducts(); // no WebAssembly, or none with 128-bit instructions
  }
}

/** The weights whose names begin so, matrices where `products` has them. */
function placeWeights(weights, products, names) {
  const chosen = Object.entries(weights).filter(([name]) => names.test(name));
  return Object.fromEntries(chosen.map(([name, part]) => [name, part.columns ? products.matrix(part) : part]));
}

/** One cell of an LSTM: gates (4H) in the order i, f, g, o; changes cell and hidden (H) (eq. 7 to 11, no peepholes). */
function updateCell(gates, cell, hidden) {
  const H = cell.length;
  for (let n = 0; n < H; n++) {
    const input = 1 / (1 + Math.exp(-gates[n]));
    const forget = 1 / (1 + Math.exp(-gates[n + H]));
    const output = 1 / (1 + Math.exp(-gates[n + 3 * H]));
    cell[n] = forget * cell[n] + input * Math.tanh(gates[n + 2 * H]); // (eq. 9)
    hidden[n] = output * Math.tanh(cell[n]); // (eq. 11)
  }
}

/** The network with a window over a text (sections 4 and 5). One line is written with it at a time. */
class Network {
  constructor(weights, products) {
    this.products = products;
    this.weights = placeWeights(weights, products, /^(\d|head|window|hand[MS])/);
    this.steering = weights.steering; // see `steer`
    const { cell_size: H, num_layers: layers, num_chars: C, hand_size: D, K, num_clusters: M } = FACTS.config;
    this.point = products.vector(3); // x_t
    this.w = products.vector(C); // what the window shows (eq. 47)
    this.gates = products.vector(4 * H);
    this.hidden = Array.from({ length: layers }, () => products.vector(H));
    this.cells = Array.from({ length: layers }, () => new Float32Array(H));
    this.window = products.vector(3 * K);
    this.said = products.vector(1 + 6 * M);
    this.outputs = this.said.subarray(0, 1 + 6 * M); // raw, for `samplePoint`
    this.kappa = new Float64Array(K);
    this.hand = products.vector(D);
  }

  /** Begin a line: of `codes` (U), places of its characters in the alphabet, in the hand of a vector (D) or none. */
  start(codes, vector) {
    const { handMean, handStd } = this.weights;
    for (const each of [this.w, this.kappa, ...this.hidden, ...this.cells]) each.fill(0);
    this.hand.fill(0);
    if (vector) vector.forEach((number, d) => (this.hand[d] = (number - handMean[d]) / handStd[d]));
    this.codes = codes;
    this.phi = new Float32Array(codes.length + 1);
    this.biases = this.hidden.map((_, n) => {
      this.gates.fill(0);
      this.gates.set(this.weights[`${n}.bias`]);
      this.products.multiply(this.weights[`${n}.hand`], this.hand, this.gates); // the hand is the same at all points
      return this.gates.slice();
    });
  }

  /** Read a point (x, y, end of stroke); then `outputs` (1 + 6M) says what comes next, `phi` (U + 1) what it sees. */
  step(x, y, end) {
    const { products, weights, gates, hidden } = this;
    this.point.set([x, y, end]);
    for (let n = 0; n < hidden.length; n++) {
      gates.set(this.biases[n]);
      products.multiply(weights[`${n}.point`], this.point, gates);
      products.multiply(weights[`${n}.window`], this.w, gates); // of the first layer w_t-1 (eq. 52), then w_t (eq. 53)
      if (n) products.multiply(weights[`${n}.below`], hidden[n - 1], gates);
      products.multiply(weights[`${n}.own`], hidden[n], gates);
      updateCell(gates, this.cells[n], hidden[n]);
      if (!n) this.moveWindow();
    }
    this.said.fill(0);
    this.outputs.set(weights["head.bias"]);
    hidden.forEach((h, n) => products.multiply(weights[`head.${n}`], h, this.said)); // (eq. 17)
  }

  /** Move the window over the text and read it (eq. 46 to 51). */
  moveWindow() {
    const { window, kappa, phi, w, codes } = this, { maxLog } = FACTS, K = kappa.length;
    window.fill(0);
    window.set(this.weights["window.bias"]);
    this.products.multiply(this.weights["window"], this.hidden[0], window); // (eq. 48)
    phi.fill(0);
    for (let k = 0; k < K; k++) {
      const alpha = Math.exp(Math.min(window[k], maxLog)); // (eq. 49)
      const beta = Math.exp(Math.min(window[k + K], maxLog)); // (eq. 50)
      kappa[k] += Math.exp(Math.min(window[k + 2 * K], maxLog)); // (eq. 51)
      for (let u = 0; u < phi.length; u++) phi[u] += alpha * Math.exp(-beta * (kappa[k] - u - 1) ** 2); // (eq. 46)
    }
    w.fill(0);
    for (let u = 0; u < codes.length; u++) w[codes[u]] += phi[u]; // (eq. 47)
  }

  /** Whether the window has passed the text: the paper's rule for the end (section 5.3). */
  hasWrittenText() {
    const last = this.phi.length - 1;
    return this.phi.every((weight) => weight <= this.phi[last]) && Math.max(...this.kappa) > last + 0.5;
  }
}

/** Numbers from 0 to 1, without either, that follow from some whole numbers: the generator splitmix32. */
function makeRandom(...seeds) {
  let state = 0;
  const next = () => {
    state = (state + 0x9e3779b9) | 0;
    const half = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    const mixed = Math.imul(half ^ (half >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
  for (const seed of seeds) state = next() ^ seed;
  return () => (next() + 0.5) / 2 ** 32;
}

/** Standard normal numbers that follow from some whole numbers. */
function makeNormals(...seeds) {
  const random = makeRandom(...seeds);
  return () => Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
}

/** The noise of one point of a mixture of M components: two normal numbers, a logistic one and M of Gumbel's. */
function makeNoise(random, M, bias) {
  const noise = new Float32Array(3 + M);
  const radius = Math.sqrt(-2 * Math.log(random())) * Math.exp(-bias); // the bias makes sigma smaller (eq. 61)
  const angle = 2 * Math.PI * random(), share = random();
  noise.set([radius * Math.cos(angle), radius * Math.sin(angle), Math.log(share / (1 - share))]);
  for (let m = 0; m < M; m++) noise[3 + m] = -Math.log(-Math.log(random())) / (1 + bias); // pi more decided (eq. 62)
  return noise;
}

/** One point of the mixture in raw `outputs` (1 + 6M), for its noise: [x, y, end of stroke] (eq. 15 to 25). */
function samplePoint(outputs, noise, M) {
  const raw = (parameter, m) => outputs[1 + parameter * M + m]; // pi, mu x, mu y, sigma x, sigma y, rho
  let m = 0; // Gumbel-max: the component whose log pi plus noise is greatest is each with its probability
  for (let n = 1; n < M; n++) if (raw(0, n) + noise[3 + n] > raw(0, m) + noise[3 + m]) m = n;
  const rho = Math.tanh(raw(5, m)); // (eq. 22)
  const across = rho * noise[0] + noise[1] / Math.cosh(raw(5, m));
  return [
    raw(1, m) + Math.exp(Math.min(raw(3, m), FACTS.maxLogSigma)) * noise[0], // (eq. 20, 21)
    raw(2, m) + Math.exp(Math.min(raw(4, m), FACTS.maxLogSigma)) * across,
    outputs[0] + noise[2] < 0 ? 1 : 0, // (eq. 18)
  ];
}

/** How many steps of a line, rows [x, y, end of stroke] and places of its window, are its own: count_own_steps. */
function countOwnSteps(rows, places, length) {
  const { youngStroke, beside } = FACTS, passed = places.includes(length) ? places.indexOf(length) : Infinity;
  const size = (numbers) => Math.max(...numbers) - Math.min(...numbers);
  const [xs, ys] = [0, 1].map((axis) => rows.map(((sum) => (row) => (sum += row[axis]))(0)));
  const margin = beside * size(xs) / length;
  for (let t = 1, most = xs[0]; t < rows.length; most = Math.max(most, xs[t++])) {
    if (!rows[t - 1][2] || xs[t] <= most + margin) continue;
    const end = rows.findIndex((row, n) => n >= t && row[2]) + 1 || rows.length;
    const isLarge = Math.max(...[xs, ys].map((axis) => size(axis.slice(t, end)))) > margin;
    if (t >= passed || (t > passed - youngStroke && isLarge)) return t;
  }
  return rows.length;
}

/** Write one line: {points, characters, finished, inside}, as in `Ink`, for codes (U) and noise(): the next point's. */
function writeLine(network, codes, vector, noise, cap, withInside = false) {
  const { mean, std, behind, mostAfter } = FACTS, steps = []; // {point, place, phi, outputs} of each
  let x = [-mean[0] / std[0], -mean[1] / std[1], 0]; // the network first reads the point where the pen touches down
  let after = 0, finished = false; // steps since the window passed the text
  network.start([...codes, ...behind], vector);
  while (!finished && steps.length < cap) { // at the cap it ends unfinished
    network.step(...x);
    x = samplePoint(network.outputs, noise(), FACTS.config.num_clusters);
    const phi = network.phi.subarray(0, codes.length + 1), place = phi.indexOf(Math.max(...phi));
    steps.push({ point: x, place, ...(withInside && { phi: [...phi], outputs: [...network.outputs] }) });
    if (after || network.hasWrittenText()) after++;
    finished = after > 0 && (x[2] > 0 || after > mostAfter);
  }
  const rows = steps.map(({ point: [dx, dy, end] }) => [dx * std[0] + mean[0], dy * std[1] + mean[1], end]);
  const count = countOwnSteps(rows, steps.map(({ place }) => place), codes.length), own = steps.slice(0, count);
  const points = Float32Array.from([[0, 0, 0], ...rows.slice(0, count)].flat());
  points[points.length - 1] = 1; // whatever comes next, the pen is lifted
  const places = own.map(({ place }) => Math.min(place, codes.length - 1));
  const collect = (name) => Float32Array.from(own.flatMap((step) => step[name]));
  const inside = withInside ? { phi: collect("phi"), outputs: collect("outputs") } : null;
  return { points, characters: Int32Array.from([places[0] ?? 0, ...places]), finished, inside };
}
