"""The page's scripts for ink, texts, pages and files do what the Python functions do that they are ports of.

Node runs all cases at once: each is JavaScript with some `data`, and what it gives is held against Python.
"""

import json
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, load_module
from made_up_ink import write_line

from handwriting.alphabet import Alphabet
from handwriting.hands import save_hand
from handwriting.ink import accents
from handwriting.ink.formats import DETAILS, Ink, Page, json_bytes
from handwriting.ink.gcode import Plotter, gcode_bytes
from handwriting.ink.geometry import find_level, find_slant, resample, smooth, to_writing_scale
from handwriting.ink.pictures import Drawing
from handwriting.ink.read_ink import read_ink, read_lines
from handwriting.ink.svg import svg_bytes
from handwriting.pages import PageFormat, WidthEstimate, WrittenText, break_text, lay_out, median_x_height, write_text
from handwriting.strokes import to_points
from handwriting.writer import load_network

PAGE = ROOT / "page"
SCRIPTS = ("engine.js", "ink.js", "accents.js", "pages.js", "save.js")  # of the engine: random numbers
RUNNER = """
const { facts, scripts, cases } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const { runInThisContext } = require("vm");
const unpack = (key, value) => (ArrayBuffer.isView(value) ? [...value] : value);
runInThisContext(`const FACTS = ${JSON.stringify(facts)};\\n${scripts}`);
(async () => {
  const results = [];
  for (const [code, data] of cases) {
    try {
      results.push(await runInThisContext(`(data) => ${code}`)(data));
    } catch (error) {
      results.push({ error: error.message });
    }
  }
  console.log(JSON.stringify(results, unpack));
})();
"""

LETTER = """\t\t\t12 March 2024

Dear Anna-Maria,

  thank you for the long letter, which came on Monday and which we read to each other in the garden, all three of us.

Please bring:
- warm clothes for the evenings, and the rope that you showed me last summer
* a lamp
12. one more thing for the house, extraordinarily well-intentioned
Donaudampfschifffahrtsgesellschaftskapitän 1234567890123456789012345678901234567890
Yours, Tom
"""
TEXTS = [
    LETTER, "", "\n\n a", "aa bb cc ddddd e", "a", "- ", "- a", "--", "well-known-and-loved", "abc", "abcd", "....!!!!",
    "a\x0bb\x1cc\u2028d\r\ne\rf\x85g", "x\ty\n\té\tz", "mind the   gap",
    "1) first\n22. second\n333) third\n4444. no item",
]  # fmt: skip


@cache
def page_facts() -> dict[str, Any]:
    """What the page knows of the shipped network."""
    network = load_network(None, "synthesis")
    return load_module("page/build.py").text_facts(network.alphabet) | {
        "encoder": network.encoder.digest(),
        "config": vars(network.model.config),
    }


@cache
def alphabet() -> Alphabet:
    return load_network(None, "synthesis").alphabet


def lists(value: Any) -> Any:
    """For JSON: arrays as lists."""
    return value.tolist() if hasattr(value, "tolist") else list(value)


@pytest.fixture(scope="module")
def page() -> dict[object, Any]:
    """What each case gives, or {"error": its message}."""
    if shutil.which("node") is None:
        pytest.skip("the page's scripts run in Node, which is not installed")
    scripts = "\n".join((PAGE / name).read_text("utf-8") for name in SCRIPTS)
    cases = measuring() | breaking() | writing() | preparing() | drawing() | saving()
    given = json.dumps({"facts": page_facts(), "scripts": scripts, "cases": list(cases.values())}, default=lists)
    done = subprocess.run(["node", "-e", RUNNER], input=given, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(cases, json.loads(done.stdout), strict=True))


def told(function: Callable, *arguments: Any) -> Any:
    """What a function gives, or {"error": its message} as in the page."""
    try:
        return function(*arguments)
    except ValueError as error:
        return {"error": str(error)}


