"""Texts from elsewhere, pictures, the command line, and the checks."""

import numpy as np
import pytest
import torch
from conftest import CHARSET, assert_refused, run_script

import generate
from handwriting import checks
from handwriting.alphabet import Alphabet
from handwriting.checks import Verdict, load_recogniser, longest_rest
from handwriting.figures import density_map
from handwriting.hands import steer
from handwriting.program import InputError, ResultError
from handwriting.recogniser import RecogniserConfig
from handwriting.sampling import Line, Sampler, default_steps
from handwriting.strokes import to_points, to_strokes
from handwriting.writer import Writer, load_network
from model import Config, Model
from utils import save_checkpoint

# ------------------------------------------------------------------------------------------------------------ sampling


def test_bias_makes_the_hand_even(checkpoints):
    spread = [
        generate.generate_unconditionally(steps=200, bias=bias, checkpoint=checkpoints / "rand_write.pt")[0].points.std(
            0
        )
        for bias in (0.0, 2.0)
    ]
    assert (spread[1][:2] < 0.5 * spread[0][:2]).all()


def test_functions_return_whiteboard_units_and_window_weights(checkpoints):
    given = {"checkpoint": checkpoints / "synthesis.pt", "retries": 0}
    lines = generate.generate_conditionally("a7", samples=2, seed=5, **given)
    assert len(lines) == 2 and all(line.phi.shape[1] == 3 for line in lines)
    again = generate.generate_conditionally("a7", seed=6, **given)
    np.testing.assert_allclose(again[0].points, lines[1].points, atol=1e-3)
    assert 10 < np.abs(lines[0].points[:, 0]).mean() < 200  # the deviation is 40
    for wrong in ({"samples": 0}, {"steps": 0}, {"bias": -1}, {"bias": float("nan")}, {"seed": -1}, {"retries": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            generate.generate_unconditionally(checkpoint=checkpoints / "rand_write.pt", **wrong)
    with pytest.raises(InputError, match="empty"):
        generate.generate_conditionally(" ", **given)
    assert generate.generate_conditionally("\u00e4b", **given)[0].text == "ab"
    with pytest.raises(InputError, match="other task"):
        generate.generate_unconditionally(checkpoint=checkpoints / "synthesis.pt")


# --------------------------------------------------------------------------------------------------------------- texts

LEARNED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ '\"-.,"


def test_encode():
    charset = " abcxyz"
    codes = Alphabet(charset).encode("a cab zz")
    assert codes.dtype == np.int64 and "".join(charset[code] for code in codes) == "a cab zz"
    assert Alphabet(charset).encode("").shape == (0,)
    with pytest.raises(InputError, match="'\xe9' '\u2026'; "):
        Alphabet(charset).encode("a\xe9b\u2026\xe9")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        ("\u201cCaf\u00e9\u201d \u2014 it\u2019s na\u00efve\u2026", '"Caf\u00e9" - it\'s na\u00efve...'),
        ("Stra\u00dfe, \u0141\u00f3d\u017a, \u00c6r\u00f8", "Strasse, \u0141\u00f3d\u017a, Aer\u00f8"),
        ("e\u0301 and \ufb01", "\u00e9 and fi"),
        ("x\u0301, e\u0301\u0301, soft\u00adhyphen, zero\u200bwidth\ufe0f", "x, \u00e9, softhyphen, zerowidth"),
        ("  two\nlines\tand\u00a0blanks ", "two lines and blanks"),
    ],
)
def test_what_has_a_plain_form_is_replaced_and_told(text, expected):
    (prepared,), told = Alphabet(LEARNED).prepare([text])
    assert prepared.text == expected
    strange = {c for c in text if not c.isspace() and c not in LEARNED}
    assert bool(told) == bool(strange)
    assert len(told) == len(set(told))


def test_unknown_characters_are_named():
    with pytest.raises(InputError) as error:
        Alphabet(LEARNED).prepare(["a 5 \u65e5 b \u00e9 \u0439"])
    named = str(error.value).split(";")[0]
    assert [word for word in named.split() if word[0] == "'"] == ["'5'", "'\u0439'", "'\u65e5'"]
    for empty in ("", " \n"):
        with pytest.raises(InputError, match="empty"):
            Alphabet(LEARNED).prepare([empty])


# -------------------------------------------------------------------------------------------------------- command line


