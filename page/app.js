"use strict";
// The tab "Write": what is asked for, writing it, undo, files, and what the browser remembers. What was written is a
// record: {settings, text, written (of writeText), pages (of layOut), word (how it came about), isWhole}.

const $ = (id) => document.getElementById(id);
const FIRST_TEXT = "Dear reader,\n\nthis page writes by hand. Change these words, choose a hand, and press Write. " +
  "A click on a line writes it again.\n\nYours, the pen";

const pen = new Pen();
const cache = new Map(); // the ink of each line that was written, by the key of its job
const past = []; // records, for undo
let current = null; // the record on the paper
let usual = {}; // the settings before the user changes any
let attempts = {}; // how often lines were asked for again, by `placeOf`
let writing = new AbortController(); // of what was asked for last: the answer to an earlier question is dropped
let isWorking = false; // whether the worker writes

/** What the browser remembers under a name, or else `other`. */
function recall(name, other) {
  try { return JSON.parse(localStorage.getItem(`handwriting.${name}`)) ?? other; } catch { return other; }
}

/** Remember a value; returns whether the browser does. */
function remember(name, value) {
  try { localStorage.setItem(`handwriting.${name}`, JSON.stringify(value)); } catch { return false; }
  return true;
}

/** Show a sentence in a live region, by its id. */
function say(text, isError = false, id = "status") {
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  $(id).textContent = /[^.!?…]$/.test(sentence) ? `${sentence}.` : sentence;
  $(id).classList.toggle("error", isError);
}

