"use strict";
// What reads ink, what tells whose hand it is (handwriting/recogniser.py, encoder.py), and a judge of written lines.

/** The standard deviation of numbers. */
function deviation(values) {
  const middle = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
}

/** The strokes of points about 0, without slope, in units of the standard deviation of y; and this `unit`. */
function straighten(points) {
  const strokes = toStrokes(points), all = strokes.flat(), [width, height] = sizeOf(all), line = fitLine(all);
  const slope = width > 4 * height ? line.slope : 0; // that of a single letter is its shape
  const move = ([x, y]) => [x - line.x, y - line.y - slope * (x - line.x)];
  const unit = Math.max(deviation(all.map((place) => move(place)[1])), 1e-6);
  return { strokes: strokes.map((stroke) => stroke.map((place) => move(place).map((v) => v / unit))), unit };
}

/** What a recogniser sees of strokes, at equal steps along the ink: frames of 6 numbers, see `recogniser.features`. */
function readerFeatures(strokes) {
  const { spacing, mostPoints } = FACTS.reading, length = sum(stepsOf(strokes).map((step) => step.length));
  const step = Math.max(spacing, length / mostPoints); // flat ink is very long beside its height
  const paths = strokes.map((stroke) => resample(stroke, step));
  for (const path of paths) if (path.length === 1) path.push(path[0]); // a dot has two ends, too
  const places = paths.flatMap((path) => path.map(([x, y], n) => ({ x, y, begins: !n })));
  return places.map(({ x, y, begins }, n) => {
    const before = places[Math.max(n - 1, 0)], dx = x - before.x, dy = y - before.y;
    return begins ? [0, 0, Math.asinh(2 * dx), Math.asinh(2 * dy), y, 1] : [dx / spacing, dy / spacing, 0, 0, y, 0];
  });
}

/** What is read and told of a line's ink by the networks in `weights`. */
class Readers {
  constructor(weights, products) {
    this.products = products;
    this.weights = placeWeights(weights, products, /^(read|hand)\./);
    const { mostColumns, mostRows, cellSize } = FACTS.reading;
    [this.x, this.y, this.hidden] = [mostColumns, mostRows, cellSize].map((size) => products.vector(size));
  }

  /** y = M x + b, the first numbers of `this.y`, for an x that has been put into `this.x`. */
  apply(name, count) {
    this.y.fill(0);
    this.y.set(this.weights[`${name}.bias`]);
    this.products.multiply(this.weights[name], this.x, this.y);
    return this.y.subarray(0, count);
  }

  /** Frames after a convolution five frames wide and a rectifier. */
  convolve(frames, name, stride) {
    const [inputs, outputs] = [frames[0].length, this.weights[`${name}.bias`].length];
    return frames.flatMap((_, middle) => {
      if (middle % stride) return [];
      this.x.fill(0);
      [-2, -1, 0, 1, 2].forEach((tap, n) => frames[middle + tap] && this.x.set(frames[middle + tap], n * inputs));
      return [this.apply(name, outputs).map((value) => Math.max(value, 0))];
    });
  }

  /** Frames after an LSTM that reads them in their order. */
  runLayer(frames, name) {
    const cell = new Float32Array(this.hidden.length);
    this.hidden.fill(0);
    return frames.map((frame) => {
      this.x.fill(0);
      this.x.set(frame);
      const gates = this.apply(name, 4 * cell.length);
      this.products.multiply(this.weights[`${name}.own`], this.hidden, this.y);
      updateCell(gates, cell, this.hidden);
      return this.hidden.slice();
    });
  }

  /** What stands in a line: the likeliest label of each frame, less repeats and blanks. */
  read(points) {
    let frames = readerFeatures(straighten(points).strokes);
    FACTS.reading.strides.forEach((stride, n) => (frames = this.convolve(frames, `read.convolution${n}`, stride)));
    for (let n = 0; n < FACTS.reading.layers; n++) {
      const forwards = this.runLayer(frames, `read.forwards${n}`);
      const backwards = this.runLayer([...frames].reverse(), `read.backwards${n}`).reverse();
      frames = forwards.map((frame, s) => Float32Array.of(...frame, ...backwards[s]));
    }
    const labels = frames.map((frame) => {
      this.x.fill(0);
      this.x.set(frame);
      const scores = this.apply("read.head", FACTS.reading.characters.length + 1);
      return scores.indexOf(scores.reduce((a, b) => Math.max(a, b)));
    });
    const changes = labels.filter((label, s) => label && label !== labels[s - 1]);
    return changes.map((label) => FACTS.reading.characters[label - 1]).join("");
  }

  /** The vector of length 1 of the hand that ink is in. */
  encode(points) {
    const { usualSpread, strides } = FACTS.hands, { strokes, unit } = straighten(points);
    let frames = readerFeatures(strokes).map((frame) => [...frame, Math.log(unit / usualSpread)]);
    strides.forEach((stride, n) => (frames = this.convolve(frames, `hand.convolution${n}`, stride)));
    const channels = frames[0].length;
    this.x.fill(0);
    for (let c = 0; c < channels; c++) {
      const values = frames.map((frame) => frame[c]);
      this.x[c] = mean(values);
      this.x[c + channels] = Math.sqrt(deviation(values) ** 2 + 1e-5);
    }
    const vector = this.apply("hand.head", FACTS.config.hand_size).slice();
    return vector.map((value) => value / Math.hypot(...vector));
  }
}