def run(*arguments):
    """The command line, by default with lines as they come: nobody can read what these networks write."""
    arguments = [*map(str, arguments)]
    generate.main(arguments if "--retries" in arguments else [*arguments, "--retries", "0"])


def test_several_texts_are_several_lines(checkpoints):
    given = {"checkpoint": checkpoints / "synthesis.pt", "steps": 40, "retries": 0}
    lines = generate.generate_conditionally(["ab", "c7a"], samples=2, seed=3, **given)
    assert [line.text for line in lines] == ["ab", "ab", "c7a", "c7a"]
    (third,) = generate.generate_conditionally("c7a", seed=5, **given)
    np.testing.assert_allclose(third.points, lines[2].points, atol=1e-3)
    assert generate.generate_conditionally([], **given) == []


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_come_out_the_same_each_time(checkpoints, tmp_path, ending, magic):
    files = [tmp_path / f"{n}.{ending}" for n in range(2)]
    for file in files:
        run("abc7", "--checkpoint", checkpoints / "synthesis.pt", "--output", file, "--seed", 4)
    assert files[0].read_bytes().startswith(magic)
    assert files[0].read_bytes() == files[1].read_bytes()
    run("abc7", "--checkpoint", checkpoints / "synthesis.pt", "--output", files[1], "--seed", 5)
    assert files[0].read_bytes() != files[1].read_bytes()


@pytest.mark.parametrize(("output", "others"), [("a.png", "png"), ("a.svg", "svg"), ("a.json", "png")])
def test_pictures_of_window_and_density(checkpoints, tmp_path, capsys, output, others):
    given = ["--checkpoint", checkpoints / "synthesis.pt", "--output", tmp_path / output]
    run("abc7", *given, "--attention", "--density")
    written = {output, f"a_attention.{others}", f"a_density.{others}"}
    assert {path.name for path in tmp_path.iterdir()} == written
    assert capsys.readouterr().out.count("wrote") == 3


@pytest.mark.parametrize("deviation", [0.3, 1.0, 4.0, 15.0])
def test_density_adds_up_to_one_for_each_point_where_the_pen_is(checkpoints, deviation):
    model = load_network(checkpoints / "rand_write.pt", "rand_write").model
    points = np.array([[0, 0, 0], [31, 7, 0], [6, -12, 1], [90, 3, 1]], dtype=np.float32)
    outputs = np.zeros((3, 19), dtype=np.float32)  # the end of stroke, and six numbers of each of 3 components
    outputs[:, 1:4] = [2.0, 2.0, -20.0]
    outputs[:, 4:10] = np.random.default_rng(0).normal(0, 0.2, (3, 6))  # means
    outputs[:, 10:13], outputs[:, 13:16] = np.log(deviation / 40), np.log(deviation / 35)
    outputs[:, 16:] = [0.5, -2.0, 0.0]
    density, extent = density_map(model, Line(points, outputs, None, None), 0.0)
    assert extent[0] < extent[1] and extent[3] < extent[2]  # y downwards
    mass = density * 4.0 * 4.0  # cells of 4 by 4 whiteboard units
    assert mass.sum() == pytest.approx(3, rel=0.01)
    places = [low + 4 * (np.arange(size) + 0.5) for low, size in zip(extent[::3], mass.shape[::-1], strict=True)]
    center = (mass.sum(0) @ places[0] / mass.sum(), mass.sum(1) @ places[1] / mass.sum())
    starts = np.cumsum(points[:3, :2], axis=0)  # of each step
    means = np.stack([outputs[:, 4:6].mean(1) * 40 + 8, outputs[:, 7:9].mean(1) * 35], axis=1)
    np.testing.assert_allclose(center, (starts + means).mean(0), atol=1.0)  # a quarter of a cell


