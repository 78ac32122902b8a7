"use strict";
// What is measured on ink, and what brings it to another form; handwriting/ink/geometry.py has a figure.
// Ink is points, rows (dx, dy, end) in a Float32Array, or strokes, arrays of positions [x, y]; y grows downwards.

/** Points, 3T numbers, as strokes. The first stroke begins at the first offset. */
function toStrokes(points) {
  const strokes = [];
  for (let at = 0, x = 0, y = 0; at < points.length; at += 3) {
    if (!at || points[at - 1] > 0.5) strokes.push([]);
    strokes.at(-1).push([(x += points[at]), (y += points[at + 1])]);
  }
  return strokes;
}

/** Strokes as points, 3T numbers. The first offset is (0, 0), wherever the first stroke begins. */
function toPoints(strokes) {
  const rows = strokes.flatMap((stroke) => stroke.map(([x, y], n) => [x, y, n < stroke.length - 1 ? 0 : 1]));
  return Float32Array.from(rows.flatMap(([x, y, end], n) => [x - rows[n && n - 1][0], y - rows[n && n - 1][1], end]));
}

function sum(numbers) { return numbers.reduce((total, number) => total + number, 0); }
function mean(numbers) { return sum(numbers) / numbers.length; }
function median(numbers) { return quantile(numbers, 0.5); }
function clip(number, least, most) { return Math.min(Math.max(number, least), most); }

/** The number that a share of the numbers is below; between two of them on the line from one to the other. */
function quantile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b), at = share * (sorted.length - 1), low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.ceil(at)] - sorted[low]);
}

/** Two numbers or more at equal distances, from `first` to `last`. */
function linspace(first, last, count) {
  return Array.from({ length: count }, (_, n) => (n < count - 1 ? first + n * ((last - first) / (count - 1)) : last));
}

/** The value at `at` of the straight lines through (xs, ys), xs ascending; beyond them the value at the nearer end. */
function interpolate(at, xs, ys) {
  const next = xs.findIndex((x) => x > at), high = next < 0 ? xs.length - 1 : next, low = Math.max(high - 1, 0);
  return ys[low] + (clip((at - xs[low]) / (xs[high] - xs[low]), 0, 1) || 0) * (ys[high] - ys[low]);
}

/** The corners of what holds all positions: [[left, top], [right, bottom]]. */
function boxOf(positions) {
  return [Math.min, Math.max].map((best) => positions.reduce((one, [x, y]) => [best(one[0], x), best(one[1], y)]));
}

/** The width and the height of what holds all positions. */
function sizeOf(positions) {
  const [[left, top], [right, bottom]] = boxOf(positions);
  return [right - left, bottom - top];
}

/** All steps within strokes: the middle [x, y], the way (dx, dy) and the length of each. */
function stepsOf(strokes) {
  return strokes.flatMap((stroke) => stroke.slice(1).map(([right, bottom], n) => {
    const [left, top] = stroke[n], dx = right - left, dy = bottom - top;
    return { middle: [(left + right) / 2, (top + bottom) / 2], dx, dy, length: Math.hypot(dx, dy) };
  }));
}

/** The middle (x, y) of weighted positions, and the slope of a straight line through them by least squares. */
function fitLine(positions, weights = positions.map(() => 1)) {
  const total = sum(weights), average = (of) => sum(positions.map((place, n) => weights[n] * of(place))) / total;
  const x = average((place) => place[0]), y = average((place) => place[1]);
  const spread = average((place) => (place[0] - x) ** 2);
  return { x, y, slope: average((place) => (place[0] - x) * (place[1] - y)) / spread };
}

/** The way along a stroke up to each of its points, from 0; each step counts its length to the power of `power`. */
function wayAlong(stroke, power = 1) {
  let way = 0;
  return [0, ...stepsOf([stroke]).map((step) => (way += step.length ** power))];
}

/** Where the pen turns in y: tops and bottoms, each `least` off the one before in its stroke; its ends count too. */
function turningPoints(strokes, least) {
  const tops = [], bottoms = [];
  for (const stroke of strokes) {
    let high = stroke[0], low = stroke[0], direction = 0; // the extremes since the last turn; 1: going down the page
    for (const place of stroke) {
      if (place[1] < high[1]) high = place;
      if (place[1] > low[1]) low = place;
      if (direction <= 0 && place[1] - high[1] >= least) {
        tops.push(high);
        [direction, low] = [1, place];
      } else if (direction >= 0 && low[1] - place[1] >= least) {
        bottoms.push(low);
        [direction, high] = [-1, place];
      }
    }
    if (direction) (direction > 0 ? bottoms : tops).push(direction > 0 ? low : high);
  }
  return [tops, bottoms];
}

