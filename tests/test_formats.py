"""Files of ink: what is written is what was drawn, and what can be read comes back."""

import io
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from lxml import etree
from made_up_ink import drawn, make_page, write_line
from PIL import Image

import data_preprocessing
from handwriting.data.dataset import load_dataset
from handwriting.data.recordings import read_strokes
from handwriting.ink.formats import FORMATS, Ink, Page, Placed, save
from handwriting.ink.pictures import Drawing
from handwriting.ink.read_ink import read_ink, read_lines
from handwriting.ink.read_inkml import read_trace
from handwriting.ink.read_svg import read_svg
from handwriting.program import InputError


def assert_same_strokes(found, expected, tolerance: float) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


# Ink itself


def test_ink_refuses_wrong_shapes():
    for points in (np.zeros((0, 3)), np.zeros((4, 2)), np.full((4, 3), np.nan)):
        with pytest.raises(ValueError, match="points"):
            Ink(points)
    for text in ("two\nlines", "\x00", "\ud800", None):
        with pytest.raises(ValueError, match="text"):
            Ink(np.zeros((4, 3)), text)
    for characters in (np.zeros(3), np.full(4, 2), np.full(4, -2)):
        with pytest.raises(ValueError, match="characters"):
            Ink(np.zeros((4, 3)), "ab", characters)


def test_a_notebook_shows_ink():
    for shown in (write_line("ab"), make_page()):
        assert etree.fromstring(shown._repr_svg_()).tag.endswith("svg")  # no file, so no declaration of an encoding
        assert len(repr(shown)) < 200  # a terminal shows no arrays


# Drawings


def test_svg_holds_one_path_for_each_stroke_and_nothing_else(tmp_path):
    page = make_page()
    assert page.save(tmp_path / "page.svg") == [tmp_path / "page.svg"]
    root = etree.parse(tmp_path / "page.svg").getroot()
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("100mm", "60mm", "0 0 100 60")
    names = {etree.QName(element).localname for element in root.iter()}
    assert names == {"svg", "g", "title", "path"}
    attributes = {name for element in root.iter() for name in element.attrib}
    pen = {"fill", "stroke", "stroke-width", "stroke-linecap", "stroke-linejoin"}
    assert attributes == {"width", "height", "viewBox", "d"} | pen
    (layer,) = root  # for vpype and Inkscape, which take the outermost groups for layers
    groups = list(layer)
    assert [group[0].text for group in groups] == ["this is it", "a line in two"]
    assert layer.get("stroke-linecap") == layer.get("stroke-linejoin") == "round"
    paths = [path.get("d") for path in root.iter("{*}path")]
    places = [np.array(re.findall(r"[\d.]+", path), dtype=float).reshape(-1, 2) for path in paths]
    assert_same_strokes(places, drawn(page), 0.001)
    dots = [stroke for stroke in places if len(stroke) == 2]
    assert len(dots) == 5 and all(np.ptp(dot, axis=0) == pytest.approx([0.3, 0]) for dot in dots)


def test_vpype_reads_the_same_strokes_and_size(tmp_path):
    vpype = pytest.importorskip("vpype", reason="vpype is not installed: pip install -r tests/requirements.txt")
    page = make_page()
    page.save(tmp_path / "page.svg")
    lines, width, height = vpype.read_svg(str(tmp_path / "page.svg"), quantization=0.01)
    assert len(vpype.read_multilayer_svg(str(tmp_path / "page.svg"), 0.01).layers) == 1
    mm = vpype.convert_length("1mm")
    assert (width / mm, height / mm) == pytest.approx((100, 60))
    assert_same_strokes([np.column_stack([line.real, line.imag]) / mm for line in lines], drawn(page), 0.002)


def test_rules_are_for_pens_only_if_asked(tmp_path):
    for plots_rules, more in ((False, 0), (True, 2)):
        page = make_page(plots_rules=plots_rules)
        page.save(tmp_path / "page.svg")
        paths = list(etree.parse(tmp_path / "page.svg").iter("{*}path"))
        assert len(paths) == len(drawn(page)) + more
        page.save(tmp_path / "page.gcode")
        assert (tmp_path / "page.gcode").read_text().count("G0 X") == len(drawn(page)) + more + 1  # and back home