@pytest.mark.parametrize(("sigma", "rho"), [((0.3, 0.3), 0.0), ((9.0, 2.0), -0.7), ((25.0, 30.0), 0.97)])
def test_densities_are_those_of_a_normal_distribution_that_is_blurred(checkpoints, sigma, rho):
    model = load_network(checkpoints / "rand_write.pt", "rand_write").model
    outputs = np.zeros((1, 19), dtype=np.float32)
    outputs[:, 1:4] = [20.0, -20.0, -20.0]
    outputs[:, 10:13], outputs[:, 13:16] = np.log(np.array(sigma) / [40, 35])[:, None]
    outputs[:, 16:] = np.arctanh(rho)
    density, extent = density_map(model, Line(np.zeros((2, 3), np.float32), outputs, None, None), 0.0)
    cross, blur = rho * sigma[0] * sigma[1], (0.6 * 4) ** 2
    covariance = torch.tensor([[sigma[0] ** 2 + blur, cross], [cross, sigma[1] ** 2 + blur]])
    x, y = (low + 4 * (np.arange(size) + 0.5) for low, size in zip(extent[::3], density.shape[::-1], strict=True))
    places = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1)).float()  # (rows, columns, 2)
    expected = torch.distributions.MultivariateNormal(torch.tensor([8.0, 0.0]), covariance).log_prob(places).exp()
    np.testing.assert_allclose(density, expected, atol=1e-4 * density.max())


def test_density_of_a_line_that_jumps_first(checkpoints):
    model = load_network(checkpoints / "rand_write.pt", "rand_write").model
    points = np.array([[0, 0, 0], [300, 0, 0], [3, 3, 1]], dtype=np.float32)
    line = Line(points, np.zeros((2, 19), dtype=np.float32), None, None)
    density, _ = density_map(model, line, 0.0)
    assert density.sum() > 0


def test_every_point_is_drawn():
    points = np.array([[0, 0, 0], [1, 2, 0], [3, 0, 1], [5, 5, 1], [1, 1, 0], [1, 0, 0]], dtype=np.float32)
    strokes = to_strokes(points)
    assert [len(stroke) for stroke in strokes] == [3, 1, 2]
    np.testing.assert_array_equal(np.concatenate(strokes), np.cumsum(points[:, :2], axis=0))


