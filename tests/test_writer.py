"""Lines, pages and batches in one hand. Small untrained networks write no letters, so nobody reads their lines."""

import io
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from batches import write_many
from conftest import ROOT, assert_refused, environment, run_script
from made_up_ink import write_line

import generate
from handwriting import hands
from handwriting import writer as writer_module
from handwriting.bulk import MANIFEST
from handwriting.hands import list_styles, load_prime, load_style
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import find_level, to_writing_scale
from handwriting.ink.read_ink import read_ink, read_lines
from handwriting.kernels.products import HAS_FP16_PACKING
from handwriting.limits import MOST_ATTEMPTS
from handwriting.pages import PageFormat
from handwriting.program import InputError, ResultError
from handwriting.writer import Writer

TEXT = "ab ca 7ab cabc ab a ccc abab bcab\n\nabc abc"
PAGE = PageFormat(100, 100, margins=(10, 10, 10, 10), x_height=2.5)


@pytest.fixture
def small(checkpoints):
    """A writer with a small network that reads no hands."""
    return Writer(checkpoints / "blanks.pt", retries=0)


@pytest.fixture
def styles(monkeypatch, tmp_path):
    """Two hands among the shipped ones, `large` and `small`."""
    folder = tmp_path / "styles"
    folder.mkdir()
    monkeypatch.setattr(hands, "STYLES", folder)
    for name, x_height in (("large", 160.0), ("small", 80.0)):
        write_line("cab abc ca", x_height=x_height).save(folder / f"{name}.json")
    return folder


def same_ink(one: Ink, other: Ink) -> bool:
    return np.array_equal(one.points, other.points) and one.text == other.text


def run(*arguments):
    """The command line, with lines as they come."""
    generate.main([*map(str, arguments), "--retries", "0"])


# One hand


def test_writing_goes_on_in_the_hand_that_it_is_given():
    ink = Writer(seed=3).write("We saw her again in a warm room.")
    heights = []
    for size in (0.7, 1.4):
        hand = replace(ink, points=ink.points * np.float32([size, size, 1]))
        written = Writer(style=hand).write_lines(["the old garden", "some more words"], [1, 2])
        assert [line.fault for line in written] == ["", ""]
        heights.append([find_level(line.strokes).x_height for line in written])
    assert (np.array(heights[1]) > 1.3 * np.array(heights[0])).all()


def test_the_shipped_network_writes_a_page():
    page_format = PageFormat(120, 80, margins=20, x_height=2.5)
    pages = Writer(seed=3).page("Dear Anna,\n\nwe are well, and saw Lucy on Monday.", page_format)
    lines = [placed for page in pages for placed in page.lines]
    texts = [placed.ink.text for placed in lines]
    assert " ".join(texts) == "Dear Anna, we are well, and saw Lucy on Monday."
    assert [placed.ink.fault for placed in lines] == [""] * len(texts)
    for placed in lines:
        x, y = np.concatenate(placed.strokes).T
        assert x.min() > 19.9 and x.max() < 100.1 and y.min() > 0 and y.max() < 80
    # A character belongs to ink that is further to the right the later it is in the text.
    ink = lines[-1].ink
    x = np.cumsum(ink.points[:, 0])
    known = ink.characters >= 0
    assert known.mean() > 0.95 and np.corrcoef(ink.characters[known], x[known])[0, 1] > 0.95