def test_pdf_has_the_size_the_strokes_and_all_pages(tmp_path):
    import matplotlib

    with matplotlib.rc_context({"pdf.compression": 0}):
        save([make_page(), make_page()], tmp_path / "page.pdf")
    data = (tmp_path / "page.pdf").read_bytes()
    boxes = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", data)
    assert len(boxes) == 2
    for box in boxes:
        assert [float(side) / 72 * 25.4 for side in box] == pytest.approx([100, 60], abs=0.01)
    strokes = [line for line in data.split(b"\n") if re.fullmatch(rb"[\d.]+ [\d.]+ m", line)]
    assert len(strokes) == 2 * (len(drawn(make_page())) + 2)  # and rules
    assert b"/Subtype /Image" not in data and b"CreationDate" not in data


def test_png_has_the_pixels_and_the_paper(tmp_path):
    page = make_page()
    page.save(tmp_path / "page.png", Drawing(dpi=127, paper=None, colour="#0000ff"))
    image = Image.open(tmp_path / "page.png")
    assert image.size == (500, 300)
    pixels = np.asarray(image.convert("RGBA"))
    assert pixels[0, 0, 3] == 0
    x, y = (drawn(page)[0].mean(0) * 5).astype(int)  # on a downstroke or beside it
    assert (pixels[y - 8 : y + 8, x - 8 : x + 8] == [0, 0, 255, 255]).all(-1).any()
    page.save(tmp_path / "page.png", Drawing(dpi=127, paper="#ffffee"))
    assert np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))[0, 0].tolist() == [255, 255, 238]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_films_show_the_pen_at_work(tmp_path, kind):
    page = make_page()
    page.save(tmp_path / f"film.{kind}", Drawing(dpi=60, speed=4))
    film = Image.open(tmp_path / f"film.{kind}")
    points = sum(len(placed.ink.points) + 10 * len(placed.strokes) for placed in page.lines)
    assert film.n_frames == pytest.approx(points * 0.0133 / 4 / 0.04, abs=4)  # without those that show nothing new
    ink = []
    for number in range(film.n_frames):
        film.seek(number)
        ink.append((255 - np.asarray(film.convert("L"), dtype=float)).sum())
    assert all(after >= 0.999 * before for before, after in pairwise(ink))
    half = ink[film.n_frames // 2] - ink[0]
    assert 0.35 < half / (ink[-1] - ink[0]) < 0.65
    page.save(tmp_path / "page.png", Drawing(dpi=60))
    whole = (255 - np.asarray(Image.open(tmp_path / "page.png").convert("L"), dtype=float)).sum()
    assert ink[-1] == pytest.approx(whole, rel=0.1)


def test_long_films_have_no_more_frames(tmp_path):
    make_page().save(tmp_path / "film.gif", Drawing(dpi=20, speed=0.1))
    film = Image.open(tmp_path / "film.gif")
    assert film.n_frames <= 500 and film.info["duration"] > 40


def test_large_films_have_fewer_frames(tmp_path, monkeypatch):
    """What all frames take in memory is bounded, and the film shows all of the writing."""
    monkeypatch.setattr("handwriting.ink.pictures.MAX_FILM_BYTES", 4_000_000)
    make_page().save(tmp_path / "film.webp", Drawing(dpi=40, speed=2))
    film = Image.open(tmp_path / "film.webp")
    assert film.n_frames > 1 and film.n_frames * 4 * film.width * film.height <= 4_000_000
    film.seek(film.n_frames - 1)
    make_page().save(tmp_path / "page.png", Drawing(dpi=40))
    last, whole = (
        (255 - np.asarray(picture.convert("L"), dtype=float)).sum()
        for picture in (film, Image.open(tmp_path / "page.png"))
    )
    assert last == pytest.approx(whole, rel=0.1)


def test_several_pages_number_themselves(tmp_path):
    pages = [make_page() for _ in range(11)]
    assert [path.name for path in save(pages[:2], tmp_path / "letter.svg")] == ["letter-1.svg", "letter-2.svg"]
    assert save(pages, tmp_path / "letter.gcode")[10].name == "letter-11.gcode"
    assert save(pages, tmp_path / "letter.gcode")[0].name == "letter-01.gcode"
    assert save(pages, tmp_path / "letter.pdf") == [tmp_path / "letter.pdf"]
    assert len(read_lines(*save(pages[:2], tmp_path / "letter.json"))) == 4


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_ink_gives_the_same_bytes(tmp_path, ending):
    written = []
    for folder in ("one", "two"):
        paths = make_page().save(tmp_path / folder / f"page.{ending}", Drawing(dpi=30, speed=50))
        written.append([path.read_bytes() for path in paths])
        assert not [path for path in (tmp_path / folder).iterdir() if path not in paths]
    assert written[0] == written[1] and all(written[0])


def test_a_line_is_drawn_on_a_page_of_its_own(tmp_path):
    ink = write_line("hi")
    page = ink.page()
    everything = np.concatenate(page.lines[0].strokes)
    assert everything.min(0).tolist() == [5, 5] and (everything.max(0) + 5).tolist() == [page.width, page.height]
    assert ink.save(tmp_path / "line.svg")[0].is_file()


# Files that come back


def read_back(ink: Ink, path: Path) -> Ink:
    ink.save(path)
    return read_ink(path)


@pytest.mark.parametrize(("ending", "tolerance"), [("json", 0.01), ("npz", 0), ("inkml", 0.01), ("xml", 1.0)])
def test_a_line_comes_back(tmp_path, ending, tolerance):
    ink = replace(write_line("a line that comes back", slant=12), fault="it reads 'a lime'")
    back = read_back(ink, tmp_path / f"line.{ending}")
    assert back.text == ink.text
    origin = ink.strokes[0][0]
    assert_same_strokes([s - back.strokes[0][0] for s in back.strokes], [s - origin for s in ink.strokes], tolerance)
    if ending in ("json", "npz"):
        assert back.characters.tolist() == ink.characters.tolist()
        for name in ("seed", "bias", "style", "checkpoint", "fault"):
            assert getattr(back, name) == getattr(ink, name)


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_what_is_not_known_stays_unknown(tmp_path, ending):
    back = read_back(Ink(write_line("ab").points), tmp_path / f"line.{ending}")
    assert (back.text, back.seed, back.bias, back.style, back.checkpoint) == ("", None, None, "", "")
    assert (back.characters == -1).all()


def test_numbers_of_numpy_are_numbers_in_json(tmp_path):
    ink = Ink(write_line("ab").points, "ab", seed=np.int64(7), bias=np.float32(0.5))
    back = read_back(ink, tmp_path / "line.json")
    assert (back.seed, back.bias) == (7, 0.5)


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_the_first_offset_comes_back(tmp_path, ending):
    ink = Ink(np.array([[3, 4, 0], [1, 0, 1], [5, 0, 1]]))
    assert read_back(ink, tmp_path / f"line.{ending}").points.tolist() == ink.points.tolist()


def test_svg_comes_back(tmp_path):
    page = make_page()
    page.save(tmp_path / "page.svg")
    groups = read_svg(etree.parse(tmp_path / "page.svg").getroot())
    assert [title for title, _ in groups] == ["this is it", "a line in two"]
    assert_same_strokes([stroke for _, strokes in groups for stroke in strokes], drawn(page), 0.001)
    assert [ink.text for ink in read_lines(tmp_path / "page.svg")] == ["this is it", "a line in two"]
    with pytest.raises(InputError, match="holds 2 lines"):
        read_ink(tmp_path / "page.svg")


def test_line_files_are_those_of_iam_ondb(tmp_path):
    page = make_page()
    names = [path.name for path in page.save(tmp_path / "letter.xml")]
    assert names == ["letter.txt", "letter-01.xml", "letter-02.xml"]
    assert read_ink(tmp_path / "letter-02.xml").text == "a line in two"
    points, last = read_strokes((tmp_path / "letter-01.xml").read_bytes())
    ink = page.lines[0].ink
    assert last.tolist() == (ink.points[:, 2] > 0.5).tolist()
    np.testing.assert_allclose(np.diff(points[:, :2], axis=0), ink.points[1:, :2], atol=1.01)
    assert points[:, :2].min() == 0 and (np.diff(points[:, 2]) > 0).all()


def test_a_corpus_of_written_lines_is_read_by_the_preprocessing(tmp_path):
    ink = [write_line(text) for text in ("the first line", "another one", "no. 7, and so on")]
    for form in (f"x01-{number:03}" for number in range(12)):
        _, *lines = Page(100, 60, [Placed(line, line.strokes) for line in ink]).save(
            tmp_path / "lineStrokes" / "x01" / form / f"{form}.xml"
        )
        (tmp_path / "ascii" / "x01" / form).mkdir(parents=True)
        lines[0].with_name(f"{form}.txt").rename(tmp_path / "ascii" / "x01" / form / f"{form}.txt")
    data_preprocessing.main(["--source", str(tmp_path), "--output", str(tmp_path / "data.npz")])
    dataset = load_dataset(tmp_path / "data.npz")
    assert dataset.texts.tolist() == [line.text for line in ink] * 12
    assert dataset.names[:3].tolist() == ["x01-000-01", "x01-000-02", "x01-000-03"]
    assert dataset.splits.tolist().count("train") > 12
    assert len(dataset.points(1)) > 0.8 * len(ink[1].points)  # where the pen rests, points are dropped
    assert read_ink(lines[1]).text == "another one"


# Drawings from elsewhere

PATHS = {
    "lines": "M10 10 L30 20 H50 V5 l-5 5 h-10 v10 z l3 3",
    "packed": "M10,10-5.5.5 1e1 2E+0l.5-.5",
    "moves": "m10 10 20 5 m5 5 5-5 M1 1",
    "cubic": "M10 80 C40 10 65 10 95 80 S150 150 180 80 c10-10 20-10 30 0 s10 20 30 0",
    "quadratic": "M10 80 Q52 10 95 80 T180 80 q10-20 20 0 t20 5 t5 5",
    "arcs": "M10 80 A25 25 0 0 1 60 80 a20 40 30 1 0 50 10 a5 5 0 0 1 40 0 A30 10 -20 11150 20 L0 0 A0 5 0 0 1 9 9",
    "wide arcs": "M10 80 A45 45 0 0 0 60 80 A60 40 20 1 0 90 60 A60 40 20 0 1 40 60 a30 30 0 1 1 20 30",
}  # fmt: skip


def distance(points: np.ndarray, line: np.ndarray) -> float:
    """The greatest distance of some points (n, 2) from a polyline (m, 2)."""
    begin, step = line[:-1], np.diff(line, axis=0)
    share = ((points[:, None] - begin) * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-12)
    nearest = begin + np.clip(share, 0, 1)[..., None] * step
    return float(np.hypot(*(points[:, None] - nearest).transpose(2, 0, 1)).min(1).max())


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("Q20 5 30 0 S50 9 60 0", "Q20 5 30 0 C30 0 50 9 60 0"),
        ("C10 9 20 5 30 0 T60 0", "C10 9 20 5 30 0 Q30 0 60 0"),
        ("L30 0 s20 9 30 0 t30 0", "L30 0 C30 0 50 9 60 0 L90 0"),
        ("Q20 5 30 0 z T60 0", "Q20 5 30 0 L0 0 Q0 0 60 0"),
    ],
)
def test_only_curves_of_the_same_kind_are_reflected(short, long):
    read = [read_svg(etree.fromstring(f'<svg><path d="M0 0 {data}"/></svg>'), 1e-3) for data in (short, long)]
    (_, (one,)), (_, (other,)) = read[0][0], read[1][0]
    assert max(distance(one, other), distance(other, one)) < 0.01


