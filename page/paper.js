"use strict";
// Paper on the screen: lines as SVG that a pen draws at its pace, what is doubted underlined, and pictures of pages.

const PENS_PACE = 75; // points a second
const PICTURE = { dpi: 300, mostPixels: 8000 }; // along a side

// The pen: `lines` on the paper, those of which the ink is `shown`, and the `ink` being drawn up to some `points`.
// A line of `layOut` is given its group and paths, how many points are drawn, and how many there are in total.
const player = { lines: [], shown: new WeakSet(), ink: null, points: 0, pace: 0, time: 0, request: 0, isMoving: false };

/** Put pages (of `layOut`) on the screen; the pen goes on with the first line that it has not drawn. */
function showPages(pages) {
  const focused = document.activeElement.dataset?.number;
  $("pages").replaceChildren();
  pages.forEach(({ width, height, rules, lines }, n) => {
    const label = { role: "group", "aria-label": `Page ${n + 1} of ${pages.length}` };
    const size = { width: `${width}mm`, viewBox: `0 0 ${width} ${height}` };
    const sheet = add($("pages"), "svg", { class: "page", ...label, ...size });
    for (const rule of rules) add(sheet, "path", { class: "rule", d: pathOf(rule) });
    for (const line of lines) line.group ? sheet.append(line.group) : addLine(sheet, line);
  });
  player.lines = pages.flatMap(({ lines }) => lines);
  for (const line of player.lines) if (player.shown.has(line.ink)) drawLine(line, 1);
  if (focused) player.lines[focused]?.group.focus({ preventScroll: true });
  cancelAnimationFrame(player.request);
  Object.assign(player, { isMoving: true, time: performance.now(), request: requestAnimationFrame(movePen) });
  setWorking();
}

/** Put a line on a page, where it can be pressed; nothing is drawn yet. */
function addLine(sheet, line) {
  const { ink, number, strokes } = line, [[x, y], [right, bottom]] = boxOf(strokes.flat());
  const label = { role: "button", "aria-label": `Write line ${number + 1} again: ${ink.text}` };
  const group = add(sheet, "g", { class: "line", tabindex: 0, "data-number": number, ...label });
  add(group, "rect", { x: x - 1, y: y - 1, width: right - x + 2, height: bottom - y + 2 });
  const paths = strokes.map(() => add(group, "path"));
  Object.assign(line, { group, paths, drawn: 0, total: strokes.flat().length });
}

/** Draw a share of a line, from 0 to 1. When all is drawn, places are underlined that the recogniser doubts. */
function drawLine(line, share) {
  if (line.drawn === line.total) return;
  const until = Math.floor(share * line.total);
  let start = 0;
  line.strokes.forEach((stroke, n) => {
    const end = start + stroke.length;
    const d = end > line.drawn && start < until && pathOf(stroke.slice(0, until - start), line.isSmooth);
    if (d) line.paths[n].setAttribute("d", d);
    start = end;
  });
  line.drawn = until;
  if (share === 1) for (const d of doubtsOf(line)) add(line.group, "path", { class: "doubt", d });
}

/** Paths under what is doubted; what has no ink is where its neighbours are. */
function doubtsOf({ ink, strokes }) {
  const places = strokes.flat();
  return ink.wrong.map((wrong) => {
    const off = Array.from(ink.characters, (place) => Math.abs(place - wrong)), least = Math.min(...off);
    const [[left], [right, bottom]] = boxOf(places.filter((_, n) => off[n] === least));
    return `M${left - 1} ${bottom + 0.9}H${right + 1}`;
  });
}

/** One frame: the pen moves as far as its pace takes it, or, without a pace, to the end of all lines. */
function movePen() {
  const now = performance.now();
  let way = player.pace ? (Math.min(now - player.time, 250) / 1000) * player.pace : Infinity; // points
  player.time = now;
  for (const line of player.lines.filter(({ ink }) => !player.shown.has(ink))) {
    if (player.ink !== line.ink) Object.assign(player, { ink: line.ink, points: 0 });
    const last = line.ink.points.length / 3;
    player.points = Math.min(last, player.points + way);
    drawLine(line, player.points / last);
    if (player.pace) showInside(line.ink, Math.floor(player.points));
    if (player.points < last) return (player.request = requestAnimationFrame(movePen));
    player.shown.add(line.ink);
    if (player.pace) way = 0;
  }
  player.isMoving = false;
  setWorking();
  if (!isWorking && current) report(current);
}

/** A promise of a page as PNG. */
function pictureOf({ width, height, rules, lines }, { colour, penWidth }) {
  const scale = Math.min(PICTURE.dpi / 25.4, PICTURE.mostPixels / Math.max(width, height)); // pixels for a mm
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  context.scale(scale, scale);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  const draw = (strokes, isSmooth, strokeStyle, lineWidth) => {
    Object.assign(context, { lineCap: "round", lineJoin: "round", strokeStyle, lineWidth });
    for (const stroke of strokes) context.stroke(new Path2D(pathOf(stroke, isSmooth)));
  };
  draw(rules, false, "#b9c4d6", 0.15);
  for (const line of lines) draw(drawnStrokes(line), line.isSmooth, colour, penWidth);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