def assert_same(found: list, expected: list, tolerance: float = 1e-9) -> None:
    """The same lists of positions, or of numbers."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=tolerance)


# ------------------------------------------------------------------------------------------------------- measuring ink


@cache
def inks() -> dict[str, Ink]:
    """Ink of the shipped hands, and made-up ink."""
    found = {name: read_ink(ROOT / "save" / "styles" / f"{name}.json") for name in ("alma", "ben", "hugo")}
    text = "the quick brown fox jumps over it"
    found |= {
        "upright": write_line(text), "slanted": write_line(text, slant=25, slope=0.1),
        "backwards": write_line(text, slant=-15, slope=-0.3, joined=True),
        "wavy": write_line(text * 2, wave=0.4), "short": write_line("it"), "capitals": write_line("AB CD", scale=0.01),
        "dot": Ink(np.array([[5, 7, 1]])), "dots": Ink(np.array([[0, 0, 1], [40, 0, 1], [9, 1, 1]])),
        "bar": Ink(np.array([[0, 0, 0], [0, 0, 0], [90, 0, 1]])),
        "corner": Ink(np.array([[0, 0, 0], [9, 9, 0], [9, -9, 1]])),
        "tall": Ink(np.array([[0, 0, 0], [0, 50, 0], [0, -80, 0], [0, 60, 1]])),
    }  # fmt: skip
    return found


def measuring() -> dict[object, tuple]:
    code = """{
      const strokes = toStrokes(data.points), level = findLevel(strokes), known = findLevel(strokes, 60);
      const levelled = strokes.map((stroke) => applyLevel(level, stroke));
      const draw = (how) => strokes.map((stroke) => how(stroke));
      const drawn = [draw((s) => resample(s, 7.3)), draw((s) => smooth(s)), draw((s) => smooth(s, 3))];
      const scaled = toWritingScale(strokes), slants = [findSlant(levelled), findSlant(strokes)];
      return { strokes, points: toPoints(strokes), level, known, levelled, slants, scaled, drawn };
    }"""
    return {("ink", name): (code, {"points": ink.points.ravel()}) for name, ink in inks().items()}


@pytest.mark.parametrize("name", inks())
def test_ink_is_measured_as_in_python(page, name):
    found, strokes = page["ink", name], inks()[name].strokes
    if isinstance(level := told(find_level, strokes), dict):
        assert found == level
        return
    for key, expected in (("level", level), ("known", find_level(strokes, 60))):
        assert_same([found[key][field] for field in ("slope", "x", "baseline", "xHeight")], expected, 1e-8)
    levelled = [level.apply(stroke) for stroke in strokes]
    assert_same(found["levelled"], levelled, 1e-8)
    assert_same(found["slants"], [find_slant(levelled), find_slant(strokes)], 1e-7)
    for key, points in (("points", to_points(strokes)), ("scaled", to_writing_scale(strokes))):
        assert_same([found[key]], [points.ravel()], 1e-4)
    drawn = [[resample(s, 7.3) for s in strokes], [smooth(s) for s in strokes], [smooth(s, 3) for s in strokes]]
    for one, other in zip([found["strokes"], *found["drawn"]], [strokes, *drawn], strict=True):
        assert_same(one, other, 1e-8)


# ------------------------------------------------------------------------------------------------------- breaking lines


def breaking() -> dict[object, tuple]:
    code = """{
      const estimate = new WidthEstimate(data.xHeight);
      estimate.learn("some words", 40);
      const measure = data.xHeight ? (text) => estimate.measure(text) : (text) => text.length;
      return breakText(data.text, measure, data.width);
    }"""
    return {("broken", *case): (code, dict(zip(("text", "width", "xHeight"), case, strict=True))) for case in BREAKS}


BREAKS = [(text, width, x_height) for text in TEXTS for width in (1, 2, 5, 12, 33, 60, 400) for x_height in (0, 2)]


def test_texts_are_broken_as_in_python(page):
    seen = set()
    for text, width, x_height in BREAKS:
        estimate = WidthEstimate(x_height)
        estimate.learn("some words", 40)
        expected = told(break_text, text, estimate.measure if x_height else len, width)
        found = page["broken", text, width, x_height]
        if isinstance(expected, dict):
            seen.add("error")
            assert found == expected, (text, width)
            continue
        lines, broken = expected
        seen.add("hyphen" if broken else "words")
        assert found["broken"] == broken, (text, width)
        assert [line["text"] for line in found["lines"]] == [line.text for line in lines], (text, width)
        for one, other in zip(found["lines"], lines, strict=True):
            assert (one["paragraph"], one["start"]) == (other.paragraph, other.start)
            assert one["indent"] == pytest.approx(other.indent)
    assert seen == {"error", "hyphen", "words"}


FORMATS = [
    PageFormat(), PageFormat(100, 150, (5, 10, 15, 20), align="center", ruled=True),
    PageFormat(148, 210, x_height=3.5, line_spacing=9, align="right"), PageFormat(400, 60, x_height=1.5),
    PageFormat(60, 300, (4, 4, 4, 4), x_height=3),
]  # fmt: skip


def written(text: str, page_format: PageFormat) -> tuple[WrittenText, dict[str, Ink]]:
    """A text written by hands of different widths, and all lines that were written on the way."""
    known = {}

    def write(lines):
        found = [write_line(line.text, gap=0.3 + 0.2 * (len(line.text) % 4), slope=0.02) for line in lines]
        known.update((line.text, ink) for line, ink in zip(lines, found, strict=True))
        return found

    return write_text(text, write, page_format), known


def as_format(page_format: PageFormat) -> dict[str, Any]:
    """A page's format as the page has it."""
    names = {"xHeight": "x_height", "lineSpacing": "line_spacing"}
    own = ("width", "height", "margins", "xHeight", "lineSpacing", "align", "ruled")
    return {name: getattr(page_format, names.get(name, name)) for name in own}