STRETCHED = "translate(5) scale(2,-1)", "matrix(1 .2 -.3 1.5 4 5), rotate(30 10 10) skewX(10) skewY(-5)"
TRANSFORMED = [(name, transform) for name in PATHS for transform in ("", "rotate(30) scale(2)", *STRETCHED)]


# The other reader keeps the axes of an ellipse at right angles when it is stretched, which is wrong.
@pytest.mark.parametrize(("name", "transform"), [p for p in TRANSFORMED if "arcs" not in p[0] or p[1] not in STRETCHED])
def test_paths_are_those_of_another_reader(name, transform):
    vpype = pytest.importorskip("vpype", reason="vpype is not installed: pip install -r tests/requirements.txt")
    body = f'<g transform="{transform}"><path d="{PATHS[name]}"/></g>'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="400">{body}</svg>'
    expected, _, _ = vpype.read_svg(io.StringIO(text), quantization=0.4, crop=False)
    ((_, strokes),) = read_svg(etree.fromstring(text), 0.02)
    expected = [np.column_stack([line.real, line.imag]) for line in expected]
    assert len(strokes) == len(expected)
    for one, other in zip(strokes, expected, strict=True):
        np.testing.assert_allclose(one[[0, -1]], other[[0, -1]], atol=1e-6)
        assert max(distance(one, other), distance(other, one)) < 0.1


