"use strict";
// Files: pages as .svg and .gcode, ink and hands as .json, and reading these; as handwriting/ink/ and hands.py.

/** A number with at most six digits, as Python's format g. */
function general(number) { return String(Number(number.toPrecision(6))); }

/** A number with at most three decimals, and without an exponent. */
function plain(number) { return String(Number(number.toFixed(3)) + 0); }

/** The path along a stroke, or along the smooth curve through its points. A dot has a little length, to be seen. */
function pathOf(stroke, isSmooth = false) {
  const places = (isSmooth ? beziers(stroke) : stroke).map((place) => place.map((v) => v.toFixed(3)).join(" "));
  if (places.length === 1) return `M${places}h0.01`;
  return `M${isSmooth ? `${places[0]} C${places.slice(1).join(" ")}` : places.join(" L")}`;
}

/** The strokes of a line as a pen draws them: dots become short strokes, for pens that need to move. */
function drawnStrokes({ strokes }) {
  return strokes.map((stroke) => {
    if (Math.hypot(...sizeOf(stroke)) >= FACTS.dot) return stroke;
    const [[left, top], [right, bottom]] = boxOf(stroke), x = (left + right) / 2, y = (top + bottom) / 2;
    return [[x - FACTS.dot / 2, y], [x + FACTS.dot / 2, y]];
  });
}

/** A page of `layOut` for plotters: a path for each stroke, in the order of writing, and the lines' texts as titles. */
function svgText(page, { colour = FACTS.drawing.colour, penWidth = FACTS.drawing.penWidth } = {}) {
  const [width, height] = [general(page.width), general(page.height)];
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const pen = `fill="none" stroke="${colour}" stroke-width="${general(penWidth)}" stroke-linecap="round" ` +
    'stroke-linejoin="round"';
  const groups = page.lines.map((line) => {
    const paths = drawnStrokes(line).map((stroke) => `      <path d="${pathOf(stroke, line.isSmooth)}"/>\n`).join("");
    return `    <g>\n      <title>${escape(line.ink.text)}</title>\n${paths}    </g>\n`;
  });
  return `<?xml version='1.0' encoding='UTF-8'?>\n<svg xmlns="http://www.w3.org/2000/svg" width="${width}mm" ` +
    `height="${height}mm" viewBox="0 0 ${width} ${height}">\n  <g ${pen}` +
    `${groups.length ? `>\n${groups.join("")}  </g>` : "/>"}\n</svg>\n`;
}

/** A line that machines skip, in letters that no firmware obeys. */
function comment(text) {
  const letters = text.normalize("NFKD").replace(/[^\0-\x7f]/g, "").replace(new RegExp(FACTS.notSaid, "g"), " ");
  return `; ${letters}`.slice(0, FACTS.comment).trimEnd();
}

/** A program for a machine that draws a page in the order of writing, and ends at zero, the pen up: gcode.py. */
function gcodeText(page, plotter = {}) {
  const given = { ...FACTS.plotter, ...plotter }, machine = FACTS.machines[given.machine];
  const [across, down, sign] = FACTS.zeros[given.origin], corner = [across * page.width, down * page.height];
  const values = { ...given, seconds: given.pause, milliseconds: 1000 * given.pause, feed_z: given.feedZ };
  const fill = (text, more) => text.replace(/\{(\w+)\}/g, (_, name) => plain({ ...values, ...more }[name]));
  const used = machine.to_place.filter((line) => given.pause || !line.startsWith("G4"));
  const places = ["up", "down"].map((name) => (Number.isFinite(given[name]) ? given[name] : machine[name]));
  const [lift, lower] = places.map((place) => used.map((line) => fill(line, { place })));
  const groups = page.lines.map((line) => {
    const flat = (stroke) => (line.isSmooth ? simplify(smooth(stroke, 8), FACTS.flatness) : stroke);
    const move = ([x, y]) => [x - corner[0], (y - corner[1]) * sign + 0];
    return { title: line.ink.text, strokes: drawnStrokes(line).map((stroke) => flat(stroke).map(move)) };
  });
  const drawn = groups.flatMap(({ strokes }) => strokes), home = `G0 X0 Y0${fill(machine.travel)}`;
  const body = groups.flatMap(({ title, strokes }) => [comment(title), ...strokes.flatMap((stroke) => {
    const [first, second, ...others] = stroke.map(([x, y]) => `X${x.toFixed(3)} Y${y.toFixed(3)}`);
    const moves = [`G1 ${second} F${plain(given.feed)}`, ...others.map((place) => `G1 ${place}`)];
    return [home.replace("X0 Y0", first), ...lower, ...moves, ...lift];
  })]);
  const head = header(page, given, drawn, Math.abs(places[0] - places[1]));
  return [...head, ...machine.start, ...lift, ...body, home, ""].join("\n");
}

