"""Ink as other tools write it, see `cases/`: all from one line of ten strokes, which says "This is my hand."."""

import gzip
import json

import numpy as np
import pytest
from conftest import ROOT, assert_refused
from lxml import etree
from made_up_ink import write_line

import generate
from handwriting import hands
from handwriting.checks import CPU, find_recogniser
from handwriting.hands import load_prime, look_at, read_hand
from handwriting.ink.formats import Ink, save
from handwriting.ink.geometry import find_level, to_writing_scale
from handwriting.ink.read_ink import read_ink, read_lines
from handwriting.ink.rows import split_rows
from handwriting.program import InputError
from handwriting.recogniser import edit_distance
from handwriting.writer import Writer, load_network

CASES, TEXT = ROOT / "tests" / "cases", "This is my hand."
HAND = [np.array(stroke) for stroke in json.loads((CASES / "hand.json").read_text())["lines"][0]["strokes"]]
READ = {  # by file: the strokes of each line, and the text that the file tells
    "hand.json": ([10], TEXT), "ours.inkml": ([10], TEXT), "svg_plain.svg": ([10], ""), "svg_utf16.svg": ([10], ""),
    "inkml_TXY_up.inkml": ([10], ""), "mathwriting.inkml": ([10], TEXT), "crohme_word.inkml": ([10], TEXT),
    "svg_line_mm.svg": ([10], ""), "svg_use.svg": ([10], ""), "plain.svgz": ([10], ""), "svg_doctype.svg": ([10], ""),
    "inkscape_hidden_layer.svg": ([10], ""), "svg_visibility_hidden.svg": ([10], ""),
    "svg_white_paper_path.svg": ([10], ""), "svg_ruled_paper.svg": ([10], ""), "xournalpp_pressure.svg": ([10], ""),
    "excalidraw_freedraw.svg": ([10], ""), "inkml_continuation.inkml": ([9], ""),
    "inkml_two_lines.inkml": ([10, 10], ""), "strokesz.xml": ([10, 10], TEXT), "note.xopp": ([10], ""),
    "quickdraw.ndjson": ([10], TEXT),
}  # fmt: skip


def framed(strokes: list[np.ndarray]) -> list[np.ndarray]:
    """Strokes in units of their width, from the top left corner."""
    places = np.concatenate(strokes)
    return [(stroke - places.min(0)) / np.ptp(places[:, 0]) for stroke in strokes]


@pytest.mark.parametrize("name", READ)
def test_ink_of_other_tools_is_the_line_that_it_was_made_from(name):
    counts, text = READ[name]
    inks = read_lines(CASES / name)
    assert [len(ink.strokes) for ink in inks] == counts and {ink.text for ink in inks} == {text}
    for ink, count in zip(inks, counts, strict=True):
        near = 0.005 if "excalidraw" in name else 0.001  # by the width of the line; its pen smooths
        for one, other in zip(framed(ink.strokes), framed(HAND[:count]), strict=True):
            np.testing.assert_allclose(one[[0, -1]], other[[0, -1]], atol=max(near, 0.005))
            np.testing.assert_allclose([one.min(0), one.max(0)], [other.min(0), other.max(0)], atol=near)
    for found in look_at(CASES / name, TEXT):
        (read,) = find_recogniser(CPU).read([found.points])
        assert edit_distance(TEXT, read) <= 2 and found.fault == ""


def test_a_transform_in_a_style_moves():
    one, other = read_ink(CASES / "css_transform.svg").strokes
    assert (one - other == [10, 5]).all() and np.ptp(other, axis=0).tolist() == [20, 10]


def test_a_line_is_chosen_by_its_number(tmp_path):
    path = CASES / "inkml_two_lines.inkml"
    with pytest.raises(InputError, match=r"holds 2 lines of ink; give one of them, as .*#1"):
        load_prime(path, TEXT)
    assert load_prime(f"{path}#2", TEXT).style == "inkml_two_lines"
    with pytest.raises(InputError, match="has 2 lines"):
        read_lines(f"{path}#3")


def test_a_format_that_is_not_read_is_refused(run_here, tmp_path):
    given = ("ab", "--prime", CASES / "unipen.dat", "--prime_text", TEXT, "--output", tmp_path / "a.svg")
    assert_refused(run_here(generate.main, *given), "unipen.dat", "give one that ends with .svg")


# SVG: what is seen