/** Positions turned about the origin so that a line of this slope becomes level. */
function turn(positions, slope) {
  const cos = Math.cos(Math.atan(slope)), sin = Math.sin(Math.atan(slope));
  return positions.map(([x, y]) => [x * cos + y * sin, y * cos - x * sin]);
}

/** Where a line of ink stands: {slope, x, baseline, xHeight}, as Python's Level. Throws for ink without any extent. */
function findLevel(strokes, xHeight = null) {
  const everything = strokes.flat(), size = sizeOf(everything), leastUnit = Math.max(...size) / 500;
  if (!leastUnit) throw new Error("its ink has no extent");
  let [slope, height] = guessLevel(stepsOf(strokes), size), found;
  let unit = Math.max(xHeight || height || Math.max(...sizeOf(turn(everything, slope))), leastUnit);
  for (let round = 0; round < 2; round++) {
    const turns = () => turningPoints(strokes.map((stroke) => turn(stroke, slope)), 0.35 * unit);
    slope = Math.tan(Math.atan(slope) + Math.atan(fitSlope(turns()[1], unit)));
    const [tops, bottoms] = turns();
    found = localBaseline(bottoms, turn(everything, slope), unit);
    const heights = tops.map(([x, y]) => interpolate(x, found.x, found.baseline) - y).filter((y) => y > 0.35 * unit);
    if (xHeight === null && heights.length) unit = Math.max(median(heights), leastUnit);
  }
  return { slope, ...found, xHeight: unit };
}

/** First guesses: the slope of a straight line through all ink, and the height of the middle half of it. */
function guessLevel(steps, [width, height]) {
  const lengths = steps.map((step) => step.length), middles = steps.map((step) => step.middle), length = sum(lengths);
  if (!length) return [0, 0];
  const slope = width > 2 * height ? fitLine(middles, lengths).slope || 0 : 0;
  const parts = turn(middles, slope).map(([, y], n) => [y, lengths[n] / length]).sort((a, b) => a[0] - b[0]);
  let share = 0;
  const heights = parts.map((part) => part[0]), shares = parts.map((part) => (share += part[1]));
  return [slope, interpolate(0.75, shares, heights) - interpolate(0.25, shares, heights)];
}

/** The slope of a line through most bottoms: Theil and Sen's, then least squares near it. */
function fitSlope(bottoms, unit) {
  const isShort = (places) => places.length < 4 || sizeOf(places)[0] < 4 * unit;
  if (isShort(bottoms)) return 0; // it could be a single letter's
  const pairs = bottoms.flatMap(([x, y], n) => bottoms.slice(n + 1).map((other) => [x - other[0], y - other[1]]));
  const slope = median(pairs.filter(([dx]) => Math.abs(dx) > unit).map(([dx, dy]) => dy / dx));
  const left = bottoms.map(([x, y]) => y - slope * x), middle = median(left);
  const near = bottoms.filter((_, n) => Math.abs(left[n] - middle) < 0.4 * unit);
  return isShort(near) ? slope : fitLine(near).slope;
}

/** The baseline of level ink as y at places x: means of the bottoms around, without descenders, changing slowly. */
function localBaseline(bottoms, positions, unit) {
  const [[left], [right, lowest]] = boxOf(positions);
  const x = linspace(left, right, 2 + Math.floor((right - left) / unit));
  let baseline = Array(x.length).fill(bottoms.length ? median(bottoms.map((place) => place[1])) : lowest);
  for (const [reach, limit] of [[8, 0.6], [4, 0.5], [3, 0.4]]) { // x-heights
    const off = bottoms.map((place) => [place[0], place[1] - interpolate(place[0], x, baseline)]);
    const near = off.filter(([, dy]) => Math.abs(dy) < limit * unit);
    baseline = baseline.map((y, n) => {
      const weights = near.map(([at]) => Math.exp(-0.5 * ((x[n] - at) / (reach * unit)) ** 2));
      return y + sum(near.map(([, dy], k) => weights[k] * dy)) / (sum(weights) + 1);
    });
  }
  return { x, baseline };
}

/** Positions turned by a level's slope, and moved up or down so that the baseline is y = 0 all along; times `scale`. */
function applyLevel(level, positions, scale = 1) {
  const below = ([x, y]) => y - interpolate(x, level.x, level.baseline);
  return turn(positions, level.slope).map((place) => [scale * place[0], scale * below(place)]);
}

