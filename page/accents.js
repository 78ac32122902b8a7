"use strict";
// Texts made ready for the network, and the accents and signs that it lacks, drawn as strokes: on the letters that it
// wrote, and in blanks. As handwriting/alphabet.py and handwriting/ink/accents.py, whose tables FACTS has.

/** A text as an error names it: in quotes, with what cannot be seen escaped. `ascii`: all else escaped too. */
function quote(text, ascii = false) {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'", short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  return mark + text.replace(ascii ? /[^ -~]|[\\'"]/gu : /[\p{C}\p{Z}\\'"]/gu, (c) => {
    if (c === " " || ("'\"".includes(c) && c !== mark)) return c;
    if ("\\'\"".includes(c)) return `\\${c}`;
    const code = c.codePointAt(0), [letter, digits] = code < 256 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
    return short[c] ?? `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  }) + mark;
}

/** Throws an error that names the characters of a text that are not among the known ones. */
function refuseOthers(text, known) {
  const unknown = [...new Set(text)].filter((c) => !known.includes(c));
  const named = unknown.sort((a, b) => a.codePointAt() - b.codePointAt()).map((c) => quote(c)).join(" ");
  if (named) throw new Error(`the network never learned ${named}; it knows ${quote(known)}`);
}

/** The letter or blank that a network writes for a character, and the marks to draw; null if any is not known. */
function splitCharacter(character) {
  if (FACTS.marks[character]?.letter) return [FACTS.marks[character].letter, [character]];
  const [letter, ...marks] = character.normalize("NFD");
  return marks.length && marks.every((mark) => FACTS.marks[mark]) ? [letter, marks] : null;
}

/** What the network writes of a character that is drawn in part, a blank for one that is drawn; else "". */
function letterOf(character) {
  const [letter] = splitCharacter(character) ?? [""];
  return !FACTS.learned.includes(character) && FACTS.learned.includes(letter) ? letter : "";
}

/** What is written for a character, itself if it was learned, is drawn, or has no replacement; and a note or "". */
function writtenFor(character) {
  if (character === "\n" || FACTS.learned.includes(character)) return [character, ""];
  const letter = letterOf(character);
  if (letter === " ") return [character, `drew ${quote(character)}`];
  if (letter) return [character, `wrote ${quote(letter)} for ${quote(character)} and drew the rest`];
  const replaced = (text) => Array.from(text, (c) => FACTS.replacements[c] ?? c).join("");
  const isSeen = (c) => !/[\p{M}\p{Cf}]/u.test(c); // neither combines nor changes others unseen
  const plain = [...tidy(replaced(replaced(character).normalize("NFKD")))].filter(isSeen).join("");
  if (!(plain || !isSeen(character)) || ![...plain].every((c) => FACTS.learned.includes(c))) return [character, ""];
  return [plain, plain ? `wrote ${quote(plain)} for ${quote(character)}` : `left out ${quote(character, true)}`];
}

/** A text of paragraphs with characters replaced, and notes. Throws for what can be neither written nor drawn. */
function preparePage(text) {
  const lines = textLines(text), pairs = Array.from(lines.map(tidy).join("\n").normalize("NFC"), writtenFor);
  const replaced = pairs.map(([written]) => written).join("");
  refuseOthers(spell(replaced.replaceAll("\n", "")).letters, FACTS.learned);
  if (!replaced.trim()) throw new Error("the text is empty; give some characters to write");
  const indented = replaced.split("\n").map((line, n) => (line ? " ".repeat(indentOf(lines[n])) + line : ""));
  return { text: indented.join("\n"), notes: [...new Set(pairs.map(([, note]) => note).filter(Boolean))] };
}

/** A prepared line and what the network writes of it, a letter for each character. */
function spell(text) { return { text, letters: Array.from(text, (c) => letterOf(c) || c).join("") }; }

/** The codes of letters: their places among the network's characters. Throws for those that it lacks. */
function encodeText(letters) {
  refuseOthers(letters, FACTS.characters);
  return Int32Array.from(letters, (c) => FACTS.characters.indexOf(c));
}

/** A frame for a line's ink in which letters are upright, the baseline is y = 0, and the unit is the x-height. */
function makeFrame(strokes, letters) {
  const steps = stepsOf(strokes).map((step) => step.length).filter(Boolean);
  const level = steps.length ? findLevel(strokes) : { slope: 0, x: [0], baseline: [0], xHeight: FACTS.usualXHeight };
  const slant = findSlant(strokes.map((stroke) => applyLevel(level, stroke)));
  const shear = Math.tan((clip(slant, -30, 30) * Math.PI) / 180); // steeper lines are too short to tell
  const tall = letters.match(/(?!\p{Lowercase})[\p{L}\p{N}]/gu) ?? [];
  const isCapitals = steps.length && tall.length > 0.65 * letters.replaceAll(" ", "").length;
  const unit = level.xHeight / (isCapitals ? FACTS.capital : 1); // of the ink
  const step = (steps.length ? median(steps) : FACTS.usualStep) / unit; // between points
  const enter = (positions) => applyLevel(level, positions, 1 / unit).map(([x, y]) => [x + shear * y, y]);
  const leave = (positions) => {
    const slanted = positions.map(([x, y]) => [(x - shear * y) * unit, y * unit]);
    return turn(slanted.map(([x, y]) => [x, y + interpolate(x, level.x, level.baseline)]), -level.slope);
  };
  return { step, enter, leave };
}

/** Draw what is in `text` but not in `letters`, which the ink says; see draw_marks. `characters`: a place a point. */
function drawMarks(strokes, characters, letters, text, seed) {
  if (letters === text) return { strokes, characters };
  const written = letters.trim() ? strokes : [], frame = makeFrame(written, letters); // blanks alone say nothing
  let begin = 0;
  const line = written.map((stroke) => {
    const owners = Array.from(characters.slice(begin, (begin += stroke.length)));
    return { positions: frame.enter(stroke), owners };
  });
  for (let place = 0; place < text.length; place++) {
    if (letters[place] === text[place]) continue;
    const normal = makeNormals(seed, place);
    const marks = (splitCharacter(text[place])?.[1] ?? []).map((name) => vary(FACTS.marks[name], normal));
    const hasDot = "ij".includes(letters[place]) && marks.some(({ where }) => where === "above");
    if (hasDot) removeDot(line, letters, place);
    const rest = text.slice(place + 1).match(/^\p{L}*/u)[0].length; // of the word
    const [at, shapes] = letters[place] === " "
      ? placeSign(line, marks[0].strokes, place, text)
      : [strokesUpTo(line, place + rest), placeMarks(marks, letterBox(line, letters, place))];
    line.splice(at, 0, ...shapes.map((corners) => {
      const curve = smooth(corners), step = clip(wayAlong(curve).at(-1) / 6, frame.step / 2, frame.step);
      const positions = resample(curve, step); // points as far apart as the line's, or nearer in a short stroke
      return { positions, owners: positions.map(() => place) };
    }));
  }
  return {
    strokes: line.map(({ positions }) => frame.leave(positions)),
    characters: Int32Array.from(line.flatMap(({ owners }) => owners)),
  };
}

/** A mark as a hand would draw it: never twice the same. `normal` gives standard normal numbers. */
function vary(mark, normal) {
  const size = 1 + 0.06 * normal(), angle = 0.05 * normal();
  const move = (stroke) => turn(stroke, -Math.tan(angle)).map((place) => place.map((v) => size * v + 0.01 * normal()));
  return { ...mark, strokes: mark.strokes.map(move) };
}

/** How many strokes there are up to the last one of the characters up to `place`. */
function strokesUpTo(line, place) {
  const isUpTo = ({ owners }) => median(owners.filter((owner) => owner >= 0)) <= place; // false without an owner
  return line.reduce((count, stroke, n) => (isUpTo(stroke) ? n + 1 : count), 0);
}

/** The corners of all strokes of marks at a letter, whose ink is in the box ((left, top), (right, bottom)). */
function placeMarks(marks, [[left, top], [right, bottom]]) {
  let above = top;
  return marks.flatMap(({ where, strokes }) => {
    const [across, down] = FACTS.origins[where], width = right - left, height = bottom - above;
    const [scaleX, scaleY] = where === "over" ? [width, height] : [1, 1];
    const x0 = left + width * across, y0 = above + height * down - (where === "above" ? FACTS.gap : 0);
    const placed = strokes.map((stroke) => stroke.map(([x, y]) => [x0 + scaleX * x, y0 + scaleY * y]));
    if (where === "above" && placed.length) above = boxOf(placed.flat())[0][1] + FACTS.gap - FACTS.stacked;
    return placed;
  });
}

/** Where the ink of the letter at `place` is in the frame; beside its neighbours if there is next to none. */
function letterBox(line, letters, place) {
  const isTall = FACTS.tall.includes(letters[place]) || !/\p{Lowercase}/u.test(letters[place]);
  const inkOf = (n) => line.flatMap(({ positions, owners }) => positions.filter((_, k) => owners[k] === n));
  const points = inkOf(place).filter(([, y]) => y > (isTall ? -2.8 : -1.6) && y < 1.5), narrow = FACTS.narrowest;
  if (points.length < FACTS.fewest) {
    const x = middleNear(letters, place, inkOf) ?? mean(line.flatMap(({ positions }) => positions.map(([x]) => x)));
    return [[x - narrow / 2, isTall ? -FACTS.capital : -1], [x + narrow / 2, 0]];
  }
  const ys = points.map(([, y]) => y), top = quantile(ys, 0.04), bottom = quantile(ys, 0.96);
  const body = points.filter(([, y]) => y <= 0.7 * bottom + 0.3 * top).map(([x]) => x).sort((a, b) => a - b);
  const [left, right] = [0.04, 0.96].map((share) => body[Math.round(share * (body.length - 1))]);
  const heights = boxOf(points.filter(([x]) => x >= left && x <= right)).map(([, y]) => y);
  const lacking = Math.max(0, narrow - (right - left)) / 2;
  return [[left - lacking, heights[0]], [right + lacking, heights[1]]];
}

/** Where the middle of a letter is by its neighbours', or an x-height a letter beyond the nearest; null without any. */
function middleNear(letters, place, inkOf) {
  const found = [...letters].map((_, n) => n).filter((n) => letters[n] !== " " && inkOf(n).length >= FACTS.fewest);
  const middles = found.map((n) => mean(boxOf(inkOf(n)).map(([x]) => x)));
  const beyond = Math.max(place - found.at(-1), 0) + Math.min(place - found[0], 0);
  return found.length ? interpolate(place, found, middles) + beyond : null;
}

/** Take away the dot of the i or j at `place`, if there is one near it and nearer to no other. */
function removeDot(line, letters, place) {
  const places = [...letters].flatMap((letter, n) => ("ij".includes(letter) ? [n] : []));
  const middles = places.map((n) => mean(letterBox(line, letters, n).map(([x]) => x)));
  let best = { distance: 0.8, number: -1 };
  line.forEach(({ positions, owners }, number) => {
    const [[left, top], [right, bottom]] = boxOf(positions), owner = Math.trunc(median(owners));
    const distances = middles.map((middle) => Math.abs(middle - (left + right) / 2)), distance = Math.min(...distances);
    const isDot = Math.max(right - left, bottom - top) < 0.4 && (top + bottom) / 2 > -2.6 && (top + bottom) / 2 < -1;
    const isIts = owner >= place && !"'\"".includes(letters[owner]) && places[distances.indexOf(distance)] === place;
    if (isDot && isIts && distance < best.distance) best = { distance, number };
  });
  if (best.number >= 0) line.splice(best.number, 1);
}

/** Move what follows the blank at `place` to where a sign ends: how many strokes come before it, and the sign's. */
function placeSign(line, strokes, place, text) {
  const boxes = line.map(({ positions }) => boxOf(positions)), last = strokesUpTo(line, place);
  const left = boxes.map((box) => box[0][0]), right = boxes.map((box) => box[1][0]);
  let at = strokesUpTo(line, place - 1);
  const before = Math.max(...right.slice(0, at)), next = Math.min(...left.slice(last));
  while (at < last && left[at] - before <= next - right[at]) at++; // strokes of the blank go with the nearer side
  const [[low], [high]] = boxOf(strokes.flat());
  const gaps = [place - 1, place + 1].map((n) => (text[n] === " " ? FACTS.apart : FACTS.near));
  const after = at < line.length ? Math.min(...left.slice(at)) : 0;
  const start = at ? Math.max(...right.slice(0, at)) + gaps[0] : after - gaps[1] - (high - low);
  const moved = at ? start + (high - low) + gaps[1] - after : 0;
  for (const stroke of line.slice(at)) stroke.positions = stroke.positions.map(([x, y]) => [x + moved, y]);
  return [at, strokes.map((stroke) => stroke.map(([x, y]) => [x + start - low, y]))];
}