def strokes_of(body: str, tmp_path, size: str = "") -> list:
    (tmp_path / "a.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>')
    places = [stroke for ink in read_lines(tmp_path / "a.svg") for stroke in ink.strokes]
    return [(stroke - places[0][0]).tolist() for stroke in places]


LINE, OTHER = '<path d="M0 0L10 20"/>', '<path class="a b" id="c" d="M0 0L7 7"/>'


@pytest.mark.parametrize(
    "hidden",
    [
        f'<g opacity="0">{OTHER}</g>', f'<g style="opacity: 0.0">{OTHER}</g>', f"<metadata>{OTHER}</metadata>",
        f'<x:g xmlns:x="http://example.com">{OTHER.replace("<path", "<x:path")}</x:g>',
        f"<style>/* .a {{}} */ .b {{ display: none }}</style>{OTHER}", f"<style>#c{{visibility:hidden}}</style>{OTHER}",
        f"<style>path.a{{display:none !important}} path{{stroke:red}}</style>{OTHER}",
        '<path stroke="none" fill="none" d="M0 0L7 7"/>', '<path stroke="#00000000" fill="none" d="M0 0L7 7"/>',
        '<path stroke="rgba(0, 0, 0, 0)" fill="none" d="M0 0L7 7"/>',
        '<path stroke="red" stroke-opacity="0%" fill="none" d="M0 0L7 7"/>',
        '<path stroke="red" stroke-width="0px" fill="none" d="M0 0L7 7"/>',
        f'<switch><g requiredExtensions="x">{OTHER}</g><g/>{OTHER}</switch>',
        f"<style>.a{{display:inline}} #c{{display:none}}</style>{OTHER}",
    ],
)  # fmt: skip
def test_what_is_not_seen_is_no_ink(hidden, tmp_path):
    style, _, rest = hidden.rpartition("</style>")
    body = f"{style}</style>{LINE}{rest}" if style else f"{LINE}{hidden}"
    assert strokes_of(body.replace(LINE, LINE.replace("<path", '<polyline points="0 0 10 20"')), tmp_path) == [
        [[0, 0], [10, 20]]
    ]


@pytest.mark.parametrize(
    "shown",
    [
        f"<style>@media print{{.a{{display:none}}}} .a:hover{{display:none}}</style>{OTHER}",
        '<style>.a{display:none}</style><path class="a" style="display:inline" d="M0 0L7 7"/>',
        f"<switch>{OTHER}<g/></switch>", '<path stroke="rgb(0,0,0)" fill="none" d="M0 0L7 7"/>',
        '<path stroke="red" stroke-width="0.5" fill="none" d="M0 0L7 7"/>',
    ],
)  # fmt: skip
def test_what_is_seen_is_ink(shown, tmp_path):
    assert strokes_of(shown, tmp_path) == [[[0, 0], [7, 7]]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<line x1="0" y1="0" x2="50%" y2="10%"/>', [100, 5]),
        ('<line x2="1mm" y2="1in"/>', [96 / 25.4, 96]),
        ('<g style="transform: rotate(0.25turn) scaleX(2)"><line x2="5" y2="1"/></g>', [-1, 10]),
        ('<symbol id="s" viewBox="0 0 9 9"><line x2="9" y2="3"/></symbol><use href="#s" width="36" height="36"/>',
         [36, 12]),
        ('<svg viewBox="0 0 2 1" width="20" height="30" preserveAspectRatio="none"><line x2="2" y2="1"/></svg>',
         [20, 30]),
    ],
)  # fmt: skip
def test_lengths_and_views_are_those_of_svg(body, expected, tmp_path):
    (stroke,) = strokes_of(body, tmp_path, 'viewBox="0 0 200 50" width="9cm"')
    np.testing.assert_allclose(stroke[-1], expected, atol=1e-4)


def test_filled_areas_are_named(tmp_path):
    circle = (
        "M0 0" + "".join(f"L{50 - 50 * np.cos(t):.2f} {50 * np.sin(t):.2f}" for t in np.linspace(0, 6.283, 60)) + "Z"
    )
    with pytest.raises(InputError, match="filled areas; export lines"):
        strokes_of(f'<path fill="#123" d="{circle}"/>', tmp_path)
    assert len(strokes_of(f'<path fill="none" stroke="#123" d="{circle}"/>', tmp_path)) == 1


def test_frames_and_margins_are_paper_and_bars_are_not(tmp_path):
    letters = '<path d="M10 50L12 30L15 50L20 31L25 50"/><path d="M30 50L31 20L33 49"/>'
    paper = '<path d="M-5 0H200V90H-5Z"/><path d="M-3 -9V300"/><path d="M0 60H100"/>'
    assert len(strokes_of(letters + paper, tmp_path)) == 2
    assert len(strokes_of(letters + '<path d="M28 30H36"/>', tmp_path)) == 3
    assert len(strokes_of('<path d="M0 0H20"/><path d="M10 0V40"/>', tmp_path)) == 2  # a T that a machine drew


