"use strict";
// Files: pages as .svg and .gcode, ink and hands as .json, and reading these; as handwriting/ink/ and hands.py.

/** A number with at most six digits, as Python's format g. */
function general(number) { return String(Number(number.toPrecision(6))); }

/** A place in mm, as its coordinates with three decimals. */
function placeText([x, y], before = ["", ""]) { return `${before[0]}${x.toFixed(3)} ${before[1]}${y.toFixed(3)}`; }

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
    const data = drawnStrokes(line).map((stroke) => stroke.map((place) => placeText(place)).join(" L"));
    const paths = data.map((places) => `    <path d="M${places}"/>\n`).join("");
    return `  <g ${pen}>\n    <title>${escape(line.ink.text)}</title>\n${paths}  </g>\n`;
  });
  return `<?xml version='1.0' encoding='UTF-8'?>\n<svg xmlns="http://www.w3.org/2000/svg" width="${width}mm" ` +
    `height="${height}mm" viewBox="0 0 ${width} ${height}"${groups.length ? `>\n${groups.join("")}</svg>` : "/>"}\n`;
}

/** A program that draws a page in mm, in the order of writing, and ends at the origin, the pen up. */
function gcodeText(page, plotter = {}) {
  const { pen, up, down, feed, travel, pause, origin } = { ...FACTS.plotter, ...plotter }, kind = FACTS.plotters[pen];
  const fill = (command, values) => command.replace(/\{(\w+):g\}/g, (_, name) => general(values[name]));
  const wait = kind.wait && pause ? [fill(kind.wait, { milliseconds: 1000 * pause, seconds: pause })] : [];
  const [lift, lower] = [up ?? kind.up, down ?? kind.down].map((place) => [fill(kind.move, { place }), ...wait]);
  const strokes = page.lines.flatMap(drawnStrokes).flatMap((stroke) => {
    const corners = origin === "top left" ? stroke : stroke.map(([x, y]) => [x, page.height - y]);
    const [first, second, ...others] = corners.map((place) => placeText(place, ["X", "Y"]));
    const moves = [`G1 ${second} F${general(feed)}`, ...others.map((text) => `G1 ${text}`)];
    return [`G0 ${first} F${general(travel)}`, ...lower, ...moves, ...lift];
  });
  return ["G21", "G90", ...lift, ...strokes, `G0 X0 Y0 F${general(travel)}`, "M2", ""].join("\n");
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