def test_threads_write_the_same_ink_as_one(checkpoints):
    hand = Writer(checkpoints / "blanks.pt", style=write_line("ab ca"), retries=0)
    texts = ["abc abc", "cab", "7a bca", "bb cc aa"] * 4
    alone = [hand.write(text, seed) for seed, text in enumerate(texts)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(hand.write, texts, range(len(texts))))
    assert all(same_ink(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.skipif(
    not HAS_FP16_PACKING, reason="products in half precision, which are the same for each row, are x86's"
)
def test_ink_does_not_depend_on_the_lines_beside_it():
    """To the last bit: odd and even numbers of lines, ends at different times, hands of their own."""
    texts = ["Dear Anna,", "we are well, and saw Lucy", "a", "on Monday.", "Yours"]
    writer, seeds = Writer(seed=3), range(5)
    together = writer.write_lines(texts, seeds, [1, 2, 3, 1, 1])
    others = writer.write_lines(texts[::-1][1:], seeds[::-1][1:], [1, 3, 2, 1])[::-1]
    alone = [writer.write_lines([texts[n]], [seeds[n]], [hand])[0] for n, hand in ((1, 2), (4, 1))]
    assert all(same_ink(*pair) for pair in zip(together, others, strict=False))
    assert same_ink(together[1], alone[0]) and same_ink(together[4], alone[1])


def test_writers_can_be_pickled_and_seeds_be_numpys(checkpoints):
    writer = Writer(checkpoints / "blanks.pt", prime=write_line("ab ca"), retries=0, seed=np.int64(3))
    before = writer.write("cab")
    assert same_ink(before, pickle.loads(pickle.dumps(writer)).write("cab", np.int64(3))) and type(before.seed) is int


def test_a_style_of_many_letters_is_refused_in_a_line(checkpoints):
    with pytest.raises(InputError, match=r"no style 'a{60}'"):
        Writer(checkpoints / "hands.pt", "a" * 5000)


def test_names_of_files_are_printed_safely(checkpoints, tmp_path, capsys):
    run("ab", "--checkpoint", checkpoints / "blanks.pt", "--output", tmp_path / "a\x1b[31m\n\u202eb.json")
    assert capsys.readouterr().out.endswith("a\\x1b[31m\\n\\u202eb.json\n")


def test_ink_tells_what_it_was_written_by(small, styles, checkpoints):
    ink = Writer(checkpoints / "blanks.pt", "large", bias=0.3, seed=7, retries=0).write("ab c")
    assert (ink.text, ink.seed, ink.bias, ink.style, ink.fault) == ("ab c", 7, 0.3, "large", "")
    assert ink.checkpoint == small.network.hash and len(ink.characters) == len(ink.points)
    assert set(ink.characters) <= {-1, 0, 1, 2, 3}


def test_no_ink_is_refused(small):
    text = small.prepare("ab")
    line = small.write_raw([text], [0])[0]
    for points, word in (
        (line.points[:0], "nothing"), (line.points[:1], "nothing"), (line.points * np.nan, "bounds"),
        (line.points * np.float32(1e30), "bounds"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            small.to_ink(replace(line, points=points), text, 0)


# Hands from files


def test_styles_are_found_by_name(styles, checkpoints, monkeypatch):
    assert list_styles() == ["large", "small"]
    assert load_style("small").text == "cab abc ca"
    with pytest.raises(InputError, match="no style 'wide'; choose large, small"):
        Writer(checkpoints / "blanks.pt", "wide")
    monkeypatch.setattr(hands, "STYLES", styles / "none")
    with pytest.raises(InputError, match="there are no hands in"):
        Writer(checkpoints / "blanks.pt", "wide")


def test_a_hand_from_elsewhere_is_brought_to_the_scale_of_recorded_lines(tmp_path):
    ink = write_line("abc ab cab", scale=0.01, slope=0.1)
    ink.save(tmp_path / "hand.inkml")
    hand = load_prime(tmp_path / "hand.inkml", force=True)
    assert hand.text == ink.text and hand.style == "hand"
    np.testing.assert_allclose(hand.points, to_writing_scale(read_ink(tmp_path / "hand.inkml").strokes), atol=1e-3)
    assert find_level(hand.strokes).x_height == pytest.approx(130, rel=0.1)
    large = write_line("abc ab cab", x_height=400.0)
    large.save(tmp_path / "raw.json")
    raw = load_prime(tmp_path / "raw.json", force=True)
    np.testing.assert_allclose(raw.points, large.points, atol=0.01)  # as it was written
    assert load_prime(tmp_path / "raw.json", " abc  ab\ncab", force=True).text == "abc ab cab"


def test_ink_that_is_no_hand_is_refused(tmp_path):
    write_line("abc ab cab").save(tmp_path / "hand.json")
    Ink(write_line("ab").points).save(tmp_path / "mute.json")
    Ink(np.zeros((3, 3)), "ab").save(tmp_path / "dots.json")
    for name, text, word in (
        ("mute.json", None, "--prime_text"), ("hand.json", " ", "--prime_text"), ("hand.json", "a", "too short"),
        ("hand.json", "abc" * 40, "too long"), ("hand.json", "a\0b", "text"), ("dots.json", None, "extent"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word) as error:
            load_prime(tmp_path / name, text)
        assert str(error.value).startswith(str(tmp_path / name))


def test_a_prime_is_written_after(checkpoints, tmp_path):
    write_line("abc ab").save(tmp_path / "hand.svg")  # in mm
    given = ["--checkpoint", checkpoints / "blanks.pt", "--output", tmp_path / "a.json"]
    run("cab", *given)
    plain = read_ink(tmp_path / "a.json")
    run("cab", *given, "--prime", tmp_path / "hand.svg", "--force")
    primed = read_ink(tmp_path / "a.json")
    assert primed.style == "hand" and not np.array_equal(primed.points, plain.points)
    run("cab", *given, "--prime", tmp_path / "hand.svg", "--prime_text", "abc aa", "--force")
    assert not np.array_equal(primed.points, read_ink(tmp_path / "a.json").points)


def test_random_styles_follow_from_the_seed(styles, checkpoints, tmp_path):
    found = []
    for seed in range(8):
        given = ["--checkpoint", checkpoints / "blanks.pt", "--output", tmp_path / "a.json", "--seed", seed]
        run("cab", *given, "--style", "random")
        found.append(read_ink(tmp_path / "a.json").style)
    assert set(found) == {"large", "small"}


def test_a_sheet_of_styles(styles, monkeypatch, tmp_path):
    run("--list_styles", "--output", tmp_path / "sheet.json")
    texts = [ink.text for ink in read_lines(tmp_path / "sheet.json")]
    assert [text.partition(":")[0] for text in texts] == ["large", "small"]
    monkeypatch.setattr(hands, "STYLES", styles / "none")
    for flags in (["--list_styles"], ["ab", "--style", "random"]):
        with pytest.raises(InputError, match="there are no hands"):
            run(*flags, "--output", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


# Pages


def test_a_page_keeps_paragraphs_and_blank_lines(small):
    written = small.write_text(TEXT, PAGE)
    texts = [line.text for line in written.lines]
    blank = texts.index("")
    assert " ".join(texts[:blank]) == TEXT.split("\n")[0] and texts[blank + 1 :] == ["abc abc"] and blank > 1
    (page,) = small.page(TEXT, PAGE)
    baselines = [PAGE.baseline(row) for row, text in enumerate(texts) if text]
    for placed, y in zip(page.lines, baselines, strict=True):
        level = find_level(placed.strokes, PAGE.x_height)
        assert np.median(level.baseline) == pytest.approx(y, abs=6)


def test_the_same_seed_gives_the_same_page(checkpoints, small):
    first, again, other = (
        Writer(checkpoints / "blanks.pt", retries=0, seed=seed).page(TEXT, PAGE)[0].lines for seed in (3, 3, 4)
    )
    assert len(first) > 2 and all(same_ink(a.ink, b.ink) for a, b in zip(first, again, strict=True))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.concatenate(a.strokes), np.concatenate(b.strokes))
    assert not same_ink(first[0].ink, other[0].ink)


@pytest.mark.skipif(
    not HAS_FP16_PACKING, reason="products in half precision, which are the same for each row, are x86's"
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_line_added_to_a_letter_changes_no_other(place):
    """To the last bit, wherever it is, its jitter too; a paragraph that comes twice is not written twice the same."""
    letter = ["Dear Anna,", "", "we are well, and saw Lucy on Monday in the garden.", "Yours, Tom", "Dear Anna,"]
    page_format, writer = PageFormat(90, 200, jitter=0.5), Writer(seed=3)
    found = []
    for lines in (letter, [*letter[:place], "and one more line", *letter[place:]]):
        (page,) = writer.page("\n".join(lines), page_format)
        found.append([(line.ink, line.strokes[0][:, 0].tolist()) for line in page.lines])
    before, after = found
    own = [n for n, (ink, _) in enumerate(after) if ink.text in "and one more line"]
    after = [each for n, each in enumerate(after) if n not in own]
    assert len(own) == 1 and len(before) == len(after) >= 5
    for (ink, x), (other, other_x) in zip(before, after, strict=True):
        assert same_ink(ink, other) and ink.seed == other.seed and x == other_x
    assert not same_ink(before[0][0], before[-1][0])


def test_one_hand_has_one_size():
    writer = Writer(seed=3, retries=0)
    scales = [writer.write_text(text, PageFormat()).scale for text in ("ill", "A", "mmm and more of that kind")]
    assert len(set(scales)) == 1


def test_a_page_is_filled_with_letters_that_fit(small):
    text = "\n".join([TEXT] * 2) + "\n\n"
    assert len(small.page(text, PAGE)) > 1
    whole = small.write_text(text, replace(PAGE, fit=True))
    (page,) = small.page(text, replace(PAGE, fit=True))
    assert 1 <= whole.page_format.x_height < PAGE.x_height and len(page.lines) == sum(map(bool, whole.inks))
    assert small.write_text("ab ca", replace(PAGE, fit=True)).page_format.x_height == PAGE.x_height
    with pytest.raises(InputError, match="does not fit on a page of 100x100 mm"):
        small.write_text("\n".join([TEXT] * 40), replace(PAGE, fit=True))


def test_a_proof_has_a_number_for_each_line_and_what_to_redo(checkpoints, tmp_path, monkeypatch, capsys):
    real = Writer.write_lines

    def doubting(*given):
        return [replace(ink, doubts=(1,) if ink.text == "ca" else ()) for ink in real(*given)]

    monkeypatch.setattr(Writer, "write_lines", doubting)
    given = ["ab", "", "ca", "--page", "A6", "--checkpoint", checkpoints / "blanks.pt", "--output", tmp_path / "a.svg"]
    run(*given, "--proof")
    drawn = (tmp_path / "a_proof.svg").read_text()
    assert "<!-- 1 -->" in drawn and "<!-- 2 -->" in drawn and "<!-- 3 -->" not in drawn
    assert drawn.count("#ff0000") > (tmp_path / "a.svg").read_text().count("#ff0000") == 0
    assert "note: --redo 2 writes anew" in capsys.readouterr().err
    run(*given, "--proof", "--redo", "1,2:4")
    assert "note: --redo 1,2:5 writes anew" in capsys.readouterr().err
    monkeypatch.setattr(Writer, "write_lines", real)
    run(*given, "--proof")
    assert "note: no word is doubted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "word"),
    [(["--page", "A4", "--output", "a.png", "--dpi", "2400"], "dpi"), (["--output", "c.xml"], "c-02.xml"),
     (["--attention", "--output", "b.png"], "b_attention"), (["--page", "A6", "--output", "d.xml"], "d.txt"),
     (["--page", "A6", "--proof", "--output", "e.pdf"], "e_proof.pdf"),
     (["--page", "A6", "--output", "f.json", "--redo", "999"], "no line 999")],
)  # fmt: skip
def test_what_is_known_at_the_start_is_told_at_the_start(checkpoints, tmp_path, monkeypatch, flags, word):
    for name in ("b_attention.png", "c-02.xml", "e_proof.pdf"):
        (tmp_path / name).mkdir()
    (tmp_path / "d.txt").write_text("a diary")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("handwriting.sampling.Sampler.write", lambda *_, **__: pytest.fail("it began to write"))
    with pytest.raises(InputError, match=word):
        run("ab", "ca", "--checkpoint", checkpoints / "blanks.pt", *flags)


def test_redo_changes_one_line(small):
    before = small.write_text(TEXT, PAGE)
    after = small.write_text(TEXT, PAGE, redo={2: 1})
    changed = [a is not None and not same_ink(a, b) for a, b in zip(before.inks, after.inks, strict=True)]
    assert changed == [place == 1 for place in range(len(changed))] and after.lines == before.lines
    count = sum(ink is not None for ink in before.inks)
    others = small.write_text(TEXT, PAGE, redo={2: 2, count: 1}).inks  # blank lines do not count
    assert not same_ink(others[1], after.inks[1]) and not same_ink(others[-1], before.inks[-1])
    for number in (0, count + 1, 999):
        with pytest.raises(InputError, match=f"no line {number} "):
            small.write_text(TEXT, PAGE, redo={number: 1})


def test_a_redone_line_that_is_too_wide_is_tried_again(small, monkeypatch):
    written = small.write_text(TEXT, PAGE)
    wide_seeds, seen = set(), []
    write = Writer.write_lines

    def widen(self, texts, seeds, primed=None):
        seen.extend(seeds)
        stretch = np.float32([100, 1, 1])
        return [
            replace(ink, points=ink.points * stretch) if seed in wide_seeds else ink
            for ink, seed in zip(write(self, texts, seeds, primed), seeds, strict=True)
        ]

    monkeypatch.setattr(Writer, "write_lines", widen)
    small.write_text(TEXT, PAGE, redo={1: 1})
    wide_seeds.add(seen[-1])
    redone = small.write_text(TEXT, PAGE, redo={1: 1})
    assert redone.inks[0].seed == seen[-1] not in wide_seeds
    width = np.ptp(np.cumsum(redone.inks[0].points[:, 0])) * redone.scale
    assert width <= PAGE.text_width and not same_ink(redone.inks[0], written.inks[0])
    with pytest.raises(InputError, match=r"line 1 is too wide .* --redo 1:2"):
        for _ in range(10):  # one try more is too wide each time
            wide_seeds.add(seen[-1])
            small.write_text(TEXT, PAGE, redo={1: 1})


@pytest.mark.parametrize("text", ["x", "7:", "7:-1", f"7:{MOST_ATTEMPTS}", "7,"])
def test_what_is_to_be_redone_is_numbers(text):
    if text == "7:":
        assert generate.parse_redo(text) == {7: 1}
        return
    with pytest.raises(InputError, match="line numbers"):
        generate.make_parser().parse_args(["--redo", text])


# The command line


def test_a_letter_is_written_from_a_file(checkpoints, tmp_path, capsys, small):
    (tmp_path / "letter.txt").write_text("\ufeffab c\u00e1b\n\n\u00e1 cabcabcabcabcabc\n", encoding="utf-8")
    given = ["--checkpoint", checkpoints / "blanks.pt", "--page", "60x60", "--margins", "10"]
    run("--file", tmp_path / "letter.txt", *given, "--output", tmp_path / "letter.json")
    texts = [ink.text for ink in read_lines(tmp_path / "letter.json")]
    assert "".join(texts).replace("-", "").replace(" ", "") == "abc\u00e1b\u00e1cabcabcabcabcabc"
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "\u00e1" in line] == ["note: wrote 'a' for '\u00e1' and drew the rest"]
    assert [line for line in told if "hyphen" in line] == [
        "note: broke 'cabcabcabcabcabc' with a hyphen: it is wider than a line"
    ]


@pytest.mark.parametrize("flags", [["-"], ["--file", "-"]])
def test_text_from_standard_input(checkpoints, tmp_path, monkeypatch, flags):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"ab\r\n\r\nca")))
    run(*flags, "--checkpoint", checkpoints / "blanks.pt", "--output", tmp_path / "a.json")
    assert [ink.text for ink in read_lines(tmp_path / "a.json")] == ["ab", "ca"]
    monkeypatch.setattr("sys.stdin", None)  # closed, as with <&-
    with pytest.raises(InputError, match="standard input: there is no text"):
        run(*flags, "--checkpoint", checkpoints / "blanks.pt", "--output", tmp_path / "b.json")


def test_writing_does_not_wait_for_what_it_does_not_need(checkpoints, tmp_path):
    write_line("abc ab").save(tmp_path / "hand.json")
    code = f"""if True:
        import sys, generate
        given = {str(checkpoints / "blanks.pt")!r}, {str(tmp_path / "hand.json")!r}
        writer = generate.Writer(*given, retries=0, force=True)
        writer.page("ab ca")[0].save({str(tmp_path / "page.json")!r})
        print(sorted({{"matplotlib", "data_preprocessing", "torch._dynamo"}} & set(sys.modules)))
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment())
    assert result.stdout.strip() == "[]", result.stderr


def test_texts_that_cannot_be_read(checkpoints, tmp_path):
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b" \n")
    given = ["--checkpoint", checkpoints / "blanks.pt", "--output", tmp_path / "a.png"]
    for name, word in (
        ("latin.txt", "UTF-8"),
        ("empty.txt", "no text"),
        ("none.txt", "no such file"),
        (".", "no such"),
    ):
        for flag_name in ("--file", "--batch"):
            output = given[:2] if flag_name == "--batch" else given
            with pytest.raises(InputError, match=word):
                run(flag_name, tmp_path / name, *output)
    assert_refused(run_script("generate.py", "--file", tmp_path / "latin.txt", *given), "latin.txt", "UTF-8")
    assert not (tmp_path / "a.png").exists()


def test_a_wrong_line_of_a_page_is_named_by_its_number(checkpoints, tmp_path, monkeypatch):
    written = Writer.write_lines
    monkeypatch.setattr(
        Writer,
        "write_lines",
        lambda *given: [replace(ink, fault="it is odd" if ink.text == "ca" else "") for ink in written(*given)],
    )
    given = ["ab", "", "ca", "--page", "A5", "--checkpoint", str(checkpoints / "blanks.pt"), "--retries", "1"]
    with pytest.raises(ResultError, match=r"after 2 tries: line 2 'ca': it is odd; try --redo 2, another"):
        generate.main([*given, "--output", str(tmp_path / "a.json")])
    assert len(read_lines(tmp_path / "a.json")) == 2


WRONG_FLAGS = [
    (["ab", "--redo", "1"], "--redo"), (["ab", "--landscape"], "--page writes on pages"),
    (["ab", "--ruled"], "--ruled"), (["ab", "--from_line", "2"], "--from_line"),
    (["ab", "--margins", "5"], "--margins"), (["ab", "--format", "svg"], "--format"),
    (["ab", "--page", "A4", "--samples", "2"], "--samples"), (["ab", "--page", "A4", "--steps", "90"], "--steps"),
    (["ab", "--page", "A4", "--attention"], "--attention"), (["--file", "x", "--density"], "--density"),
    (["-", "--samples", "2"], "--samples"), (["ab", "--file", "x"], "text and --file"),
    (["ab", "--prime_text", "y"], "--prime_text"),
    (["ab", "--batch", "x"], "--batch takes no text"), (["--batch", "x", "--file", "y"], "--file"),
    (["--batch", "x", "--prime", "y"], "--prime"), (["--batch", "x", "--page", "A4"], "--page"),
    (["--batch", "x", "--samples", "2"], "--samples"), (["--batch", "x", "--redo", "2"], "--redo"),
    (["--batch", "x", "--format", "jpeg"], "--format jpeg"), (["--batch", "x", "--task", "rand_write"], "--batch"),
    (["--list_styles", "ab"], "--list_styles takes no text"), (["--list_styles", "--style", "x"], "--style"),
    (["--task", "rand_write", "--style", "x"], "--style"), (["--task", "rand_write", "--page", "A4"], "--page"),
    (["--page", "A4"], "no text"), (["ab", "--output", "a.png", "--pen_up", "9"], "--pen_up is for .gcode"),
    (["ab", "--output", "a.svg", "--dpi", "90"], "--dpi"), (["ab", "--output", "a.png", "--speed", "2"], "--speed"),
    (["ab", "--output", "a.json", "--colour", "red"], "--colour"), (["ab", "--output", "a.jpeg"], r"a\.jpeg"),
    (["ab", "--colour", "blurple"], "blurple"), (["ab", "--page", "A9"], "A9"),
    (["ab", "--page", "A4", "--margins", "x"], "margins"), (["ab", "--dpi", "1"], "dpi"),
    (["ab", "--page", "9x9"], "page width"), (["ab", "--bias", "nan"], "bias"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "word"), WRONG_FLAGS)
def test_flags_that_do_not_fit_are_refused_before_any_work(flags, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writer_module, "write_checked", None)  # nothing can be written
    with pytest.raises(InputError, match=word):
        run(*flags)
    assert list(tmp_path.iterdir()) == []


# Batches

LINES = ["ab", "cab 7", "", "a?b", "ccc", "b a b", "abcabc"]  # the fourth has a character that is unknown


def batch_of(checkpoints, folder, texts=LINES, **given):
    given = {"ending": "json", "checkpoint": checkpoints / "blanks.pt", "retries": 0} | given
    return write_many(texts, folder, **given)


def manifest_of(folder):
    return [json.loads(line) for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (MANIFEST, ".batch.lock")}


def test_a_batch_and_its_manifest(checkpoints, tmp_path, small):
    rows = sorted(batch_of(checkpoints, tmp_path / "out"), key=lambda row: row["number"])
    assert rows == sorted(manifest_of(tmp_path / "out"), key=lambda row: row["number"])
    assert [row["number"] for row in rows] == [1, 2, 4, 5, 6, 7]  # blank lines are left out
    for row in rows:
        if row["number"] == 4:
            assert row["file"] is row["written"] is None and "'?'" in row["fault"]
            continue
        ink = read_ink(tmp_path / "out" / row["file"])
        assert (ink.text, ink.seed, ink.bias) == (row["text"], row["seed"], row["bias"])
        assert row["written"] == LINES[row["number"] - 1] and row["checkpoint"] == small.network.hash
        assert row["style"] is None and 0.3 <= row["bias"] <= 1
    assert len({row["bias"] for row in rows}) == len({row["seed"] for row in rows}) == 6
    assert len(contents(tmp_path / "out")) == 5


def test_a_stopped_batch_goes_on(checkpoints, tmp_path):
    whole = sorted(batch_of(checkpoints, tmp_path / "whole"), key=str)
    files = [row["file"] for row in whole if row["file"]]
    stopped = batch_of(checkpoints, tmp_path / "out")
    for _ in range(3):
        next(stopped)
    stopped.close()
    assert len(manifest_of(tmp_path / "out")) == 3
    with (tmp_path / "out" / MANIFEST).open("a", encoding="utf-8") as file:
        file.write('{"number": 7, "fi')  # as a killed run leaves it
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    rows = list(batch_of(checkpoints, tmp_path / "out"))
    assert sorted(rows, key=str) == whole == sorted(manifest_of(tmp_path / "out"), key=str)
    assert len(before) >= 2 and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")  # though other lines were beside them
    (tmp_path / "out" / "000002.json").unlink()
    list(batch_of(checkpoints, tmp_path / "out"))
    assert sorted(contents(tmp_path / "out")) == sorted(files) and len(manifest_of(tmp_path / "out")) == 6


@pytest.mark.parametrize(
    "other",
    [
        {"texts": ["ab", "cab"]},
        {"texts": LINES[:-1]},
        {"seed": 1},
        {"bias": 0.5},
        {"ending": "npz"},
        {"style": "large"},
    ],
)
def test_a_folder_with_another_batch_is_refused(checkpoints, tmp_path, styles, other):
    list(batch_of(checkpoints, tmp_path / "out", bias=0.4, style="small"))
    before = contents(tmp_path / "out") | {MANIFEST: (tmp_path / "out" / MANIFEST).read_bytes()}
    with pytest.raises(InputError, match="out: holds a batch of other texts"):
        list(batch_of(checkpoints, tmp_path / "out", **{"bias": 0.4, "style": "small"} | other))
    assert before == contents(tmp_path / "out") | {MANIFEST: (tmp_path / "out" / MANIFEST).read_bytes()}
    row = json.loads(before[MANIFEST].splitlines()[0])
    odd = ({"number": []}, {"number": "1"}, {"fault": []}, {"written": "\ud800"})
    rows = [json.dumps(row | change).encode() + b"\n" for change in odd]
    for strange in (b"[1]\n", b"\xff\n", b'{"number": 1}\n', b"some text\n", b"[" * 100_000 + b"\n", *rows):
        (tmp_path / "out" / MANIFEST).write_bytes(strange)
        with pytest.raises(InputError, match="not the manifest of a batch"):
            list(batch_of(checkpoints, tmp_path / "out"))
        assert (tmp_path / "out" / MANIFEST).read_bytes() == strange


def test_lines_of_a_batch_are_written_side_by_side(checkpoints, tmp_path, monkeypatch):
    sizes = []
    written = Writer.write_raw

    def count(self, texts, *given, **named):
        sizes.append(len(texts))
        return written(self, texts, *given, **named)

    monkeypatch.setattr(Writer, "write_raw", count)
    assert len(list(batch_of(checkpoints, tmp_path / "out", texts=["ab"] * 100))) == 100
    assert sizes == [50, 50]


def test_a_line_that_its_file_cannot_hold_does_not_stop_the_others(checkpoints, tmp_path, monkeypatch):
    made = Writer.to_ink

    def widen(self, line, *given):
        ink = made(self, line, *given)
        return replace(ink, points=ink.points * np.float32([1000, 1, 1])) if line.text == "ccc" else ink

    monkeypatch.setattr(Writer, "to_ink", widen)
    rows = list(batch_of(checkpoints, tmp_path / "out", ending="xml"))
    faults = {row["number"]: row["fault"] for row in rows if row["file"] is None}
    assert sorted(faults) == [4, 5] and "whiteboard units long" in faults[5]
    assert len(list((tmp_path / "out").glob("*.xml"))) == 4


def test_a_batch_as_a_user_runs_it(checkpoints, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("ab\nc\u00e1b\nno words\nca\n", encoding="utf-8")
    given = ["--batch", tmp_path / "texts.txt", "--checkpoint", checkpoints / "blanks.pt", "--output", tmp_path / "out"]
    for _ in range(2):  # the second time nothing is left to do
        with pytest.raises(ResultError, match=r"not written: line 3: the network never learned 'd' .*manifest\.jsonl"):
            run(*given, "--format", "svg", "--colour", "navy")
    assert sorted(contents(tmp_path / "out")) == ["000001.svg", "000002.svg", "000004.svg"]
    assert "#000080" in (tmp_path / "out" / "000001.svg").read_text()
    told = capsys.readouterr()
    assert told.err.count("wrote 'a' for") == 2 and "3 lines, and 1 could not be written" in told.out
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file: is no folder"):
        run(*given[:-1], tmp_path / "file")
    with pytest.raises(InputError, match="no style 'x'"):
        run(*given[:-1], tmp_path / "new", "--style", "x")
    assert not (tmp_path / "new").exists()
    result = run_script("generate.py", *given, "--format", "svg", "--colour", "navy", "--retries", "0")
    assert result.returncode == 3 and [line for line in result.stderr.splitlines() if line.startswith("error: ")]
