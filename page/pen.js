"use strict";
// The worker that writes and reads, so that the page stays smooth, and `Pen`, by which the page asks it.

/** What runs in the worker: it takes messages {id, task, job} and answers each with {id, result} or {id, error}. */
function startWorker() {
  let network, readers;
  let stopped = 0; // jobs up to this number are not wanted any more
  let queue = Promise.resolve(); // lines are written one after the other, and messages taken between them
  const breathe = () => new Promise((resolve) => setTimeout(resolve));
  const tasks = {
    async load({ packed, module }) {
      const weights = await unpackWeights(packed);
      const products = makeProducts(module);
      [network, readers] = [new Network(weights, products), new Readers(weights, products)];
      return { ...weights.forms, mean: weights.handMean };
    },
    async write({ text, seed, options }, id) {
      await (queue = queue.then(breathe));
      if (id <= stopped) throw Object.assign(new Error("stopped"), { name: "AbortError" });
      return writeChecked(network, readers, text, seed, options);
    },
    encode: (lines) => lines.map((points) => readers.encode(points)),
    read: (lines) => lines.map((points) => readers.read(points)),
  };
  onmessage = async ({ data: { id, task, job } }) => {
    if (task === "stop") return (stopped = job);
    try {
      postMessage({ id, result: await tasks[task](job, id) });
    } catch ({ name, message }) {
      postMessage({ id, error: { name, message } });
    }
  };
}

/** A line of ink that says `text`: the best of at most `tries`, of which all are read if there may be several. */
function writeChecked(network, readers, text, seed, { bias, hand, strength = 1, tries = 1, inside = false }) {
  const codes = encodeText(text), wanted = hand && strengthen(hand, network.weights.handMean, strength);
  const cap = FACTS.cap.perCharacter * text.length + FACTS.cap.more;
  let best = null;
  for (let n = 0; n < tries && (!best || best.isDoubtful); n++) {
    const random = makeRandom(seed, n);
    const noise = () => makeNoise(random, FACTS.config.num_clusters, bias);
    const given = wanted && steer(wanted, network, Math.max(1 - FACTS.hands.weaker * n, FACTS.hands.weakest));
    const line = writeLine(network, codes, given, noise, cap, inside);
    const read = tries > 1 ? readers.read(line.points) : null;
    const vector = tries > 1 && wanted ? readers.encode(line.points) : null;
    const distance = vector && Math.hypot(...vector.map((number, d) => number - wanted[d]));
    const found = { ...line, text, seed, bias, read, distance, ...judge(line, text, read ?? text, distance) };
    if (!best || isBefore(found.order, best.order)) best = found;
  }
  const { order, isDoubtful, finished, ...ink } = best;
  return { ...ink, style: "", checkpoint: FACTS.checkpoint };
}

/** A vector (D) at `strength` times its distance from the mean hand. */
function strengthen(vector, mean, strength) {
  return vector.map((number, d) => mean[d] + strength * (number - mean[d]));
}

/** What the network is given to write in a hand, both vectors (D), at `strength` times its distance from the mean. */
function steer(hand, { weights: { handMean }, steering: { rows, columns, scales, weights } }, strength = 1) {
  const given = handMean.map((number, d) => number + weights[(rows - 1) * columns + d] * scales[rows - 1]);
  hand.forEach((number, n) => {
    const share = strength * (number - handMean[n]) * scales[n];
    for (let d = 0; d < columns; d++) given[d] += share * weights[n * columns + d];
  });
  return given;
}

/** Whether numbers come before others: the first that differs decides. */
function isBefore(numbers, others) {
  const place = numbers.findIndex((number, n) => number !== others[n]);
  return place >= 0 && numbers[place] < others[place];
}

/** What writes and reads in a worker: see `writeChecked` for the options of `write`. */
class Pen {
  constructor() {
    const names = Object.keys(globalThis).filter((name) => typeof globalThis[name] === "function");
    const functions = names.map((name) => String(globalThis[name])).filter((text) => !text.includes("[native code]"));
    const parts = [PlainProducts, WasmProducts, Network, Readers, ...functions].map(String);
    const source = ['"use strict"', `const FACTS = ${JSON.stringify(FACTS)}`, ...parts, "startWorker()"].join(";\n");
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.worker = new Worker(address);
    this.jobs = new Map(); // by number: {resolve, reject}
    this.last = 0;
    this.worker.onmessage = ({ data }) => this.answer(data);
    this.ready = this.ask("load", { packed: NETWORK, module: PRODUCTS }).then((forms) => {
      this.forms = forms;
      URL.revokeObjectURL(address);
    });
  }

  ask(task, job) {
    return new Promise((resolve, reject) => {
      this.jobs.set(++this.last, { resolve, reject });
      this.worker.postMessage({ id: this.last, task, job });
    });
  }

  answer({ id, result, error }) {
    const { resolve, reject } = this.jobs.get(id);
    this.jobs.delete(id);
    if (error) reject(Object.assign(new Error(), error));
    else resolve(result);
  }

  write(texts, seeds, options) {
    return Promise.all(texts.map((text, n) => this.ask("write", { text, seed: seeds[n], options })));
  }

  encode(lines) { return this.ask("encode", lines); }
  read(lines) { return this.ask("read", lines); }

  /** Let go of all that is being written: `write` rejects with an AbortError. */
  stop() { this.worker.postMessage({ task: "stop", job: this.last }); }

  /** A hand that nobody has (D), once the pen is ready: see random_vector in hands.py and hand_of in writer.py. */
  randomHand(seed, bias) {
    const { rows, columns, scales, weights, mean } = this.forms, random = makeRandom(seed);
    const rowOf = (n) => Array.from(weights.subarray(n * columns, (n + 1) * columns), (w) => w * scales[n]);
    const first = Math.floor(random() * rows);
    const [a, b] = [first, (first + 1 + Math.floor(random() * (rows - 1))) % rows].map(rowOf);
    const { shares: [least, most], tameness, wildest } = FACTS.hands, share = least + random() * (most - least);
    const mixed = a.map((number, d) => share * number + (1 - share) * b[d]);
    const factor = Math.hypot(...a) / Math.max(Math.hypot(...mixed), 1e-6), much = Math.max(bias - wildest, 0);
    return strengthen(Float32Array.from(mixed, (n) => n * factor), mean, Math.exp(-tameness * much));
  }
}