def as_ink(ink: Ink) -> dict[str, Any]:
    """Ink as the page has it."""
    return {name: getattr(ink, name) for name in ("points", *DETAILS, "characters")} | {"points": ink.points.ravel()}


SHORT = LETTER.replace("\t", " ").replace("ä", "a")
WRITTEN = [SHORT, "one line", ".\n\n\nand two", "a " * 300]


def writing() -> dict[object, tuple]:
    code = """(async () => {
      const inks = new Map(data.inks.map((ink) => [ink.text, ink]));
      const written = await writeText(data.text, (lines) => lines.map(({ text }) => inks.get(text)), data.format);
      const pages = layOut(written, data.format);
      const narrow = { ...data.format, width: data.format.width - 4 };
      let error = null;
      try { layOut(written, narrow); } catch ({ message }) { error = message; }
      return { written, pages, error };
    })()"""
    cases = {}
    for n, text in enumerate(WRITTEN):
        for m, page_format in enumerate(FORMATS):
            known = written(text, page_format)[1]
            data = {"text": text, "inks": [as_ink(ink) for ink in known.values()], "format": as_format(page_format)}
            cases["written", n, m] = code, data
    return cases | {
        "no room": ("layOut({ lines: [], inks: [] }, data)", as_format(PageFormat()) | {"width": 41.5}),
        "no text": ("writeText(' \\n ', null, null)", {}),
        "no size": ("pageScale([data], { xHeight: 2 })", as_ink(Ink([[0, 0, 1]]))),
    }


@pytest.mark.parametrize("text", range(len(WRITTEN)))
@pytest.mark.parametrize("number", range(len(FORMATS)))
def test_texts_are_written_and_laid_out_as_in_python(page, text, number):
    found, page_format = page["written", text, number], FORMATS[number]
    expected, _ = written(WRITTEN[text], page_format)
    assert found["written"]["scale"] == pytest.approx(expected.scale)
    assert found["written"]["broken"] == expected.broken
    assert [line["text"] for line in found["written"]["lines"]] == [line.text for line in expected.lines]
    assert [ink and ink["text"] for ink in found["written"]["inks"]] == [ink and ink.text for ink in expected.inks]
    pages = lay_out(expected, page_format)
    assert len(found["pages"]) == len(pages)
    for one, other in zip(found["pages"], pages, strict=True):
        assert (one["width"], one["height"]) == (other.width, other.height)
        assert_same(one["rules"], other.rules)
        for line, placed in zip(one["lines"], other.lines, strict=True):
            assert line["ink"]["text"] == placed.ink.text
            assert_same(line["strokes"], placed.strokes, 1e-4)
    numbers = [line["number"] for each in found["pages"] for line in each["lines"]]
    assert numbers == list(range(len(numbers)))
    narrow = replace(page_format, width=page_format.width - 4)
    error = told(lay_out, expected, narrow)
    assert found["error"] == (error["error"] if isinstance(error, dict) else None)


