"""Programs for plotters, run by models of the firmware that they are for."""

import numpy as np
import pytest
from firmware import Firmware
from lxml import etree
from made_up_ink import drawn, make_page

import generate
from handwriting.ink.formats import Page
from handwriting.ink.gcode import MACHINES, ORIGINS, Plotter, pen_test_bytes
from handwriting.ink.geometry import smooth
from handwriting.ink.pictures import Drawing
from handwriting.program import InputError

ZERO = {  # where the machine's (0, 0) is on a page of 100 x 60 mm, and what one mm along its y is there
    "bottom left": ([0, 60], -1), "bottom right": ([100, 60], -1), "centre": ([50, 30], -1), "top left": ([0, 0], 1),
    "top right": ([100, 0], 1),
}  # fmt: skip


def run(*arguments) -> None:
    generate.main([str(argument) for argument in arguments])


def program(page: Page, tmp_path, plotter: Plotter, drawing: Drawing | None = None) -> str:
    page.save(tmp_path / "page.gcode", drawing, plotter)
    return (tmp_path / "page.gcode").read_text("ascii")


def strokes_of(machine: Firmware, plotter: Plotter) -> list[np.ndarray]:
    """What is drawn, (n, 2) each, in the machine's mm. Asserts that all ink and no travel is, and how it ends."""
    up, down = plotter.places
    uses_servo = not plotter.machine.endswith("z")
    strokes, was_down = [], False
    for _, pen, ends in machine.pens(uses_servo):
        is_down = np.allclose(pen, down, atol=1e-6)
        assert is_down or np.allclose(pen, up, atol=1e-6), f"the pen moves across the paper between its places: {pen}"
        if is_down and not (was_down and np.allclose(strokes[-1][-1], ends[0])):
            strokes.append([ends[0]])
        if is_down:
            strokes[-1].append(ends[1])
        was_down = is_down
    last = machine.servo_at(np.inf) if uses_servo else machine.here[2]
    assert last == pytest.approx(up) and np.allclose(machine.here[:2], 0)
    return [np.array(stroke) for stroke in strokes]


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("given", [{}, {"up": 80, "down": 12.5, "feed": 900, "travel": 9000, "feed_z": 300}])
def test_a_machine_draws_all_ink_and_no_travel(tmp_path, name, given):
    plotter, page = Plotter(name, **given), make_page()
    machine = Firmware(name.partition("-")[0]).run(program(page, tmp_path, plotter))
    found = strokes_of(machine, plotter)
    assert len(found) == len(drawn(page))
    for one, other in zip(found, drawn(page), strict=True):
        np.testing.assert_allclose(one, [0, 60] + other * [1, -1], atol=6e-4)


@pytest.mark.parametrize("name", ["grbl-servo", "marlin-servo"])
def test_the_model_sees_a_servo_that_is_not_waited_for(tmp_path, name):
    """Without what waits, ink is lost and travel drawn, and at M2 GRBL's pen falls."""
    plotter = Plotter(name)
    text = program(make_page(), tmp_path, plotter)
    for bad in (text.replace("M400\n", ""), text.replace("G4", ";"), text + "M2\n"):
        if bad != text:
            with pytest.raises(AssertionError):
                strokes_of(Firmware(name.partition("-")[0]).run(bad), plotter)


@pytest.mark.parametrize("origin", ORIGINS)
def test_zero_is_where_it_is_asked_for(tmp_path, origin):
    plotter, page = Plotter(origin=origin), make_page()
    found = strokes_of(Firmware("grbl").run(program(page, tmp_path, plotter)), plotter)
    zero, down = ZERO[origin]
    for one, other in zip(found, drawn(page), strict=True):
        np.testing.assert_allclose(one * [1, down] + zero, other, atol=6e-4)


def test_smooth_curves_are_few_straight_moves(tmp_path):
    page, plotter = make_page(), Plotter()
    found = strokes_of(Firmware("grbl").run(program(page, tmp_path, plotter, Drawing(smooth=True))), plotter)
    for one, given in zip(found, drawn(page), strict=True):
        curve, corners = smooth(given, 50), [0, 60] + one * [1, -1]
        ways = np.linspace(corners[:-1], corners[1:], 200).reshape(-1, 2)
        assert np.hypot(*(curve[:, None] - ways).T).min(0).max() < 0.05  # mm
    assert sum(map(len, found)) < 2 * sum(map(len, drawn(page)))
    simple = strokes_of(Firmware("grbl").run(program(page, tmp_path, plotter, Drawing(simplify=0.1))), plotter)
    assert sum(map(len, simple)) < 0.8 * sum(map(len, drawn(page)))


def test_comments_tell_what_is_drawn_in_letters_that_no_machine_obeys(tmp_path):
    page = make_page()
    ink = page.lines[1].ink
    object.__setattr__(ink, "text", "Größe? 5 € ~ \u65e5!; (M3) $X " + 80 * "x")
    text = program(page, tmp_path, Plotter("marlin-z", origin="centre"))
    Firmware("marlin").run(text)
    told = [line for line in text.splitlines() if line.startswith(";")]
    assert told[0] == told[4] == "; this is it" and told[5].startswith("; Groe  5") and all(len(t) <= 80 for t in told)
    lengths = [np.hypot(*np.diff(stroke, axis=0).T).sum() for stroke in drawn(page)]
    assert f"{sum(lengths):.0f} mm drawn in {len(lengths)} strokes" in told[2]
    assert "marlin-z" in told[1] and "100 x 60 mm" in told[1] and "centre" in told[1] and "min" in told[3]