/** Comments on a program that draws strokes, in mm from the machine's zero; `height`: how far the pen is lifted. */
function header(page, { machine, origin, feed, travel, feedZ, pause }, strokes, height) {
  const drawn = sum(strokes.map((stroke) => wayAlong(stroke).at(-1)));
  const ends = [[0, 0], ...strokes.flatMap((stroke) => [stroke[0], stroke.at(-1)]), [0, 0]];
  const way = sum(ends.map(([x, y], n) => (n % 2 ? Math.hypot(x - ends[n - 1][0], y - ends[n - 1][1]) : 0)));
  const lifts = 2 * strokes.length * (machine.endsWith("z") ? height / feedZ : pause / 60);
  return [
    page.lines.find(({ ink }) => ink.text)?.ink.text ?? "",
    `${machine}, page ${plain(page.width)} x ${plain(page.height)} mm, zero at its ${origin}`,
    `${drawn.toFixed()} mm drawn in ${strokes.length} strokes, ${way.toFixed()} mm of travel`,
    `about ${Math.ceil(drawn / feed + way / travel + lifts)} min, without speeding up and slowing down`,
  ].map(comment);
}

/** Lines of ink in whiteboard units, and for each point its character's place, for the project's programs. */
function jsonText(inks) {
  const lines = inks.map((ink) => {
    const strokes = toStrokes(ink.points), line = Object.fromEntries(FACTS.details.map((name) => [name, ink[name]]));
    line.strokes = strokes.map((stroke) => stroke.map((place) => place.map((v) => Math.round(1000 * v) / 1000)));
    let end = 0;
    line.characters = strokes.map((stroke) => Array.from(ink.characters.slice(end, (end += stroke.length))));
    return line;
  });
  return JSON.stringify({ version: FACTS.inkVersion, lines });
}

/** The vector of a hand (D), for --style. */
function handText(vector) {
  const hand = Array.from(vector, (v) => Math.round(1e5 * v) / 1e5);
  return `${JSON.stringify({ hand, encoder: FACTS.encoder })}\n`;
}

/** What a .json of this project holds: a hand as {vector}, or ink as {inks: [{points, text}]}. Throws for others. */
function readInkFile(name, text) {
  const other = "ink is not read from such files; give one that ends with .json";
  if (!/\.json$/i.test(name)) throw new Error(`${name}: ${other}`);
  let content, inks;
  try {
    content = JSON.parse(text);
    inks = content.hand ? null : content.lines.map(readLine).filter(Boolean);
  } catch {
    throw new Error(`${name}: not ink that can be read: it is not of the form that this project writes`);
  }
  if (!inks) return { vector: readHand(name, content) };
  let fault = inks.length ? "" : "there are no strokes in it";
  if (sum(inks.map(({ points }) => points.length)) === 3) fault = "fewer than two points, which is no writing";
  if (content.version !== FACTS.inkVersion) fault = "it is of another version of this project";
  if (fault) throw new Error(`${name}: not ink that can be read: ${fault}`);
  return { inks };
}

/** The vector (D) in the content of a file. Throws for one of another encoder. */
function readHand(name, { hand, encoder }) {
  const vector = Float32Array.from(hand), isWhole = vector.length === FACTS.config.hand_size;
  if (encoder === FACTS.encoder && isWhole && vector.every(Number.isFinite)) return vector;
  throw new Error(`${name}: the hand of another network; take it from its ink again`);
}

/** A line of ink in a file, {points, text}; null without strokes. Throws for what is no ink. */
function readLine({ strokes, text = "" }) {
  const drawn = strokes.filter((stroke) => stroke.length);
  const isPlace = (place) => place.length === 2 && place.every((v) => Math.abs(v) <= FACTS.mostCoordinate);
  if (!drawn.flat().every(isPlace)) throw new Error("not places");
  const points = drawn.length && toPoints(drawn);
  if (points) points.set(drawn[0][0]); // the offset of the first point, which `toPoints` leaves out
  return points ? { points, text } : null;
}
