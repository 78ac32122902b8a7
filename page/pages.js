"use strict";
// A text broken into lines by the width of its ink, and the written lines placed on paper, in mm; handwriting/pages.py.
// A line is {text, paragraph, start, indent}: `start` is its place in the paragraph; blank ones have the text "".

const REMEDY = "give a larger page, smaller margins or a smaller x-height";

/** The lines of a text, with blanks for its tabs. Lines end as in Python. */
function textLines(text) {
  const lines = text.split(/\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/);
  if (!lines.at(-1)) lines.pop();
  const addTab = (before, after) => before + " ".repeat(4 - ([...before].length % 4)) + after;
  return lines.map((line) => line.split("\t").reduce(addTab));
}

/** A line's words with a blank between each two. */
function tidy(line) {
  const words = line.split(/[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/);
  return words.filter(Boolean).join(" ");
}

/** How many blanks a line with words begins with. */
function indentOf(line) { return [...line].findIndex((c) => tidy(c)); }

/** What is between the left and the right margin, in mm. */
function textWidth({ width, margins }) { return width - margins[1] - margins[3]; }

/** The baselines of a page, y in mm. Throws for a format that leaves no room to write. */
function baselinesOf(format) {
  const { width, height, margins, xHeight, lineSpacing } = format, spacing = lineSpacing ?? 3.6 * xHeight;
  const count = Math.trunc((height - margins[0] - margins[2]) / spacing + 1e-9);
  if (!(textWidth(format) >= 2 * xHeight && count >= 1 && count < Infinity)) {
    const size = `${general(width)}x${general(height)} mm`;
    throw new Error(`a page of ${size} has no room for a line within its margins; ${REMEDY}`);
  }
  return Array.from({ length: count }, (_, row) => margins[0] + (row + FACTS.baseline) * spacing);
}

/** How wide a text's ink will be, in mm: by what its characters usually take, and by the ink seen so far. */
class WidthEstimate {
  constructor(xHeight) {
    Object.assign(this, { advance: FACTS.usualAdvance * xHeight, seenShares: 0, seenWidth: 0 }); // mm
  }

  /** A text's width in mean characters. */
  shares(text) {
    const shareOf = (c) => (/\p{Uppercase}/u.test(c) ? FACTS.capitalAdvance : FACTS.advances[c] ?? FACTS.otherAdvance);
    return sum(Array.from(text, shareOf));
  }

  /** Take account of ink: `text` came out `width` mm wide. */
  learn(text, width) {
    this.seenShares += this.shares(text);
    this.seenWidth += width;
    if (this.seenShares) this.advance = this.seenWidth / this.seenShares;
  }

  /** The width in mm that five lines in six stay within. */
  measure(text) {
    return this.shares(text) * this.advance * (1 + FACTS.spread);
  }
}

/** What tells a line of a text from its others. */
function lineName({ text, paragraph, start }) { return `${paragraph} ${start} ${text}`; }

/** Break a text into {lines, broken}. `measure`: from text to mm; `written`: mm of lines that are, by their names. */
function breakText(text, measure, width, written = new Map()) {
  const lines = [], broken = new Set();
  for (const [paragraph, given] of textLines(text).entries()) {
    const words = tidy(given), whole = { text: words, paragraph, start: 0, indent: 0 };
    if (!words) {
      lines.push(whole);
      continue;
    }
    const needed = written.get(lineName(whole)) ?? measure(words);
    const room = needed <= width ? width - needed : width / 2; // so that a date on the right stays one line
    const indent = Math.min(measure(" ".repeat(indentOf(given))), room);
    const marker = words.match(`^${FACTS.marker}`); // of an item of a list: what follows is set in by its width
    const hang = marker ? Math.min(measure(marker[0]), width / 2) : 0;
    for (let start = 0, line; start < words.length; ) {
      const begin = start;
      [line, start] = nextLine(words, begin, paragraph, indent + (begin ? hang : 0), measure, width, written);
      lines.push(line);
      if (line.text !== words.slice(begin, start).trim()) { // a hyphen was added
        broken.add(words.slice(words.lastIndexOf(" ", start - 1) + 1).split(" ")[0]);
      }
    }
  }
  return { lines, broken: [...broken] };
}

/** The longest line that fits, from `start` on, or one that is written and fits; and where the next one starts. */
function nextLine(words, start, paragraph, indent, measure, width, written) {
  const choose = (ends, hyphen = "") => { // of lines with some ends, the shortest first, the one to write
    let chosen = null, inked = 0, base = 0, share = 1; // mm of a shorter line's ink, and as estimated
    for (const end of ends) {
      const text = words.slice(start, end);
      const line = { text: text.endsWith("-") ? text : text + hyphen, paragraph, start, indent };
      const known = written.get(lineName(line)), needed = known ?? inked + share * (measure(line.text) - base);
      const room = width - indent;
      if (needed <= room) chosen = [line, end + (words[end] === " ")];
      if (needed > (known === undefined ? 2 : FACTS.loose) * room) break; // a longer one is not likely to fit
      share = known === undefined ? 1 : FACTS.loose;
      if (known !== undefined) [inked, base] = [known, measure(line.text)];
    }
    return chosen;
  };
  const word = words.slice(start).split(" ")[0];
  // A broken word keeps two characters or more on either side, if it has as many, and its own hyphens are the best.
  const least = word.length > 3 ? 2 : 1, isEnd = (n) => n >= least && n <= word.length - least;
  const isPiece = (n) => isEnd(n) && /[\p{L}\p{N}-]/u.test(word[n - 1]);
  const pieces = [...word].flatMap((_, n) => (isPiece(n) ? [start + n] : []));
  const own = pieces.filter((end) => words[end - 1] === "-");
  const ends = [...words.matchAll(/ |$/g)].map(({ index }) => index).filter((end) => end > start);
  const found = choose(ends) ?? choose(own) ?? choose(pieces, "-");
  if (found) return found;
  const room = (width - indent).toFixed(1);
  throw new Error(`the page is too narrow for ${quote(word)}, even broken with a hyphen: ${room} mm; ${REMEDY}`);
}

/** Have a text written by `write`, until no line is too wide: {lines, inks (null: a blank line), scale, broken}. */
async function writeText(text, write, format, show = null, known = null) {
  if (!tidy(text)) throw new Error("the text is empty; give some characters to write");
  baselinesOf(format);
  const estimate = new WidthEstimate(format.xHeight), inks = new Map(), widths = new Map();
  let scale = known?.scale ?? 0; // mm for a whiteboard unit
  const learn = (line, ink, isFirst) => {
    inks.set(lineName(line), ink);
    widths.set(lineName(line), sizeOf(levelled(ink, format.xHeight, scale).flat())[0]);
    if (isFirst) estimate.learn(line.text, widths.get(lineName(line)));
  };
  known?.inks.forEach((ink, line) => learn(line, ink, true));
  for (;;) { // a line that turns out too wide is written again with less text, and so is what follows it
    const { lines, broken } = breakText(text, (piece) => estimate.measure(piece), textWidth(format), widths);
    let missing = lines.filter((line) => line.text && !inks.has(lineName(line))), count = 0;
    const done = missing.length ? lines.slice(0, lines.indexOf(missing[0])) : lines;
    const part = { lines: done, inks: done.map((line) => inks.get(lineName(line)) ?? null), scale, broken };
    if (!missing.length) return part;
    if (!scale) missing = missing.filter((line) => (count += line.text.length) - line.text.length < FACTS.probe);
    else if (show) missing = missing.slice(0, 1); // or more would be in vain if it is too wide
    const asked = write(missing);
    if (scale) show?.(part); // while the next line is being written
    const written = await asked;
    const isFirst = !scale; // a few lines, which tell how large the hand is; paragraphs have no effect on others
    scale ||= pageScale(written, format);
    missing.forEach((line, n) => learn(line, written[n], isFirst));
  }
}

/** Millimetres for a whiteboard unit, so that the x-height of the median character of inks is the page's. */
function pageScale(inks, format) {
  const heights = inks.filter(hasExtent).flatMap(({ points, text }) =>
    Array(Math.max(text.replaceAll(" ", "").length, 1)).fill(findLevel(toStrokes(points)).xHeight));
  if (heights.length) return format.xHeight / median(heights);
  throw new Error("there is no ink on the page whose size could be measured; give a longer text");
}

/** Whether ink is more than a dot. */
function hasExtent(ink) { return sizeOf(toStrokes(ink.points).flat()).some(Boolean); }

/** A function of an ink and other arguments that keeps, for each ink, what it gave for the latest ones. */
function keepLatest(make) {
  const latest = new WeakMap(); // {key, value}
  return (ink, ...others) => {
    const key = others.join();
    if (latest.get(ink)?.key !== key) latest.set(ink, { key, value: make(ink, ...others) });
    return latest.get(ink).value;
  };
}

/** Strokes of a line with its baseline at y = 0, times `scale`, where `xHeight` is the page's. */
const levelled = keepLatest((ink, xHeight, scale) => {
  const strokes = toStrokes(ink.points), [x, y] = strokes[0][0];
  const fullStop = { slope: 0, x: [x], baseline: [y] }; // alone on its line
  const level = hasExtent(ink) ? findLevel(strokes, xHeight / scale) : fullStop;
  return strokes.map((stroke) => applyLevel(level, stroke, scale));
});

/** A line on a page: its ink, number, strokes in mm, those of `levelled` moved, and whether they are drawn smooth. */
const placeLine = keepLatest((ink, number, dx, dy, isSmooth, ...size) => {
  const strokes = levelled(ink, ...size).map((stroke) => stroke.map(([x, y]) => [x + dx, y + dy]));
  return { ink, number, isSmooth, strokes };
});

/** Place what `writeText` gives, each line made level, on as many pages as it needs. Throws for a line too wide. */
function layOut(written, format) {
  const { width, height, margins, align, ruled, xHeight, jitter = 0, seed = 0 } = format;
  const heights = baselinesOf(format), pages = [];
  const rules = ruled ? heights.map((y) => [[margins[3], y], [width - margins[1], y]]) : [];
  const normals = makeNormals(seed);
  let row = heights.length, number = 0;
  written.lines.forEach((line, n) => {
    const ink = written.inks[n], [aside, below] = [3, 1].map((times) => clip(normals(), -2, 2) * jitter * times);
    if (row === heights.length) {
      if (!ink && pages.length) return; // further pages begin without a blank line
      pages.push({ width, height, rules, lines: [] });
      row = 0;
    }
    if (ink) {
      const strokes = levelled(ink, xHeight, written.scale);
      const [[left], [right]] = boxOf(strokes.flat()), room = textWidth(format) - (right - left);
      if (room < -1e-6) {
        const over = (-room).toFixed(1);
        throw new Error(`the line ${quote(line.text)} is ${over} mm wider than the page allows; break it anew`);
      }
      const start = { left: Math.min(line.indent, room), center: room / 2, right: room }[align];
      const dx = margins[3] + Math.max(0, Math.min(start + aside, room)) - left, dy = heights[row] + below;
      pages.at(-1).lines.push(placeLine(ink, number++, dx, dy, format.smooth, xHeight, written.scale));
    }
    row++;
  });
  return pages;
}