/** The fewest changes that turn a text into what is read of it: how many, and the places in `text` that are wrong. */
function compareTexts(text, read) {
  let above = [...read, ""].map((_, j) => Array(j).fill(0)); // places of changes, for each part of `read`
  for (let i = 0; i < text.length; i++) {
    const row = [[...above[0], i]];
    for (let j = 0; j < read.length; j++) {
      const changed = text[i] === read[j] ? above[j] : [...above[j], i];
      const others = [above[j + 1], row[j]].map((places) => [...places, i]); // left out, or too much after it
      row.push([changed, ...others].reduce((best, each) => (each.length < best.length ? each : best)));
    }
    above = row;
  }
  const wrong = above[read.length];
  return { wrong: [...new Set(wrong)], errors: wrong.length };
}

/** The places in a text of characters that lack their mark, a bar, a dot or a cross: checks.missing_marks. */
function missingMarks(strokes, characters, text) {
  const { barWidth, largestDot, barPlaces, dotPlaces, crossed, leastSlanting } = FACTS.checks, ink = strokes.flat();
  const steps = stepsOf(strokes.map((stroke) => [...stroke, stroke.at(-1)])); // one for each point
  const flat = strokes.flatMap(flatParts).map((part) => [boxOf(part), mean(part.map((place) => place[1]))]);
  const bars = flat.map(([[[left], [right]], y]) => [left, right, y]).filter(([a, b]) => b - a >= barWidth);
  const small = strokes.filter((stroke) => Math.max(...sizeOf(stroke)) < largestDot);
  const dots = small.map((stroke) => [mean(stroke.map(([x]) => x)), boxOf(stroke)[1][1]]);
  return [...text].flatMap((character, place) => {
    const isOwn = (_, n) => characters[n] === place;
    if (crossed.includes(character)) return slanting(steps.filter(isOwn)) < leastSlanting ? [place] : [];
    const isDotted = character in dotPlaces, wanted = dotPlaces[character] ?? barPlaces[character];
    const letter = wanted ? ink.filter(isOwn) : [];
    if (!letter.length) return wanted ? [place] : [];
    const [first, last, high, low, most] = wanted, [[left, top], [right]] = boxOf(letter);
    const x = letter.find((each) => each[1] === top)[0], end = Math.min(top + low, most);
    const hasDot = dots.some(([at, y]) => at > left + first && at < right + last && y > high && y < low);
    const hasBar = bars.some(([a, b, y]) => a < x + last && b > x + first && y > top + high && y < end);
    return (isDotted ? hasDot : hasBar) ? [] : [place];
  });
}

/** How long the ink is that rises to the right, or that falls if that is shorter: checks.slanting. */
function slanting(steps) {
  const [least, most] = FACTS.checks.slanting;
  const found = steps.filter(({ dx, dy }) => Math.abs(dy) > least * Math.abs(dx) && Math.abs(dy) < most * Math.abs(dx));
  const length = (way) => found.reduce((sum, step) => sum + (way * step.dx * step.dy > 0 && step.length), 0);
  return Math.min(length(1), length(-1));
}

/** The parts of a stroke in which the pen goes to one side, nearly level. */
function flatParts(stroke) {
  const isFlat = ({ dx, dy }) => Math.abs(dy) < FACTS.checks.barSteepness * Math.abs(dx);
  const ways = stepsOf([stroke]).map((step) => (isFlat(step) ? Math.sign(step.dx) : 0));
  const starts = ways.flatMap((way, n) => (way !== ways[n - 1] ? [n] : []));
  return starts.flatMap((start, n) => (ways[start] ? [stroke.slice(start, (starts[n + 1] ?? ways.length) + 1)] : []));
}

/** The most steps in a row on which the pen rests. */
function longestRest(points) {
  let [most, now] = [0, 0];
  for (let n = 3; n < points.length; n += 3) {
    now = Math.hypot(points[n], points[n + 1]) < FACTS.checks.shortestStep ? now + 1 : 0;
    most = Math.max(most, now);
  }
  return most;
}

/** What is wrong with a line of `text` that was read as `read`: checks.Verdict with its fault, order and doubt. */
function judge(line, text, read, distance) {
  const { mostResting, mostWrong, mostStray, dotSize, dots } = FACTS.checks;
  const { wrong, errors } = compareTexts(...[text, read].map((each) => each.trim().replace(/\s+/g, " ")));
  const resting = longestRest(line.points), faults = [];
  if (!line.finished) faults.push("the cap on steps came before the end of the text");
  if (resting > mostResting) faults.push(`the pen rests for ${resting} steps`);
  if (errors > Math.max(1, mostWrong * text.trim().length)) faults.push(`it reads '${read}'`);
  const ink = toStrokes(line.points), strokes = ink.map(makeFrame(ink, text).enter); // upright, in x-heights
  const lacks = missingMarks(strokes, line.characters, text).length;
  const found = strokes.filter((stroke) => Math.max(...sizeOf(stroke)) < dotSize).length;
  const wanted = [...text].reduce((sum, character) => sum + (dots[character] ?? 0), 0);
  const stray = Math.max(0, found - wanted), near = Math.round(10 * (distance ?? 0)) / 10;
  const order = [+!!faults.length, errors, +!line.finished, Math.max(stray - mostStray, 0) + lacks, near, resting];
  const isDoubtful = faults.length + errors + lacks > 0 || stray > mostStray;
  return { wrong, fault: faults.join(", "), isDoubtful, order };
}