@pytest.mark.parametrize("stretch", [1, 3])
def test_a_circle_of_arcs_is_round_until_it_is_stretched(stretch):
    path = f'<path transform="scale({stretch} 1) rotate(20)" d="M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z"/>'
    (_, (stroke,)) = read_svg(etree.fromstring(f"<svg>{path}</svg>"))[0]
    np.testing.assert_allclose(np.hypot(*(stroke / [stretch, 1]).T), 5, atol=0.02)
    assert np.ptp(np.unwrap(np.arctan2(*stroke.T[::-1]))) == pytest.approx(2 * np.pi)


def test_shapes_are_read_in_order_and_what_is_not_drawn_is_left_out():
    text = """<svg xmlns="http://www.w3.org/2000/svg"><!-- a comment --><defs><path d="M0 0L9 9"/></defs>
        <clipPath><polygon points="0 0 1 1"/></clipPath><line x1="1" y1="2" x2="3px" y2="4"/>
        <g display="none"><line x2="5"/></g><g transform="scale(10)"><title>some  text</title>
        <polyline points="0,0 1,0 1,1"/><g transform="translate(1 0)"><polygon points="0 0,1 0 1-1"/></g></g>
        <rect width="5" height="5"/><polyline points=""/></svg>"""
    groups = read_svg(etree.fromstring(text))
    assert [title for title, _ in groups] == ["", "some text"]
    assert groups[0][1][0].tolist() == [[1, 2], [3, 4]]
    assert groups[1][1][0].tolist() == [[0, 0], [10, 0], [10, 10]]
    assert groups[1][1][1].tolist() == [[10, 0], [20, 0], [20, -10], [10, 0]]


