"use strict";
// The tab "Your hand": three lines to copy, the hand that is taken from them, and the hands that are kept.

const SENTENCES = ["My big dog jumps quickly", "over five wooden boxes", "in the lazy afternoon sun"]; // all letters
const PATIENCE = 2000; // ms after the last stroke, until a line is checked
const LEAST = { height: 6, ink: 6 }; // of an x, and of ink for a character, pixels
const MOST_MISREAD = 0.4; // the share of characters
const LITTLE = "There is hardly any ink", SMALL = "It is very small: write larger, over the whole line";
const OTHER = "It does not look like the sentence";
const sheet = { lines: [], hand: null, seed: 1 };

/** Say something under the lines. */
const saySheet = (text, isError) => say(text, isError, "sheet-status");

/** The kept hands: {name: {vector, strength, bias}}. */
const keptHands = () => recall("hands", {});

/** The vector of the hand that is chosen (D), once the pen is ready. */
function handOf({ hand, seed, bias }) {
  const name = hand.replace(/^\w+:/, "");
  const vector = hand.startsWith("own:") ? keptHands()[name]?.vector : FACTS.styles[name];
  return vector ? Float32Array.from(vector) : pen.randomHand(seed, bias);
}

/** A new button, with a label that says what it is for. */
function addButton(parent, textContent, what, onclick) {
  const label = { textContent, type: "button", "aria-label": `${textContent} ${what}` };
  add(parent, "button", label).onclick = onclick;
}

/** List the hands in both tabs, with one chosen. */
function listHands(chosen = $("hand").value) {
  const yours = Object.keys(keptHands());
  $("hand").replaceChildren(new Option("a new hand", ""));
  for (const [label, prefix, names] of [["Yours", "own:", yours], ["Shipped", "style:", Object.keys(FACTS.styles)]]) {
    const options = names.map((name) => new Option(name, prefix + name));
    if (names.length) add($("hand"), "optgroup", { label }).append(...options);
  }
  $("hand").value = chosen;
  if ($("hand").selectedIndex < 0) $("hand").selectedIndex = 0;
  $("kept").replaceChildren();
  for (const name of yours) {
    const item = add($("kept"), "li", { textContent: name });
    addButton(item, "Delete", name, () => {
      const { [name]: _, ...others } = keptHands();
      remember("hands", others);
      listHands();
      saySheet(`“${name}” is deleted`);
    });
  }
  if (!yours.length) add($("kept"), "li", { textContent: "None yet.", class: "note" });
}

/** A line to copy a sentence onto. */
function addLineToCopy(sentence, number) {
  const item = add($("lines"), "li"), line = { sentence };
  add(item, "p", { class: "sentence", textContent: sentence });
  line.pad = add(item, "svg", { class: "pad", role: "img", "aria-label": `Paper to write line ${number + 1} on` });
  const row = add(item, "div", { class: "row" });
  addButton(row, "Done", `with line ${number + 1}`, () => checkLine(line, true));
  addButton(row, "Redo", `line ${number + 1}`, () => clearLine(line));
  line.status = add(row, "p", { id: `line-status-${number}`, class: "status", role: "status" });
  clearLine(line);
  listenToPen(line);
  return line;
}

/** Make a line empty. */
function clearLine(line) {
  clearTimeout(line.timer);
  Object.assign(line, { strokes: [], isDone: false, fault: "" });
  line.pad.replaceChildren();
  add(line.pad, "path", { class: "rule", d: "M0 80H4000" });
  say("", false, line.status.id);
}

/** Take strokes in pixels, with `times` in ms, from pen, finger or mouse, one at a time: all that the browser saw. */
function listenToPen(line) {
  const { pad } = line;
  let stroke, path, pointer = null;
  const extend = (event) => {
    const { left, top } = pad.getBoundingClientRect(), seen = event.getCoalescedEvents();
    for (const { clientX, clientY, timeStamp } of seen.length ? seen : [event]) {
      stroke.push([clientX - left, clientY - top]);
      stroke.times.push(timeStamp);
    }
    path.setAttribute("d", pathOf(stroke));
  };
  pad.onpointerdown = (event) => {
    if (pointer !== null || event.button) return;
    clearTimeout(line.timer);
    line.isDone = false;
    [stroke, path, pointer] = [Object.assign([], { times: [] }), add(pad, "path"), event.pointerId];
    line.strokes.push(stroke);
    if (event.isTrusted) pad.setPointerCapture(pointer);
    extend(event);
  };
  pad.onpointermove = (event) => {
    if (event.pointerId === pointer) extend(event);
  };
  pad.onpointerup = pad.onpointercancel = (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    line.timer = setTimeout(() => checkLine(line), PATIENCE);
  };
}

/** What is wrong with strokes for a sentence, as far as it is seen without reading; "" if nothing. */
function faultOf(strokes, sentence) {
  const words = sentence.split(" ").length;
  if (sum(stepsOf(strokes).map(({ length }) => length)) < LEAST.ink * sentence.length) return LITTLE;
  if (findLevel(strokes).xHeight < LEAST.height) return SMALL;
  return strokes.length < words ? `Something lacks: ${count(strokes.length, "stroke")} for ${words} words` : "";
}