/** "1 line", "2 lines". */
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** A new element in `parent`, of SVG by its tag, with attributes and a text. */
function add(parent, tag, { textContent = "", ...attributes } = {}) {
  const space = /^(svg|g|path|rect)$/.test(tag) ? "2000/svg" : "1999/xhtml";
  const element = document.createElementNS(`http://www.w3.org/${space}`, tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  element.textContent = textContent;
  parent.append(element);
  return element;
}

/** The values of all fields, and `attempts`. */
function readSettings() {
  const valueOf = ({ type, checked, value, valueAsNumber: number }) =>
    type === "checkbox" ? checked : Number.isFinite(number) ? number : value;
  const named = [...$("settings").elements].filter(({ name }) => name);
  return { ...Object.fromEntries(named.map((field) => [field.name, valueOf(field)])), attempts };
}

/** Fill fields in, by their names. A hand that is gone becomes none. */
function fillSettings({ attempts: others = attempts, ...settings }) {
  for (const name in settings) {
    const field = $("settings").elements[name];
    if (field) field[field.type === "checkbox" ? "checked" : "value"] = settings[name];
    if (field?.selectedIndex < 0) field.selectedIndex = 0;
  }
  attempts = others;
  storeSettings();
  showValues();
}

/** Remember the settings that the user has changed: others follow the page, and what is preferred of motion. */
function storeSettings() {
  const changed = Object.entries(readSettings()).filter(([name, value]) => value !== usual[name]);
  remember("settings", Object.fromEntries(changed));
}

/** Show what depends on fields: numbers beside sliders, sizes of an own paper and in print, the ink. */
function showValues() {
  for (const slider of document.querySelectorAll("[type=range]")) {
    slider.labels[0].querySelector("span").textContent = slider.valueAsNumber.toFixed(2);
  }
  const settings = readSettings(), { width, height } = pageFormat(settings);
  for (const label of document.querySelectorAll(".own")) label.hidden = settings.paper !== "";
  $("inside").hidden = !settings.inside;
  $("paper-size").textContent = `@page { size: ${width}mm ${height}mm; margin: 0 }`;
  $("pages").style.cssText = `--ink: ${settings.colour}; --pen: ${settings.penWidth}`;
}

/** The page's format, in mm. Margins are all, or those above and beside the text, or top, right, bottom and left. */
function pageFormat({ paper, width, height, margins, lineSpacing, ...others }) {
  const given = margins.split(",").map(Number), size = FACTS.papers[paper] ?? [width, height];
  const all = [...given, ...given, ...given, ...given].slice(0, 4);
  const { xHeight, align, ruled, smooth, jitter, seed } = others, own = { xHeight, align, ruled, smooth, jitter, seed };
  return { ...own, width: size[0], height: size[1], margins: all, lineSpacing: lineSpacing || null };
}

/** What tells a line from all others, and stays if something is added elsewhere: its paragraph's words, and its own. */
function placeOf(line, { text }) {
  const paragraphs = textLines(text).map(tidy), words = paragraphs[line.paragraph];
  const before = paragraphs.slice(0, line.paragraph).filter((each) => each === words).length;
  return [words, before, line.start, line.text].join("\n");
}

/** How a line is written: {text, letters, seed, options}, and a key that tells its ink from others. */
function jobOf(line, settings) {
  const { bias, strength, tries, inside, hand, attempts } = settings;
  const place = placeOf(line, settings), codes = Array.from(place, (c) => c.codePointAt());
  const random = makeRandom(settings.seed, ...codes, attempts[place] ?? 0);
  const seed = Math.floor(random() * 2 ** 32), options = { bias, strength, tries, inside, hand: handOf(settings) };
  return { ...spell(line.text), seed, options, key: JSON.stringify([line.text, seed, hand, options]) };
}

/** The ink of a line, from the cache or written now. */
async function inkOf(line, settings) {
  const job = jobOf(line, settings);
  if (!cache.has(job.key)) {
    const [ink] = await pen.write([job.letters], [job.seed], job.options);
    cache.set(job.key, { ...withMarks(ink, job), style: settings.hand.replace(/^\w+:/, "") });
  }
  return cache.get(job.key);
}

/** Ink of letters with the marks that the network does not write. */
function withMarks(ink, { text, letters, seed }) {
  if (text === letters) return ink;
  const { strokes, characters } = drawMarks(toStrokes(ink.points), ink.characters, letters, text, seed);
  return { ...ink, text, points: toPoints(strokes), characters };
}

/** What stays of the current record, with its scale: lines in the same ink, of paragraphs that are as they were. */
function keptLines(settings, text) {
  const format = ({ settings }) => JSON.stringify(pageFormat(settings));
  if (!current || format(current) !== format({ settings })) return null;
  const [before, after] = [current.text, text].map(textLines), { lines, inks, scale } = current.written;
  const isKept = ([line, ink]) => cache.get(jobOf(line, settings).key) === ink;
  const same = lines.map((line, n) => [line, inks[n]]).filter(([{ paragraph: n }]) => before[n] === after[n]);
  const kept = new Map(same.filter(isKept));
  return kept.size ? { inks: kept, scale } : null;
}

/** Write the text as the fields say. */
function writePage() {
  const settings = readSettings();
  if (!$("settings").checkValidity()) {
    $("more").open = true; // a field in it can be shown only then
    return $("settings").reportValidity();
  }
  storeSettings();
  player.pace = settings.pace * PENS_PACE;
  return write(settings, "Written");
}

/** Write a line again, by its number, with another seed. The others stay, but for what follows one that is too wide. */
function rewriteLine(number) {
  if (!current || isWorking) return;
  const { settings, pages, written } = current, { ink } = pages.flatMap(({ lines }) => lines)[number];
  const name = placeOf(written.lines[written.inks.indexOf(ink)], settings), before = settings.attempts[name] ?? 0;
  say(`Writing line ${number + 1} again…`);
  write({ ...settings, attempts: { ...attempts, [name]: before + 1 } }, `Line ${number + 1} written again`, false);
}

/** Let go of what is being written; a controller for what comes now. */
function begin() {
  pen.stop();
  writing.abort();
  return (writing = new AbortController());
}

/** Write a text as settings say and put it on the paper, line by line if `isGradual`. */
async function write(settings, word, isGradual = true) {
  const mine = begin(), before = current;
  setWorking(true);
  try {
    const { text, notes } = preparePage(settings.text);
    $("notes").textContent = notes.length ? `Not all characters were learned: the page ${notes.join("; ")}.` : "";
    await pen.ready; // before that there are no hands
    const show = (written) => written.lines.length && putOnPaper({ settings, text, written, word: "Stopped" });
    const kept = keptLines(settings, text);
    const ask = (lines) => askFor(lines, settings, mine.signal, isGradual && !kept && current === before);
    const written = await writeText(text, ask, pageFormat(settings), isGradual ? show : null, kept);
    mine.signal.throwIfAborted();
    const changed = written.inks.filter((ink) => ink && !before?.written.inks.includes(ink)).length;
    const more = !isGradual && changed > 1 ? `, and ${count(changed - 1, "line")} after it in its paragraph` : "";
    putOnPaper({ settings, text, written, word: word + more });
    attempts = settings.attempts;
    storeSettings();
  } catch ({ name, message }) {
    if (mine === writing) say(message, name !== "AbortError");
  }
  if (mine !== writing) return;
  if (current) current.isWhole = true;
  setWorking(false);
}

/** A promise of lines' inks. The first line of all is shown before it is known how large the others are. */
function askFor(lines, settings, signal, isFirst) {
  signal.throwIfAborted();
  const format = pageFormat(settings), inks = lines.map((line) => inkOf(line, settings));
  const showAlone = (ink) => {
    const scale = pageScale([ink], format);
    if (!signal.aborted) showPages(layOut({ lines: [lines[0]], inks: [ink], scale }, format));
  };
  if (isFirst) inks[0].then(showAlone).catch(() => {}); // it may be too wide
  return Promise.all(inks);
}

/** Put a record on the paper; what was there can be had back, if it was whole. Throws as `layOut`. */
function putOnPaper(record) {
  const { settings, written: { inks } } = record, before = current?.isWhole ? current.written.inks : inks;
  record.pages = layOut(record.written, pageFormat(settings));
  if (before.length !== inks.length || before.some((ink, n) => ink !== inks[n])) past.push(current);
  current = record;
  showPages(record.pages);
  say(`Writing: ${count(inks.filter(Boolean).length, "line")} so far…`);
}

/** Take back what was written last, a line or a text, with the fields as they were. */
function undo() {
  begin();
  current = { ...past.pop(), word: "As it was before" };
  fillSettings(current.settings);
  setWorking(false);
  showPages(current.pages);
}

/** Set which buttons can be pressed: whether the worker writes, and whether the pen moves. */
function setWorking(working = isWorking) {
  isWorking = working;
  $("stop").disabled = !working && !player.isMoving;
  $("stop").textContent = player.isMoving && !working ? "Show all" : "Stop";
  $("undo").disabled = !past.length;
  for (const button of document.querySelectorAll("[data-save]")) button.disabled = !current;
}

/** Say what is on the paper, and which words the recogniser doubts. */
function report({ word, pages, written }) {
  const lines = pages.flatMap((page) => page.lines);
  const doubted = lines.flatMap(({ ink, number }) => {
    const isDoubted = ({ index, 0: each }) => ink.wrong.some((place) => place >= index && place < index + each.length);
    return [...ink.text.matchAll(/\S+/g)].filter(isDoubted).map(([each]) => `“${each}” in line ${number + 1}`);
  });
  const advice = doubted.length ? ": a click on a line writes it again" : "";
  const broken = written.broken.length ? ` Broken with a hyphen: ${written.broken.join(", ")}.` : "";
  say(`${word}: ${count(lines.length, "line")} on ${count(pages.length, "page")}. The recogniser doubts ` +
    `${doubted.join(", ") || "nothing"}${advice}.${broken}`);
}

/** Have the browser save a file. */
function download(name, content) {
  const href = URL.createObjectURL(new Blob([content]));
  Object.assign(document.createElement("a"), { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** Save what is on the paper as files of a kind, a page each, or hand it to the printer or the clipboard. */
async function save(kind) {
  const { pages, written, settings } = current, makers = { svg: svgText, png: pictureOf, gcode: gcodeText };
  if (kind === "pdf") return print();
  if (kind === "copy") return copyPicture(pages, settings);
  if (kind === "json") download("handwriting.json", jsonText(written.inks.filter(Boolean)));
  else for (const [n, page] of pages.entries()) {
    download(`handwriting${pages.length > 1 ? `-${n + 1}` : ""}.${kind}`, await makers[kind](page, settings));
  }
  say(`Saved as handwriting${pages.length > 1 && kind !== "json" ? "-1 and so on" : ""}.${kind}`);
}

/** Put a picture of the first page into the clipboard. */
async function copyPicture(pages, settings) {
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": pictureOf(pages[0], settings) })]);
    say(`The picture ${pages.length > 1 ? "of the first page " : ""}is in the clipboard`);
  } catch {
    say("this browser does not let the page copy pictures; save a PNG instead", true);
  }
}

/** Show the part of the page that one tab is for, and hide the others. */
function showTab({ target }) {
  for (const tab of document.querySelectorAll("nav button")) {
    tab.ariaCurrent = tab === target ? "page" : null;
    $(tab.getAttribute("aria-controls")).hidden = tab !== target;
  }
}

/** Write again the line that an event on the paper is for. */
function onPaper(event) {
  const line = event.target.closest(".line");
  if (!line || !(event.type === "click" || event.key === "Enter" || event.key === " ")) return;
  event.preventDefault();
  rewriteLine(Number(line.dataset.number));
}

/** A field has changed: the page is written again, but for a new text, which waits for "Write". */
function onChange({ target }) {
  const own = target.id === "hand" && keptHands()[target.value.replace(/^own:/, "")];
  fillSettings(own ? { strength: own.strength, bias: own.bias } : {});
  if (target.id !== "text" && !target.closest("#plotter")) writePage();
}

document.addEventListener("DOMContentLoaded", () => {
  for (const [id, names] of [["machine", FACTS.machines], ["origin", FACTS.zeros]]) {
    $(id).append(...Object.keys(names).map((name) => new Option(name)));
  }
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) $("pace").value = "0";
  $("text").value = FIRST_TEXT;
  startSheet();
  usual = readSettings();
  fillSettings(recall("settings", {}));
  document.addEventListener("input", showValues);
  $("write-tab").onclick = $("sheet-tab").onclick = showTab;
  $("settings").onchange = onChange;
  $("settings").onsubmit = (event) => {
    event.preventDefault();
    if (matchMedia("(max-width: 46rem)").matches) $("status").scrollIntoView();
    writePage();
  };
  $("text").onkeydown = ({ key, ctrlKey, metaKey }) => {
    if (key === "Enter" && (ctrlKey || metaKey)) writePage();
  };
  $("another").onclick = () => {
    fillSettings({ seed: Math.floor(Math.random() * 2 ** 32) });
    writePage();
  };
  $("stop").onclick = () => {
    writing.abort(new DOMException("stopped", "AbortError"));
    pen.stop();
    player.pace = 0; // what is written is shown at once
  };
  $("undo").onclick = undo;
  $("settings").onclick = ({ target }) => target.dataset.save && save(target.dataset.save);
  $("pages").onclick = $("pages").onkeydown = onPaper;
  writePage();
});