/** The slant of level ink in degrees from the vertical, positive to the right; 0 for ink without downstrokes. */
function findSlant(strokes) {
  const steps = stepsOf(strokes).filter((step) => step.dy > 0);
  let shear = 0;
  for (let round = 0; round < 20; round++) { // until steep steps go as much to the right as to the left
    const upright = steps.map((step) => [step.dx + shear * step.dy, step.dy]);
    const steep = upright.filter(([dx, dy]) => Math.abs(dx) < Math.tan((50 * Math.PI) / 180) * dy);
    if (!steep.length) return 0;
    shear -= sum(steep.map(([dx]) => dx)) / sum(steep.map(([, dy]) => dy));
  }
  return (Math.atan(shear) * 180) / Math.PI;
}

/** Strokes in any unit as level points of usual x-height and steps. Throws as `findLevel`. */
function toWritingScale(strokes) {
  const level = findLevel(strokes), scale = FACTS.usualXHeight / level.xHeight;
  return toPoints(strokes.map((stroke) => resample(applyLevel(level, stroke, scale), FACTS.usualStep)));
}

/** A stroke with points about `step` apart along it and both ends kept; one point if it has no length. */
function resample(stroke, step) {
  const along = wayAlong(stroke), length = along.at(-1);
  if (!length) return stroke.slice(0, 1);
  const axes = [0, 1].map((axis) => stroke.map((place) => place[axis]));
  const places = linspace(0, length, Math.max(1, Math.round(length / step)) + 1);
  return places.map((at) => axes.map((axis) => interpolate(at, along, axis)));
}

/** A stroke's centripetal Catmull-Rom spline as Bezier curves: an end, two control points, the next end, and so on. */
function beziers(stroke) {
  const knots = stroke.filter(([x, y], n) => !n || x !== stroke[n - 1][0] || y !== stroke[n - 1][1]);
  if (knots.length < 2) return knots;
  const beyond = (end, next) => end.map((v, axis) => 2 * v - next[axis]);
  const padded = [beyond(knots[0], knots[1]), ...knots, beyond(knots.at(-1), knots.at(-2))];
  const roots = padded.slice(1).map(([x, y], n) => Math.hypot(x - padded[n][0], y - padded[n][1]) ** 0.5);
  const curves = knots.slice(1).flatMap((_, n) => {
    const [before, step, after] = roots.slice(n), [p0, p1, p2, p3] = padded.slice(n);
    const control = (past, near, far, other) => near.map((v, axis) => {
      const weight = 2 * other ** 2 + 3 * other * step + step ** 2;
      return (other ** 2 * far[axis] - step ** 2 * past[axis] + weight * v) / (3 * other * (other + step));
    });
    return [p1, control(p0, p1, p2, before), control(p3, p2, p1, after)];
  });
  return [...curves, knots.at(-1)];
}

/** A stroke with each step replaced by `pieces` straight ones along its curve. */
function smooth(stroke, pieces = 4) {
  const places = beziers(stroke), last = places.length - 1;
  if (last < 4) return [places[0], places[last]].slice(0, last + 1); // a single step is straight
  const pointAt = (n, at) => [0, 1].map((axis) => {
    const [p0, p1, p2, p3] = places.slice(n, n + 4).map((place) => place[axis]), to = 1 - at;
    return to ** 3 * p0 + 3 * at * to * to * p1 + 3 * at * at * to * p2 + at ** 3 * p3;
  });
  const curve = (_, k) => pointAt(3 * Math.floor(k / pieces), (k % pieces) / pieces);
  return [...Array.from({ length: (last / 3) * pieces }, curve), places[last]];
}

/** Those points of a stroke, both ends among them, that keep it within `tolerance` (Douglas-Peucker). */
function simplify(stroke, tolerance) {
  const [x0, y0] = stroke[0], [dx, dy] = [0, 1].map((axis) => stroke.at(-1)[axis] - stroke[0][axis]);
  const off = stroke.map(([x, y]) => {
    const share = clip(((x - x0) * dx + (y - y0) * dy) / Math.max(dx * dx + dy * dy, 1e-12), 0, 1);
    return Math.hypot(x - x0 - share * dx, y - y0 - share * dy);
  });
  const most = Math.max(...off), at = off.indexOf(most);
  if (most <= tolerance) return [stroke[0], stroke.at(-1)].slice(0, stroke.length);
  return [...simplify(stroke.slice(0, at + 1), tolerance), ...simplify(stroke.slice(at), tolerance).slice(1)];
}