def test_generation_as_a_user_runs_it(checkpoints, tmp_path):
    command = ["generate.py", "a\u00e4b", "--checkpoint", checkpoints / "synthesis.pt", "--retries", 0]
    result = run_script(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "wrote 'a' for '\u00e4'" in result.stderr
    assert (tmp_path / "examples" / "synthesis.png").stat().st_size > 1000
    result = run_script(*command, "--output", tmp_path / "x.jpeg")
    assert_refused(result, "x.jpeg", ".svg")


def test_bad_input_is_named(checkpoints, tmp_path):
    good = ["--checkpoint", checkpoints / "synthesis.pt", "--output", tmp_path / "a.png"]
    (tmp_path / "bad.pt").write_bytes(b"nonsense")
    for arguments, word in [
        ([*good], "no text"), (["", *good], "empty"), (["ab?", *good], r"'\?'"), (["a b", *good], "' '"),
        (["ab", *good, "--bias", "-1"], "bias"), (["ab", *good, "--samples", "0"], "samples"),
        (["ab", *good, "--steps", "0"], "steps"),
        (["ab", *good, "--retries", "-1"], "retries"), (["ab", *good, "--task", "rand_write"], "takes no text"),
        (["--task", "rand_write", *good], "other task"), (["--task", "rand_write", "--attention"], "--attention"),
        (["ab", "--checkpoint", tmp_path / "none.pt"], "none.pt"),
        (["ab", "--checkpoint", tmp_path / "bad.pt"], "bad.pt"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=word):
            run(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_lines_too_long_or_too_many_are_refused_before_the_start(checkpoints, monkeypatch):
    texts = {"checkpoint": checkpoints / "synthesis.pt"}
    with pytest.raises(InputError, match="2001 characters are too long for a line"):
        generate.generate_conditionally("a" * 2001, **texts)
    monkeypatch.setattr(Sampler, "write", lambda *_: pytest.fail("it began to write"))
    with pytest.raises(InputError, match="10000 lines of up to 100000 steps could need 12 GB"):
        generate.generate_unconditionally(samples=10_000, steps=100_000, checkpoint=checkpoints / "rand_write.pt")
    with pytest.raises(InputError, match="could need"):
        writer = Writer(checkpoints / "synthesis.pt")
        writer.write_raw([writer.prepare("a" * 2000)] * 64, range(64))
    caps = []
    monkeypatch.setattr(
        "handwriting.writer.write_checked", lambda network, texts, seeds, biases, steps, *_: caps.extend(steps) or []
    )
    generate.generate_conditionally("a" * 2000, **texts)
    assert caps == [default_steps("a" * 2000)]


# -------------------------------------------------------------------------------------------------------------- checks


class StubRecogniser:
    """Says what `answer(points)` says, and keeps what it was shown."""

    def __init__(self, answer):
        self.answer, self.shown = answer, []
        self.config = RecogniserConfig(CHARSET)

    def read(self, lines):
        self.shown.append(lines)
        return [self.answer(points) for points in lines]


def test_a_text_that_the_reader_has_no_characters_for_is_not_its_to_judge(monkeypatch):
    monkeypatch.setattr(checks, "find_recogniser", lambda _: StubRecogniser(lambda points: "x"))
    ink = np.tile(np.float32([20, 0, 0]), (30, 1))
    lines = [Line(ink, None, np.ones((29, 4)), True, text) for text in ("abc", "\u00e4bc")]
    assert [bool(verdict.fault) for verdict in checks.check_lines(lines, with_recogniser=True)] == [True, False]


@pytest.fixture
def put_recogniser(monkeypatch):
    """Puts a function in the place of `load_recogniser`."""

    def put(load):
        checks.find_recogniser.cache_clear()
        monkeypatch.setattr(checks, "load_recogniser", lambda *_: load())
        monkeypatch.setattr(checks, "judge_marks", lambda line: {})  # there is no sense in that of untrained networks

    yield put
    checks.find_recogniser.cache_clear()


def resting_points(runs):
    """Points that run at 30 units a step, but rest for so many steps now and then."""
    offsets = [[0, 0, 0]]
    for run in runs:
        offsets += [[30, 0, 0]] + [[1, 2, 0]] * run
    return np.array(offsets, dtype=np.float32)


@pytest.mark.parametrize(("runs", "longest"), [([0], 0), ([3, 21, 5], 21), ([4, 1, 0], 4), ([1, 0, 7], 7)])
def test_the_longest_rest_is_counted(runs, longest):
    assert longest_rest(resting_points(runs)) == longest
    assert longest_rest(np.zeros((1, 3), dtype=np.float32)) == 0  # the pen's touch-down is no step


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (Verdict(True, 20, "a line of text", "a line of text"), ""),
        (Verdict(True, 0, " a line of text ", "a lime of tex"), ""),  # 2 of 14
        (Verdict(True, 0, "a line of text", "A lime tot"), "A lime tot"),
        (Verdict(True, 0, "Q", "9"), ""),  # one character may be the recogniser's mistake
        (Verdict(True, 0, "Q", "97"), "97"),
        (Verdict(True, 0, "Q7", None), ""),
        (Verdict(True, 0, "x 2 + y 1   5", "F2t Y1 5"), "F2t"),
        (Verdict(True, 0, "x 2 + y 1   5", "F2t Y1 5", has_signs=True), ""),  # drawn: ^, _ and =
        (Verdict(True, 0, "x 2 + y 1   5", "F2 Z5", has_signs=True), "F2 Z5"),
        (Verdict(False, 0, "ab", "ab"), "cap"),
        (Verdict(True, 21, "ab", "ab"), "rests for 21"),
        (Verdict(None, 21), "rests"),
        (Verdict(None, 20), ""),
    ],
)
def test_what_counts_as_wrong(verdict, word):
    assert word in verdict.fault and bool(word) == bool(verdict.fault)


@pytest.mark.parametrize(
    ("verdict", "is_doubtful"),
    [
        (Verdict(True, 0, "a line of text", "a lime of text"), True),
        (Verdict(True, 0, "a line of text", "a line  of text"), False),
        (Verdict(True, 0, "a line", "a line", stray=1), False),
        (Verdict(True, 0, "a line", "a line", stray=2), True),
        (Verdict(True, 0, "a line", "a line", lacking=1), True),
        (Verdict(True, 0, "6:30", "6:36"), True),
        (Verdict(True, 0, "6:30", "6:30"), False),
        (Verdict(True, 0, "6:30", None), False),
        (Verdict(True, 21, "6:30", "6:30"), True),
        (Verdict(None, 0), False),
    ],
)
def test_what_is_worth_another_try(verdict, is_doubtful):
    assert verdict.is_doubtful == is_doubtful


def test_doubtful_lines_alone_are_written_again(checkpoints, put_recogniser):
    given = {"samples": 4, "seed": 5, "checkpoint": checkpoints / "synthesis.pt"}
    first = generate.generate_conditionally("abc7", retries=0, **given)
    wrong = [first[0].points[1, 0], first[2].points[1, 0]]  # told by their first step; its last digits may differ
    stub = StubRecogniser(lambda points: "" if np.isclose(points[1, 0], wrong, atol=1e-3).any() else "abc7")
    put_recogniser(lambda: stub)
    lines = generate.generate_conditionally("abc7", **given)
    assert [len(shown) for shown in stub.shown] == [4, 4]  # two tries at each of two lines, side by side
    for number, (line, before) in enumerate(zip(lines, first, strict=True)):
        assert line.fault == "" and line.text == "abc7"
        assert np.array_equal(line.points, before.points) == (number in (1, 3))
    assert not np.array_equal(lines[0].points, lines[2].points)
    again = generate.generate_conditionally("abc7", **given)
    assert all(np.array_equal(a.points, b.points) for a, b in zip(lines, again, strict=True))
    alone = generate.generate_conditionally("abc7", **given | {"samples": 1, "seed": 7})
    np.testing.assert_allclose(alone[0].points, lines[2].points, atol=1e-3)  # whoever is beside it


def test_a_line_that_stays_doubtful_is_no_fault(checkpoints, put_recogniser):
    reads = iter(["7", "ab", "77", "9"])
    stub = StubRecogniser(lambda points: next(reads))
    put_recogniser(lambda: stub)
    (line,) = generate.generate_conditionally("ab7", checkpoint=checkpoints / "synthesis.pt", retries=3)
    assert [len(shown) for shown in stub.shown] == [1, 2, 1] and line.fault == "" and line.read == "ab"
    np.testing.assert_array_equal(line.points, stub.shown[1][0])


def test_more_than_two_tries_are_only_for_what_is_doubtful_still(checkpoints, put_recogniser):
    given = {"checkpoint": checkpoints / "synthesis.pt", "retries": 7}
    all_tries = [1, 2, 2, 2, 1]
    for reads, shown in ((["7"] * 2 + ["ab7"], [1, 2]), (["7"] * 8, all_tries), (["7"] * 7 + ["ab7"], all_tries)):
        told = iter(reads)
        stub = StubRecogniser(lambda points, told=told: next(told))
        put_recogniser(lambda stub=stub: stub)
        (line,) = generate.generate_conditionally("ab7", **given)
        assert [len(each) for each in stub.shown] == shown and line.read == ("ab7" if "ab7" in reads else "7")


def test_each_further_try_is_in_a_weaker_hand(checkpoints, put_recogniser, monkeypatch):
    put_recogniser(lambda: StubRecogniser(lambda points: ""))
    writer = Writer(checkpoints / "hands.pt", retries=20)
    network, given = writer.network, []
    monkeypatch.setattr(network.sampler, "write", lambda *a, w=network.sampler.write: given.extend(a[6]) or w(*a))
    writer.write("ab")
    mean = network.model.get_buffer("hand_mean").numpy()
    of_mean, of_hand = (steer(hand, network.model, network.encoder) for hand in (mean, writer.hand_of(0)))
    wanted = [of_mean + max(1 - 0.03 * number, 0.5) * (of_hand - of_mean) for number in range(21)]
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-6)
    assert not np.allclose(of_hand, of_mean, atol=1e-2)