def test_what_leaves_no_room_is_refused_as_in_python(page):
    assert page["no room"] == told(lambda: PageFormat(width=41.5, margins=20, x_height=2.5))
    assert page["no text"] == told(write_text, " \n ", None, PageFormat())
    assert page["no size"] == told(median_x_height, [Ink([[0, 0, 1]])])


# ------------------------------------------------------------------------------------------------------ preparing texts


CHARACTERS = [
    chr(n) for n in (*range(0x20, 0x3100), *range(0xF900, 0xFFF0)) if unicodedata.category(chr(n)) not in "CnCs"
]
PREPARED = [
    *(f"a{c}b" for c in CHARACTERS), *CHARACTERS, LETTER, "", " \n\n", "Zoë “said” – 50 % ½ ﬁn…",
    "e\u0301\u0323 i\u0302",
    "日本 \U0001d400 \U0001f600 'x' \"y\" \\", "it's 日", "\u200bx\n\u200b y", "  \u3000two  \u00a0 words \n\tset in",
]  # fmt: skip


def preparing() -> dict[object, tuple]:
    code = """data.texts.map((given) => {
      try {
        const { text, notes } = preparePage(given), lines = text.split("\\n").map(spell);
        return [text, notes, lines.map(({ letters }) => letters), lines.map(({ letters }) => [...encodeText(letters)])];
      } catch (error) {
        return { error: error.message };
      }
    })"""
    return {"prepared": (code, {"texts": PREPARED}), "unknown": ("encodeText('a\\u00e9')", {})}


def prepare(text: str) -> list:
    prepared, notes = alphabet().prepare_page(text)
    lines = [alphabet().spell(line) for line in prepared.split("\n")]
    return [prepared, notes, [line.letters for line in lines], [line.codes.tolist() for line in lines]]


def test_texts_are_prepared_as_in_python(page):
    expected = [told(prepare, text) for text in PREPARED]
    different = [case for case in zip(PREPARED, page["prepared"], expected, strict=True) if case[1] != case[2]]
    assert not different, (len(different), different[:5])
    assert sum(isinstance(found, dict) for found in expected) > 1000
    assert sum(bool(found[1]) for found in expected if isinstance(found, list)) > 500
    assert page["unknown"] == told(alphabet().encode, "aé")


# ------------------------------------------------------------------------------------------------------- drawing marks


MORE = str.maketrans("eiounsra", "éïøůñşřą")
DRAWN = [
    ("Zoë Łódź café", {}), ("Zoë Łódź café", {"slant": 20, "slope": 0.1}), ("ïj í jǰ", {}), ("iïiîi", {"joined": True}),
    ("50 % of 20 €", {}), ("= a % b", {}), ("a % ", {}), ("a % ab % b", {}), ("%", {}), ("% = #", {}), ("ÀÉÎ ÕÜ", {}),
    ("ế ặ ợ", {"scale": 0.01}),
    ("čšž ďťľĽ øØ đĐ ħ ç ş ą", {"slant": -10}), ("ı i", {}), ("plain", {}), ("a→b a±b", {}), ("é", {}), ("x é", {}),
    *((inks()[hand].text.translate(MORE), {"hand": hand}) for hand in ("alma", "ben", "hugo")),
]  # fmt: skip