# InkML


def test_inkml_of_several_contexts_and_views(tmp_path):
    (tmp_path / "a.ink").write_text("""<ink xmlns="http://www.w3.org/2003/InkML"><definitions>
        <traceFormat xml:id="f"><channel name="Y"/><channel name="X"/></traceFormat>
        <context xml:id="c1"><inkSource><traceFormat><channel name="X"/><channel name="Y" orientation="-ve"/>
        </traceFormat></inkSource></context><context xml:id="c2" traceFormatRef="#f"/>
        <trace xml:id="t" contextRef="#c2">90 90, 95 99</trace>
        <trace xml:id="u">80 80, 85 99</trace></definitions>
        <traceGroup contextRef="#c1"><annotation type="truth">one</annotation><trace>0 0, 1 5</trace></traceGroup>
        <traceView><annotation type="label">two</annotation><traceView traceDataRef="#v"/><traceView traceDataRef="#t"/>
        </traceView><trace xml:id="v" contextRef="#c2">7 3, 8 9</trace></ink>""")
    one, two = read_lines(tmp_path / "a.ink")
    assert (one.text, two.text) == ("one", "two")
    assert [np.diff(stroke, axis=0).tolist() for stroke in one.strokes] == [[[1, -5]]]
    assert [np.diff(stroke, axis=0).tolist() for stroke in two.strokes] == [[[6, 1]], [[9, 5]]]


@pytest.mark.parametrize(("said", "text"), [(r"\frac{1}{2}", ""), ("$x^2$", ""), ("for $5", "for $5"), ("x_{1}", "")])
def test_latex_is_no_text(said, text, tmp_path):
    (tmp_path / "a.xml").write_text(f'<ink><annotation type="truth">{said}</annotation><trace>0 0, 1 5</trace></ink>')
    assert read_ink(tmp_path / "a.xml").text == text


def read_as_others_do(path) -> tuple[dict, list, list]:
    """What a short reader finds: the root's annotations, its traces by id, and the ids of each view."""
    root = etree.parse(path).getroot()
    tag = "{http://www.w3.org/2003/InkML}"
    notes = {note.get("type"): note.text for note in root.findall(f"{tag}annotation")}
    traces = {
        t.get("id"): [tuple(map(float, p.split())) for p in t.text.split(",")] for t in root.findall(f"{tag}trace")
    }
    views = [
        (view.find(f"{tag}annotation").text, [part.get("traceDataRef") for part in view.findall(f"{tag}traceView")])
        for view in root.findall(f"{tag}traceView")
    ]
    return notes, traces, views


def test_our_inkml_has_its_traces_where_others_look(tmp_path):
    one, two = write_line("abc ab"), write_line("it is")
    one.save(tmp_path / "a.inkml")
    notes, traces, views = read_as_others_do(tmp_path / "a.inkml")
    assert notes == {"truth": "abc ab"} and views == [] and list(traces) == ["0", "1", "2", "3", "4"]
    for found, stroke in zip(traces.values(), one.strokes, strict=True):
        np.testing.assert_allclose(found, stroke, atol=1e-3)
    save([one.page(), two.page()], tmp_path / "b.inkml")
    notes, traces, views = read_as_others_do(tmp_path / "b.inkml")
    assert notes == {} and [text for text, _ in views] == ["abc ab", "it is"]
    assert [part for _, parts in views for part in parts] == [f"#{name}" for name in traces]
    for ink, back in zip([one, two], read_lines(tmp_path / "b.inkml"), strict=True):
        assert back.text == ink.text and len(back.strokes) == len(ink.strokes)


# Bounds

BLANKS, MANY = " " * 300_000, 120_000
MUCH = {
    "a.svg": f'<svg><path transform="{"a" * 300_000}" d="M0 0L1 1"/></svg>',
    "b.svg": f'<svg><path transform="{BLANKS}x" d="M0 0L1 1"/></svg>',
    "c.svg": f'<svg><path d="M0 0{BLANKS}x"/></svg>', "d.svg": f'<svg><path d="M0 0{"h1" * MANY}"/></svg>',
    "e.svg": f'<svg><line x2="1{BLANKS}x"/></svg>', "f.svg": f"<svg>{LINE * MANY}</svg>",
    "g.svg": f"<svg><style>{'.a{fill:red}' * 9000}</style>{LINE * 9000}</svg>",
    "h.inkml": f"<ink><trace>1 2, 3 {BLANKS} x</trace></ink>", "i.inkml": f"<ink><trace>{'1 2,' * MANY}</trace></ink>",
    "j.inkml": f'<ink><trace id="a">1 2, 3 4</trace>{"""<traceView traceDataRef="#a"/>""" * 40_000}</ink>',
    "k.inkml": f"<ink>{'<trace>1 2, 3 4</trace>' * 40_000}</ink>",
    "l.ndjson": '{"drawing": [' + ",".join(["[[0, 5], [0, 9]]"] * MANY) + "]}",
}  # fmt: skip