def strokes_of(body: str) -> list[list[list[float]]]:
    """The strokes of a drawing without titles."""
    text = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{body}</svg>'
    return [stroke.tolist() for _, strokes in read_svg(etree.fromstring(text)) for stroke in strokes]


LINE, USE, H, C = '<path d="M0 0L1 2"/>', '<use href="#a"/>', "h1", "C0 9 9 9 9 0"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f'<g style="fill: none; transform: translate(10px, 5px)">{LINE}</g>', [[[10, 5], [11, 7]]]),
        (f'<g style="display:none">{LINE}</g><g style="visibility: hidden">{LINE}</g>', []),
        (f'<g visibility="hidden"><g visibility="visible">{LINE}</g>{LINE}</g>', [[[0, 0], [1, 2]]]),
        ('<line x1="25.4mm" y1="1in" x2="72pt" y2="0"/>', [[[96, 96], [96, 0]]]),
        (f'<defs><g id="a">{LINE}</g></defs><use xlink:href="#a" x="3"/>', [[[3, 0], [4, 2]]]),
        (f'<symbol id="a">{LINE}</symbol><use href="#a" transform="scale(2)" y="1"/>', [[[0, 2], [2, 6]]]),
        ('<use href="#b"/><use href="http://localhost/a.svg#b"/><use/>', []),
        ('<path fill="#FFFFFF" stroke="none" d="M0 0H9V9H0Z"/><g stroke="red"><path fill="white" d="M0 0L1 2"/></g>',
         [[[0, 0], [1, 2]]]),
        ('<path d="M5. 05 L1.e1 2."/>', [[[5, 5], [10, 2]]]),
    ],
)  # fmt: skip
def test_what_is_shown_is_read(body, expected):
    np.testing.assert_allclose(strokes_of(body), expected, atol=1e-9)