/** Check a line, after some time or when "Done" is pressed; pressed again, it is kept all the same. */
async function checkLine(line, isPressed = false) {
  clearTimeout(line.timer);
  const { strokes, sentence } = line, drawn = strokes.flat().length;
  let fault = faultOf(strokes, sentence);
  const [read] = fault === LITTLE ? [""] : await pen.read([toWritingScale(strokes)]);
  if (line.strokes !== strokes || strokes.flat().length !== drawn) return; // the pen went on
  if (!fault && compareTexts(sentence, read).errors > MOST_MISREAD * sentence.length) fault = OTHER;
  line.isDone = !fault || (isPressed && fault === line.fault && fault !== LITTLE);
  line.fault = fault;
  const next = line.isDone || fault === LITTLE ? "" : "; “Done” keeps it all the same";
  say(`${fault || "Good"}${read && `; the page reads “${read}”`}${next}`, Boolean(fault), line.status.id);
  if (!sheet.lines.every(({ isDone }) => isDone)) return;
  useHand({ vector: meanOf(await pen.encode(sheet.lines.map((each) => toWritingScale(each.strokes)))) });
}

/** The mean of vectors. */
const meanOf = (vectors) => vectors[0].map((_, d) => mean(vectors.map((vector) => vector[d])));

/** How a hand is tuned. */
const tuning = () => ({ strength: $("trial-strength").valueAsNumber, bias: $("trial-bias").valueAsNumber });

/** Try the hand of a vector, and let it be tuned. */
function useHand({ vector }, name = $("hand-name").value) {
  sheet.hand = Float32Array.from(vector);
  $("trial").hidden = false;
  $("hand-name").value = name;
  tryHand();
}

/** Write the sentence in the hand, and say how near it came. */
async function tryHand() {
  const { hand, seed } = sheet;
  saySheet("Writing in this hand…");
  try {
    const job = { seed, ...spell(tidy(preparePage($("trial-text").value).text)) };
    const [ink] = await pen.write([job.letters], [seed], { ...tuning(), hand, tries: readSettings().tries });
    const [found] = await pen.encode([ink.points]), distance = Math.hypot(...found.map((v, d) => v - hand[d]));
    showTrial(toStrokes(withMarks(ink, job).points));
    saySheet(`This is ${nearness(distance)} (a distance of ${distance.toFixed(2)}; theirs is ${FACTS.usualDistance})`);
  } catch ({ name, message }) {
    if (name !== "AbortError") saySheet(message, true);
  }
}

/** A distance from the hand in words. */
function nearness(distance) {
  const share = distance / FACTS.usualDistance;
  const near = share < 1.1 ? "as near to" : share < 1.4 ? "nearly as near to" : "farther from";
  return `${near} the hand ${share < 1.4 ? "as" : "than"} a writer's lines are to each other`;
}

/** Show strokes, in whiteboard units, as wide as the paper. */
function showTrial(strokes) {
  const [[left, top], [right, bottom]] = boxOf(strokes.flat()), edge = 60;
  const viewBox = [left - edge, top - edge, right - left + 2 * edge, bottom - top + 2 * edge].join(" ");
  $("trial-paper").replaceChildren();
  const svg = add($("trial-paper"), "svg", { viewBox, role: "img", "aria-label": "The sentence in this hand" });
  for (const stroke of strokes) add(svg, "path", { d: pathOf(stroke, true) });
  $("trial").scrollIntoView({ block: "nearest" });
}

/** Keep the hand under its name, and choose it. */
function keepHand() {
  const name = $("hand-name").value.trim(), hand = { vector: [...sheet.hand], ...tuning() };
  if (!name) return saySheet("give the hand a name", true);
  const isKept = remember("hands", { ...keptHands(), [name]: hand });
  if (!isKept) return saySheet("this browser keeps nothing; save hand.json instead", true);
  listHands(`own:${name}`);
  fillSettings(tuning());
  writePage();
  saySheet(`“${name}” is kept, and chosen in the tab Write`);
  $("write-tab").click();
}

/** Take the hand of a file: hand.json, or ink. */
async function openHand(file) {
  try {
    const { vector, inks } = readInkFile(file.name, await file.text());
    const found = vector ?? meanOf(await pen.encode(inks.map(({ points }) => points)));
    useHand({ vector: found }, file.name.replace(/\.json$/i, ""));
  } catch ({ message }) {
    saySheet(`The file ${message}`, true);
  }
}

/** Make the sheet. */
function startSheet() {
  listHands();
  sheet.lines = SENTENCES.map(addLineToCopy);
  for (const id of ["trial-text", "trial-strength", "trial-bias"]) $(id).onchange = tryHand;
  $("trial").onsubmit = (event) => (event.preventDefault(), keepHand());
  $("try-again").onclick = () => (sheet.seed++, tryHand());
  $("save-hand").onclick = () => download("hand.json", handText(sheet.hand));
  $("open-hand").onchange = ({ target }) => {
    for (const file of target.files) openHand(file);
    target.value = "";
  };
}