def test_ink_beyond_page_or_bed_is_refused(tmp_path):
    page = make_page()
    plots = {"bed": (99, 59)}, {"bed": (30, 200)}, {"bed": (30, 200), "origin": "centre"}
    program(page, tmp_path, Plotter(**plots[0]))  # all ink is on it
    for given in plots[1:]:
        with pytest.raises(InputError, match="beyond the bed"):
            program(page, tmp_path, Plotter(**given))
    with pytest.raises(InputError, match=r"1\.\d mm beyond the page"):
        inside = max(stroke[:, 0].max() for stroke in drawn(page))
        program(Page(inside - 1.5, 60, page.lines), tmp_path, Plotter())


@pytest.mark.parametrize("given", [
    {"machine": "ebb"}, {"origin": "middle"}, {"up": float("nan")}, {"down": float("inf")}, {"up": 1e7},
    {"machine": "marlin-servo", "up": 181}, {"machine": "grbl-z", "down": -1e308}, {"feed": 0}, {"travel": 1e9},
    {"feed_z": float("nan")}, {"pause": -1}, {"bed": (0, 10)}, {"up": 30}, {"up": 5.0001, "down": 5},
])  # fmt: skip
def test_what_no_machine_can_do_is_refused(given):
    with pytest.raises(InputError):
        Plotter(**given)


@pytest.mark.parametrize(("up", "down"), [(1e-5, -1), (1, -1e-7)])
def test_numbers_have_no_exponents(tmp_path, up, down):
    text = program(make_page(), tmp_path, Plotter("grbl-z", up=up, down=down, feed=99999.9999, feed_z=1))
    assert "e" not in "".join(line.partition(";")[0] for line in text.splitlines()) and "-0 " not in text
    Firmware("grbl").run(text)


@pytest.mark.parametrize(
    ("origin", "box"), [("bottom left", (0, 50, 0, 40)), ("top right", (-50, 0, 0, 40)), ("centre", (-25, 25, -20, 20))]
)
def test_a_pen_test_stays_within_the_bed(origin, box):
    machine = Firmware("grbl").run(pen_test_bytes(Plotter("grbl-z", origin=origin, bed=(50, 40))).decode("ascii"))
    ends = np.array([end for _, _, both in machine.pens(True) for end in both])
    assert np.ravel([ends.min(0), ends.max(0)], "F") == pytest.approx(box)
    with pytest.raises(InputError, match=r"10\.0 mm beyond the bed"):
        pen_test_bytes(Plotter("grbl-z", origin="top left", bed=(40, 40)))


@pytest.mark.parametrize("name", MACHINES)
def test_a_pen_test_draws_ever_longer_lines_with_the_pen_ever_lower(name):
    plotter = Plotter(name)
    machine = Firmware(name.partition("-")[0]).run(pen_test_bytes(plotter).decode("ascii"))
    marks = [
        (length, pen)
        for length, pen, ends in machine.pens(not name.endswith("z"))
        if ends[0][1] == ends[1][1] and ends[1][0] > 0
    ]
    assert [length for length, _ in marks] == pytest.approx(np.arange(10, 51, 5))
    np.testing.assert_allclose(
        [pen for _, pen in marks], np.linspace(*plotter.places, 9)[:, None].repeat(3, 1), atol=1e-6
    )


def test_the_rest_of_a_plot_that_stopped(checkpoints, tmp_path, capsys):
    given = ["ab", "ca", "bc", "--page", "A5", "--checkpoint", checkpoints / "blanks.pt", "--retries", "0"]
    run(*given, "--machine", "grbl-z", "--output", tmp_path / "all.gcode")
    run(*given, "--machine", "grbl-z", "--output", tmp_path / "rest.gcode", "--from_line", "2")
    both = [(tmp_path / f"{name}.gcode").read_text() for name in ("all", "rest")]
    assert both[0].partition("; ca\n")[2] == both[1].split("; ca\n")[2] and "; ab\n" not in both[1]
    with pytest.raises(InputError, match="--from_line 4: the text has 3 lines"):
        run(*given, "--output", tmp_path / "more.gcode", "--from_line", "4")
    assert not (tmp_path / "more.gcode").exists() and "grbl-servo; --machine names others" in capsys.readouterr().err


def test_a_preview_shows_the_way_between_strokes(checkpoints, tmp_path):
    given = [
        "ab",
        "--page",
        "100x100",
        "--checkpoint",
        checkpoints / "blanks.pt",
        "--retries",
        "0",
        "--output",
        tmp_path / "a.svg",
    ]
    run(*given, "--preview", tmp_path / "b.svg")
    paths = [path.get("style") for path in etree.parse(tmp_path / "b.svg").iter("{*}path") if path.get("style")]
    strokes = len(list(etree.parse(tmp_path / "a.svg").iter("{*}path")))
    assert sum("stroke: #d1495b" in path for path in paths) == strokes + 1
    for flag, value in (
        ("--preview", "a.jpeg"),
        ("--preview", tmp_path / "a.svg" / "b.png"),
        ("--bed", "A99"),
        ("--bed", "20x20"),
    ):
        with pytest.raises(InputError):
            run(*given[:-1], tmp_path / "c.gcode", flag, value)
    assert not (tmp_path / "c.gcode").exists()


def test_a_pen_test_needs_no_network(tmp_path):
    run("--pen_test", "--machine", "marlin-z", "--checkpoint", "none", "--output", tmp_path / "test.gcode")
    assert (tmp_path / "test.gcode").read_bytes() == pen_test_bytes(Plotter("marlin-z"))
    with pytest.raises(InputError, match="is G-code"):
        run("--pen_test", "--output", tmp_path / "test.svg")