def letters_and_ink(text: str, given: dict) -> tuple[str, Ink]:
    """What the network writes of a text, and ink for it. No two of its points are at the same height or abreast."""
    letters = alphabet().spell(text).letters
    if hand := given.get("hand"):
        return letters, inks()[hand]
    ink = write_line(letters, **given) if letters.strip() else Ink([[0, 0, 0], [30, 0, 1]], letters, [0, 0])
    noise = np.random.default_rng(0).normal(0, given.get("scale", 1), (len(ink.points), 3)) * [1, 1, 0]
    return letters, replace(ink, points=ink.points + noise)


def kinds_of(ink: Ink, letters: str, text: str) -> dict[str, Ink]:
    """The ink; with a first letter of two points; and with letters beside signs whose points are the signs'."""
    few, nearer = np.array(ink.characters), {step: np.array(ink.characters) for step in (-2, 2)}
    few[np.flatnonzero(few == 0)[2:]] = -1
    for place, (letter, character) in enumerate(zip(letters, text, strict=True)):
        for step, characters in nearer.items():
            if letter == " " != character:
                characters[ink.characters == place + step] = place
    changed = {"few": few, "before": nearer[-2], "after": nearer[2]}
    return {"same": ink, "varied": ink} | {kind: replace(ink, characters=each) for kind, each in changed.items()}


def drawing() -> dict[object, tuple]:
    code = """{
      const { text, letters, points, characters, isSame } = data, own = vary;
      if (isSame) vary = (mark) => mark;
      const drawn = drawMarks(toStrokes(points), Int32Array.from(characters), letters, text, 7);
      vary = own;
      return drawn;
    }"""
    cases = {}
    for n, (text, given) in enumerate(DRAWN):
        letters, ink = letters_and_ink(text, given)
        for kind, each in kinds_of(ink, letters, text).items():
            data = {"text": text, "letters": letters, "points": each.points.ravel(), "characters": each.characters}
            cases[kind, n] = code, data | {"isSame": kind != "varied"}
    return cases


@pytest.mark.parametrize("number", range(len(DRAWN)))
def test_marks_are_drawn_where_python_draws_them(page, number, monkeypatch):
    text, given = DRAWN[number]
    letters, ink = letters_and_ink(text, given)
    monkeypatch.setattr(accents, "vary", lambda mark, rng: mark)
    for kind, each in kinds_of(ink, letters, text).items():
        found = page[kind, number]
        strokes, characters = accents.draw_marks(each.strokes, each.characters, letters, text)
        assert len(found["strokes"]) == len(strokes)
        if kind == "varied":
            if any(len(stroke) > 1 for stroke in strokes[len(each.strokes) :]):
                assert found != page["same", number]
            sizes = [np.concatenate(each).max(0) - np.concatenate(each).min(0) for each in (found["strokes"], strokes)]
            np.testing.assert_allclose(*sizes, atol=60 * given.get("scale", 1))
        else:
            assert found["characters"] == characters.tolist()
            assert_same(found["strokes"], strokes, 1e-6)


# --------------------------------------------------------------------------------------------------------------- files


PLOTTERS = [
    {}, {"machine": "marlin-servo", "up": 90, "down": 12.5, "pause": 0.25, "origin": "centre"},
    {"machine": "grbl-z", "feed": 1234.5, "down": -0.5}, {"machine": "marlin-z", "travel": 3000, "origin": "top right"},
    {"origin": "top left", "pause": 0},
]  # fmt: skip
SAVED = ['this is <it> & "more"', "it", "fünf\n\n ."]


@cache
def vector() -> np.ndarray:
    """Of a hand."""
    return np.linspace(-0.3, 0.3, load_network(None, "synthesis").encoder.config.hand_size)


def saved(text: str) -> tuple[list, list[Ink]]:
    page_format = PageFormat(100.5, 60)
    known, _ = written(text, page_format)
    first = np.vstack([[3, 4, 0], np.zeros((len(known.inks[0].points) - 1, 3))])  # where the first line begins
    known.inks[0] = replace(known.inks[0], points=known.inks[0].points + first)
    return lay_out(known, page_format), [ink for ink in known.inks if ink]