@pytest.mark.parametrize("count", [1, 30])
def test_uses_within_each_other_are_bounded(count):
    """A few lines can stand for more than a billion strokes, or for themselves."""
    groups = "".join(f'<g id="a{n}">{LINE}{2 * f"""<use href="#a{(n + 1) % count}"/>"""}</g>' for n in range(count))
    with pytest.raises(ValueError, match="<use>"):
        strokes_of(groups)


@pytest.mark.parametrize(
    "body",
    [
        f'<path d="M0 0{200 * H}"/>', f'<path id="a" d="M0 0{40 * H}"/>{5 * USE}', 150 * LINE,
        f'<path d="M0 0{9 * C}"/>',
    ],
    ids=["commands", "uses", "paths", "curves"],
)  # fmt: skip
def test_drawings_of_too_many_points_are_refused(body, monkeypatch):
    monkeypatch.setattr("handwriting.ink.read_svg.MAX_POINTS", 100)
    with pytest.raises(ValueError, match="more than 100 points"):
        strokes_of(body)
    assert len(strokes_of(f'<path d="M0 0{90 * H}"/>')[0]) == 91


@pytest.mark.parametrize(
    "data",
    ["L1 1", "M1 1 L2", "M1 1 X", "M1 1 L nan 2", "M1 1 Z 5", "hello", "M0 0 A1 1 0 2 0 5 5", "M0 0 h", "M0 0 1 e"],
)
def test_damaged_paths_are_refused(data):
    with pytest.raises(ValueError, match="path data"):
        read_svg(etree.fromstring(f'<svg><path d="{data}"/></svg>'))


@pytest.mark.parametrize("transform", ["scale", "scale(1,2,3)", "turn(5)", "translate(a)", "scale(2) and more"])
def test_damaged_transforms_are_refused(transform):
    with pytest.raises(ValueError):
        read_svg(etree.fromstring(f'<svg><line x2="1" transform="{transform}"/></svg>'))


def test_traces_with_differences_are_read():
    order = (0, 1, np.array([1, 1]))
    trace = "1125 18432,'23'43,\"7\"-8,3-5,7 -3,6 2,6 8,3 6,2 4,3 2"  # the example of InkML, 3.2.1
    expected = [
        [1125, 18432], [1148, 18475], [1178, 18510], [1211, 18540], [1251, 18567],
        [1297, 18596], [1349, 18633], [1404, 18676], [1461, 18723], [1521, 18772],
    ]  # fmt: skip
    assert read_trace(trace, order).tolist() == expected
    assert read_trace("1 2, * 5, !7 *", order).tolist() == [[1, 2], [1, 5], [7, 5]]


def test_inkml_from_elsewhere(tmp_path):
    (tmp_path / "line.inkml").write_text(
        """<ink xmlns="http://www.w3.org/2003/InkML"><definitions><context><traceFormat>
        <channel name="T"/><channel name="X"/><channel name="Y" orientation="-ve"/></traceFormat></context>
        </definitions>
        <annotation type="truth">ab</annotation><trace>0 10 20, 1 11 22</trace>
        <trace type="penUp">2 50 50, 3 51 51</trace><trace>4 12 20</trace></ink>"""
    )
    ink = read_ink(tmp_path / "line.inkml")
    assert ink.text == "ab" and [len(stroke) for stroke in ink.strokes] == [2, 1]
    assert np.diff(np.concatenate(ink.strokes), axis=0).tolist() == [[1, -2], [1, 2]]


# Bad input