@pytest.mark.parametrize("name", MUCH)
def test_too_much_of_anything_is_refused(name, tmp_path):
    (tmp_path / name).write_text(MUCH[name])
    with pytest.raises(InputError, match=r"more than|too many|cannot be read|not numbers"):
        read_lines(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "word"), [(gzip.compress(bytes(40 << 20)), "larger than 32 MiB"), (b"\x1f\x8b\x08", "gzip")]
)
def test_what_is_packed_is_bounded(content, word, tmp_path):
    (tmp_path / "a.svgz").write_bytes(content)
    with pytest.raises(InputError, match=word):
        read_lines(tmp_path / "a.svgz")


def test_ink_of_huge_numbers_is_refused(tmp_path):
    huge = Ink(write_line("abc ab cab").points * np.float32(1e17))
    huge.save(tmp_path / "a.npz")
    with pytest.raises(InputError, match="beyond"):
        read_lines(tmp_path / "a.npz")
    with pytest.raises(InputError, match="goes beyond"):
        Writer(style=huge)


# A hand is read before it is used


def run(run_here, tmp_path, *flags):
    return run_here(generate.main, "ab", "--retries", 0, "--steps", 20, "--output", tmp_path / "a.svg", *flags)


def test_a_prime_that_says_something_else_is_refused(run_here, tmp_path):
    told = "--prime", CASES / "svg_plain.svg", "--prime_text", "Quite other words"
    assert_refused(run(run_here, tmp_path, *told), f"reads as '{TEXT}', not 'Quite other words'", "--force")
    assert not list(tmp_path.iterdir())
    assert run(run_here, tmp_path, *told, "--force").returncode in (0, 3)


def test_ink_that_says_nothing_is_no_hand(run_here, tmp_path):
    mirrored = [stroke * [-1, 1] for stroke in HAND]
    (tmp_path / "ink.svg").write_text(
        "<svg>" + "".join(f'<polyline points="{" ".join(map(str, s.ravel()))}"/>' for s in mirrored) + "</svg>"
    )
    flags = "--style", tmp_path / "ink.svg", "--show_prime", tmp_path / "shown.png"
    assert_refused(run(run_here, tmp_path, *flags), "reads as", "no writing")
    assert (tmp_path / "shown.png").read_bytes().startswith(b"\x89PNG") and not (tmp_path / "a.svg").exists()
    assert run(run_here, tmp_path, *flags, "--force").returncode in (0, 3)


@pytest.mark.parametrize("text", [None, TEXT])
def test_ink_upside_down_is_turned(text, tmp_path, capsys):
    path = tmp_path / "ink.inkml"
    traces = (", ".join(f"{x} {-y}" for x, y in stroke.tolist()) for stroke in HAND)
    path.write_text("<ink>" + "".join(f"<trace>{trace}</trace>" for trace in traces) + "</ink>")
    (found,) = look_at(path, text)
    np.testing.assert_allclose(found.points, to_writing_scale(HAND), atol=0.5)
    assert "upside down" in capsys.readouterr().err


def test_shipped_hands_are_not_read(monkeypatch):
    encoder = load_network(None, "synthesis").encoder
    monkeypatch.setattr(hands, "find_recogniser", lambda _: pytest.fail("a recogniser is asked"))
    for name in hands.list_styles()[:2]:
        read_hand(name, encoder)


def test_showing_ink_needs_some(run_here, tmp_path):
    assert_refused(run(run_here, tmp_path, "--show_prime", tmp_path / "b.png"), "--prime or --style")


@pytest.mark.parametrize("degrees", [0, 1, -2, 4])
def test_rows_that_rise_are_told_apart(degrees):
    """Rows 4 x-heights apart across a wide page: at 2 degrees the end of one is as high as the middle of the next."""
    texts, turn = (
        ["the quick dog jumps high up again", "and so do all", "dogs that the quick fox leaps over"],
        np.radians(degrees),
    )
    lines = [write_line(text).strokes for text in texts]
    x_height = find_level(lines[0]).x_height
    rows = [[stroke + [0, 4 * x_height * number] for stroke in line] for number, line in enumerate(lines)]
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    found = split_rows([stroke @ matrix for row in rows for stroke in row])
    assert [len(row) for row in found] == [len(row) for row in rows]