def test_the_best_of_wrong_lines_is_kept(checkpoints, put_recogniser):
    reads = iter(["", "abcbb", "b", ""])  # 8, 4, 7 and 8 errors
    stub = StubRecogniser(lambda points: next(reads))
    put_recogniser(lambda: stub)
    (line,) = generate.generate_conditionally("abcaabca", checkpoint=checkpoints / "synthesis.pt", retries=3)
    assert [len(shown) for shown in stub.shown] == [1, 2, 1]
    np.testing.assert_array_equal(line.points, stub.shown[1][0])
    assert "'abcbb'" in line.fault


def strokes_of(*shapes):
    """Points of strokes, each given by its corners in x-heights of 100 units; a wave of 6 letters comes first."""
    wave = [(x / 4, 0.5 - 0.5 * np.cos(x)) for x in np.arange(0, 6 * 2 * np.pi, 0.4)]
    strokes = [np.array(shape, float) * [100, -100] for shape in (wave, *shapes)]
    return to_points(strokes)


STEM, BODY = [(1, 0), (1, 1.7)], [(1, 0), (1, 0.9)]  # of a t, of an i
RISE, FALL = [(0.7, 0), (1.2, 1)], [(0.7, 1), (1.3, 0)]  # of an x
POSTS = [[(x, 1.7), (x, 0)] for x in range(3, 8)]  # of letters behind it, which have no slant
BAR, JOINED = [(0.7, 1.3), (1.4, 1.35)], [(1.0, 0), (1.0, 1.6), (0.7, 1.1), (1.4, 1.2)]