def saving() -> dict[object, tuple]:
    cases = {}
    for text in SAVED:
        pages, found = saved(text)
        for is_smooth in (False, True):
            placed = [
                {"ink": as_ink(line.ink), "strokes": line.strokes, "isSmooth": is_smooth} for line in pages[0].lines
            ]
            data = {"page": {"width": pages[0].width, "height": pages[0].height, "lines": placed}, "plotters": PLOTTERS}
            drawn = "[svgText(data.page), svgText(data.page, { colour: '#1f3a93', penWidth: 0.5 })]"
            cases["svg", text, is_smooth] = drawn, data
            cases["gcode", text, is_smooth] = "data.plotters.map((plotter) => gcodeText(data.page, plotter))", data
        both = "[jsonText(data.inks), readInkFile('a.json', jsonText(data.inks)), readInkFile('b.JSON', data.json)]"
        cases["json", text] = both, {"inks": [as_ink(ink) for ink in found], "json": json_bytes(found).decode()}
    for name, content in REFUSED.items():
        cases["refused", name] = f"readInkFile({json.dumps(name)}, data.content)", {"content": content}
    empty = {"width": 10, "height": 20, "lines": []}
    hand = "[handText(data.vector), readInkFile('h.json', handText(data.vector)).vector]"
    return cases | {"hand": (hand, {"vector": vector()}), "empty": ("svgText(data)", empty)}


def content(*strokes: list) -> str:
    return json.dumps(
        {"version": 1, "lines": [{"strokes": strokes, "characters": [[0] * len(stroke) for stroke in strokes]}]}
    )


REFUSED = {
    "a.svg": "<svg/>", "b.json": "not json", "c.json": "[]", "d.json": '{"version": 2, "lines": []}', "e.json": "null",
    "f.json": '{"version": 1, "lines": []}', "g.json": content([[0, 1]]), "h.json": content([[0, 1, 2], [3]]),
    "i.json": '{"hand": [1], "encoder": "x"}', "j.json": content([[0, 1e9], [3, 3]]), "k.json": '{"hand": "clara"}',
}  # fmt: skip
NAMED = {
    "a": "not read from such files", "d": "another version", "f": "no strokes", "g": "fewer than two points",
    "i": "another network", "k": "another network",
}  # fmt: skip


@pytest.mark.parametrize("text", SAVED)
def test_files_are_those_of_python(page, text, tmp_path):
    pages, found = saved(text)
    sheet = pages[0].sheet()
    for is_smooth in (False, True):
        drawings = [Drawing(smooth=is_smooth), Drawing(smooth=is_smooth, colour="#1f3a93", pen_width=0.5)]
        assert page["svg", text, is_smooth] == [svg_bytes(sheet, drawing).decode() for drawing in drawings]
        programs = [gcode_bytes(sheet, Plotter(**given), drawings[0]).decode() for given in PLOTTERS]
        assert page["gcode", text, is_smooth] == programs
    written_text, *both = page["json", text]
    (path := tmp_path / "ink.json").write_text(written_text, "utf-8")
    for one, other in zip(read_lines(path), found, strict=True):
        np.testing.assert_allclose(one.points, other.points, atol=2e-3)
        assert one.characters.tolist() == other.characters.tolist()
        assert all(getattr(one, name) == getattr(other, name) for name in DETAILS)
    for read in both:
        assert [line["text"] for line in read["inks"]] == [ink.text for ink in found]
        assert_same([line["points"] for line in read["inks"]], [ink.points.ravel() for ink in found], 2e-3)


def test_hands_are_those_of_python(page, tmp_path):
    encoder = load_network(None, "synthesis").encoder
    save_hand(vector(), np.nan, encoder, path := tmp_path / "hand.json")
    text, found = page["hand"]
    assert json.loads(text) == json.loads(path.read_text())
    np.testing.assert_allclose(found, vector(), atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_with_a_sentence(page, name):
    error = page["refused", name]["error"]
    assert error.startswith(f"{name}: ") and NAMED.get(name[0], "not of the form") in error


def test_a_page_without_ink_is_an_empty_drawing(page):
    assert page["empty"] == svg_bytes(Page(10, 20, []).sheet(), Drawing()).decode()