DOCTYPE = '<!DOCTYPE svg SYSTEM "file:///etc/hostname"><svg><path d="M0 0L1 1"/></svg>'
BAD = {
    "nothing.svg": "", "blank.json": " \n", "no-ink.svg": "<svg/>", "one-point.inkml": "<ink><trace>1 2</trace></ink>",
    "doctype.svg": DOCTYPE, "doctype.xml": DOCTYPE, "doctype.inkml": DOCTYPE, "other.svg": "<html/>",
    "other.inkml": "<svg/>", "broken.svg": "<svg><path", "photograph.svg": "\x89PNG\r\n\x1a\n", "text.json": "hello",
    "other.json": '{"a": 1}', "list.json": "[1, 2]", "old.json": '{"version": 0, "lines": []}', "no.npz": "PK\x03\x04",
    "far.svg": '<svg><path d="M0 0L1e300 1"/></svg>', "endless.svg": '<svg><path d="M0 0L1e999 1"/></svg>',
    "odd.svg": '<svg><polyline points="1 2 3"/></svg>', "words.inkml": "<ink><trace>a b, c d</trace></ink>",
    "empty.json": '{"version": 1, "lines": []}', "deep.json": "[" * 100000, "one.xml": "<S><Stroke/></S>",
    "ragged.json": json.dumps({"version": 1, "lines": [{"strokes": [[[1, 2], [3]]], "characters": [[0, 0]]}]}),
    "picture.png": "", "letter.doc": "",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_ink_is_refused(tmp_path, name):
    (tmp_path / name).write_text(BAD[name], encoding="latin-1")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        read_lines(tmp_path / name)


def test_other_arrays_are_refused(tmp_path, data_file):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "objects.npz", version=np.array([{}], dtype=object))
    for path in (tmp_path / "other.npz", tmp_path / "objects.npz", data_file, tmp_path / "missing.npz", tmp_path):
        with pytest.raises(InputError):
            read_lines(path)


def test_the_message_about_a_doctype_names_it(tmp_path):
    (tmp_path / "ink.svg").write_text(DOCTYPE)
    with pytest.raises(InputError, match="DOCTYPE"):
        read_ink(tmp_path / "ink.svg")


@pytest.mark.parametrize("name", ["page.bmp", "page", "page.svgz"])
def test_unknown_endings_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"ends with \.svg"):
        make_page().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_transcriptions_that_iam_ondb_cannot_hold_are_refused(tmp_path):
    for text, told in (("", "without a text"), ("5 \u20ac", "Latin-1")):
        with pytest.raises(InputError, match=told):
            Ink(write_line("ab").points, text).save(tmp_path / "line.xml")
    with pytest.raises(InputError, match="whiteboard units"):
        write_line("a" * 40, x_height=1000).save(tmp_path / "line.xml")
    assert not list(tmp_path.iterdir())


def test_a_letter_is_not_written_over_by_its_transcription(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear Anna")
    with pytest.raises(InputError, match=r"letter\.txt"):
        make_page().save(tmp_path / "letter.xml")
    assert (tmp_path / "letter.txt").read_text() == "Dear Anna" and len(list(tmp_path.iterdir())) == 1
    make_page().save(tmp_path / "other.xml")
    make_page().save(tmp_path / "other.xml")  # its own it replaces


def test_pages_without_ink_are_refused(tmp_path):
    for pages in ([], [Page(10, 10, [])]):
        with pytest.raises(InputError, match="no ink"):
            save(pages, tmp_path / "page.svg")


@pytest.mark.parametrize("options", [
    {"colour": "blackish"}, {"paper": "#12"}, {"dpi": 0}, {"speed": 0}, {"pen_width": -1}, {"simplify": float("nan")},
])  # fmt: skip
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options)).replace("_", " ")):
        Drawing(**options)


def test_pictures_too_large_are_refused(tmp_path):
    page = Page(1000, 1000, make_page().lines)
    with pytest.raises(InputError, match="million pixels"):
        page.save(tmp_path / "page.png", Drawing(dpi=600))
    assert not list(tmp_path.iterdir())