@pytest.mark.parametrize(
    ("shapes", "text", "expected"),
    [([], "oooo", (0, 0)), ([[(1, 1.5), (1.05, 1.5)]], "oooo", (1, 0)),
     ([BODY, [(1, 1.5), (1.05, 1.5)]], "oioo", (0, 0)), ([BODY, [(1, 1.5), (1.4, 1.9)]], "oioo", (0, 0)),
     ([BODY], "oioo", (0, 1)), ([BODY, [(4, 1.5), (4.05, 1.5)]], "oioo", (0, 1)),
     ([BODY, [(1, 0.5), (1.05, 0.5)]], "ojoo", (0, 1)),
     ([STEM, BAR], "otoo", (0, 0)), ([JOINED], "otoo", (0, 0)), ([STEM], "otoo", (0, 1)),
     ([STEM, [(1, 1.3), (1.1, 1.3)]], "otoo", (1, 1)), ([STEM, [(1.4, 1.3), (2.1, 1.3)]], "otoo", (0, 1)),
     ([STEM, [(0.7, 0.1), (1.4, 0.1)]], "otoo", (0, 1)), ([STEM, [(0.7, 1.0), (1.1, 1.6)]], "otoo", (0, 1)),
     ([[(1, 0.3), (1, 0.4)], [(1, 0.9), (1, 0.95)]], "oo:o", (0, 0)),
     ([STEM, [(1, 0.1), (1.1, 0.1)]], "o!oo", (0, 0)), ([STEM, [(1, 0.7), (1.1, 0.7)]], "o?oo", (0, 1)),
     ([STEM, [(0.9, 1.7), (1.5, 1.7)]], "o5oo", (0, 0)), ([STEM], "o5oo", (0, 1)),
     ([STEM, [(0.9, 0.8), (1.5, 0.8)]], "o5oo", (0, 1)),
     ([[*RISE, *FALL], *POSTS], "oxoo", (0, 0)), ([[*FALL, *RISE], *POSTS], "oXoo", (0, 0)),
     ([RISE, *POSTS], "oxoo", (0, 1)), ([[*RISE, (0.7, 0.5), (1.3, 0.5)], *POSTS], "oxoo", (0, 1)),
     ([[*STEM, (1, 0.9), (0.6, 0.9), (1.4, 0.9)], *POSTS], "oxoo", (0, 1))],
)  # fmt: skip
def test_stray_dots_and_marks_that_lack(shapes, text, expected):
    """The first shape is the letter at place 1; a bar that is a dot is both stray and lacking."""
    points = strokes_of(*shapes)
    own = [len(stroke) for stroke in to_strokes(points)]
    characters = np.repeat([0, 1, *[2] * len(own)][: len(own)], own)
    line = Line(points, None, np.eye(len(text) + 1)[characters[1:]], True, text)
    assert tuple(checks.judge_marks(line).values()) == expected


def test_a_letter_without_ink_lacks_its_mark():
    line = Line(points := strokes_of(), None, np.eye(5)[np.zeros(len(points) - 1, int)], True, "oito")
    assert checks.judge_marks(line)["lacking"] == 2


def test_blanks_for_signs_are_known_to_the_checks(checkpoints, put_recogniser):
    put_recogniser(lambda: StubRecogniser(lambda points: "abc"))
    writer = Writer(checkpoints / "hands.pt", retries=1)
    lines = writer.write_raw([writer.prepare(text) for text in ("a b c", "a=b=c", "\u00e1 b c")], [1, 2, 3])
    assert [line.has_signs for line in lines] == [False, True, False]
    assert [line.wrong for line in lines] == [0.4, 0, 0.4]


def test_ink_that_is_none_is_no_good_try(put_recogniser):
    """Nothing can be read in it, which is as bad as all read wrong."""
    put_recogniser(lambda: StubRecogniser(lambda points: "ab" if len(points) > 1 and np.isfinite(points).all() else ""))
    ink = np.ones((5, 3), np.float32)
    inks = [ink, ink[:1], ink[:0], ink * np.nan]
    right, *others = checks.check_lines([Line(each, None, None, True, "ab") for each in inks], with_recogniser=True)
    assert right.errors == 0 and [other.errors for other in others] == [2, 2, 2]
    assert all(right.sort_key < other.sort_key and other.is_doubtful for other in others)


def test_of_lines_that_read_the_same_the_one_with_its_marks_is_better():
    whole, dotted = Verdict(True, 0, "at", "at"), Verdict(True, 0, "at", "at", stray=2, lacking=1)
    assert whole.sort_key < dotted.sort_key < Verdict(True, 0, "at", "al").sort_key
    near, far = (Verdict(True, 0, "at", "at", distance=distance) for distance in (0.4, 0.9))
    assert near.sort_key < far.sort_key < dotted.sort_key


def test_a_right_line_is_better_than_a_wrong_one_that_reads_better(checkpoints):
    right, wrong = Verdict(True, 5, "abcdefgh", "abcdefxy"), Verdict(True, 30, "abcdefgh", "abcdefgh")
    assert right.sort_key < wrong.sort_key < Verdict(False, 30, "abcdefgh", "abcdefgh").sort_key


def test_the_reader_is_loaded_after_the_ink_and_only_if_it_is_asked(checkpoints, put_recogniser, monkeypatch):
    order = []
    written = Sampler.write
    monkeypatch.setattr(Sampler, "write", lambda *given: order.append("ink") or written(*given))
    put_recogniser(lambda: order.append("recogniser") or StubRecogniser(lambda points: "ab"))
    given = {"checkpoint": checkpoints / "synthesis.pt", "steps": 20}
    (line,) = generate.generate_conditionally("ab", retries=0, **given)
    generate.generate_unconditionally(steps=20, checkpoint=checkpoints / "rand_write.pt")
    assert order == ["ink", "ink"] and "cap" in line.fault  # which needs no recogniser
    generate.generate_conditionally("ab", retries=1, **given)
    assert order == ["ink"] * 3 + ["recogniser", "ink"]


def test_without_a_reader_the_other_checks_go_on(checkpoints, put_recogniser, monkeypatch, capsys, tmp_path):
    path = tmp_path / "recogniser.pt"
    monkeypatch.setattr(checks, "SHIPPED_RECOGNISER", path)
    put_recogniser(lambda: load_recogniser(path))
    given = {"checkpoint": checkpoints / "synthesis.pt"}
    assert not generate.generate_conditionally("ab", **given)[0].fault
    assert "cap" in generate.generate_conditionally("ab", steps=9, **given)[0].fault
    assert capsys.readouterr().err.count("note: ") == 1
    path.write_bytes(b"nonsense")
    checks.find_recogniser.cache_clear()
    with pytest.raises(InputError, match="damaged"):
        generate.generate_conditionally("ab", **given)


def test_what_stays_wrong_is_told_after_the_picture(checkpoints, put_recogniser, tmp_path):
    put_recogniser(lambda: StubRecogniser(lambda points: "7Q"))
    given = ["--checkpoint", checkpoints / "synthesis.pt", "--output", tmp_path / "a.png", "--seed", 4]
    with pytest.raises(ResultError, match=r"after 3 tries: line 2 \(seed 5\): it reads '7Q'; try") as error:
        run("7Q", "ab", *given, "--retries", 2)
    assert "line 1" not in str(error.value)
    assert (tmp_path / "a.png").stat().st_size > 1000
    run("7Q", "ab", *given, "--retries", 0)


def test_a_pen_that_rests_ends_with_status_3(tmp_path):
    torch.manual_seed(0)
    model = Model(Config(cell_size=8, num_clusters=3))
    model.std.fill_(0.1)
    save_checkpoint(tmp_path / "a.pt", model, "", [], task="rand_write")
    command = ["generate.py", "--task", "rand_write", "--checkpoint", tmp_path / "a.pt", "--steps", 50]
    result = run_script(*command, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    (told,) = result.stderr.splitlines()
    assert told.startswith("error: still wrong after 8 tries: line 1 (seed 0): the pen rests for 50 steps")
    picture = (tmp_path / "examples" / "rand_write.png").read_bytes()
    result = run_script(*command, "--retries", 0, cwd=tmp_path)
    assert result.returncode == 0 and result.stderr.startswith("note: line 1")
    assert picture == (tmp_path / "examples" / "rand_write.png").read_bytes()  # all tries as bad: the first is kept
