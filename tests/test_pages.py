"""Texts broken into lines and placed on pages, with ink of known size."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_ink import write_line

from handwriting.ink.formats import Ink, Page
from handwriting.ink.geometry import find_level
from handwriting.pages import (
    PageFormat,
    TextLine,
    WidthEstimate,
    WrittenText,
    break_text,
    ink_width,
    lay_out,
    median_x_height,
    parse_margins,
    parse_page,
    write_text,
)
from handwriting.program import InputError

LETTER = """                 12 March 2024

Dear Anna,

thank you for the long letter, which came on Monday and which we read to each other in the garden.

Please bring:
- warm clothes for the evenings, and the rope that you showed me last summer
- a lamp
12. one more thing for the house
Yours, Tom"""


def count(text: str) -> float:
    """A measure: a millimetre for each character."""
    return float(len(text))


def texts(lines: list[TextLine]) -> list[str]:
    return [line.text for line in lines]


# Breaking


def test_lines_are_as_long_as_they_can_be():
    lines, broken = break_text("aa bb cc ddddd e", count, 5)
    assert texts(lines) == ["aa bb", "cc", "ddddd", "e"] and broken == []
    assert [(line.paragraph, line.start) for line in lines] == [(0, 0), (0, 6), (0, 9), (0, 15)]


@pytest.mark.parametrize("width", [12, 20, 33, 60, 200])
def test_a_letter_keeps_its_words_paragraphs_and_blank_lines(width):
    lines, broken = break_text(LETTER, count, width)
    assert broken == [] and all(count(line.text) + line.indent <= width for line in lines)
    paragraphs = {}
    for line in lines:
        paragraphs.setdefault(line.paragraph, []).append(line.text)
    given = [" ".join(paragraph.split()) for paragraph in LETTER.splitlines()]
    assert [" ".join(paragraphs[number]) for number in range(len(given))] == given


def test_items_of_a_list_hang_and_blanks_set_in():
    lines, _ = break_text("- aaa bbb ccc\n12. dd ee ff\n     right\n-no item", count, 9)
    assert texts(lines) == ["- aaa bbb", "ccc", "12. dd ee", "ff", "right", "-no item"]
    assert [line.indent for line in lines] == [0, 2, 0, 4, 4, 0]  # not 5, or it would not fit


def test_words_too_long_are_broken_with_a_hyphen_and_told():
    lines, broken = break_text("an extraordinarily well-established word", count, 8)
    assert texts(lines) == ["an", "extraor-", "dinarily", "well-", "establi-", "shed", "word"]
    assert broken == ["extraordinarily", "well-established"]
    lines, broken = break_text("aaaa-bbbbb", count, 5)
    assert texts(lines) == ["aaaa-", "bbbbb"] and broken == []  # the hyphen is its own


def test_a_page_too_small_for_a_word_is_refused():
    for text, width in (("word", 2), ("a word", 1.5), ("i", 0.5), ("100000", 2)):
        with pytest.raises(InputError, match="too narrow"):
            break_text(text, count, width)


def test_what_is_written_and_fits_is_kept():
    lines, _ = break_text("aa bb cc dd", count, 8)
    assert texts(lines) == ["aa bb cc", "dd"]
    first, short = TextLine("aa bb cc", 0, 0), TextLine("aa bb", 0, 0)
    again, _ = break_text("aa bb cc dd", count, 8, {first: 8.1})
    assert texts(again) == ["aa bb", "cc dd"]
    again, _ = break_text("aa bb cc dd", count, 8, {first: 8.1, short: 8.2})
    assert texts(again) == ["aa", "bb cc dd"]
    again, _ = break_text("aa bb cc dd", count, 8, {short: 7.0})
    assert texts(again) == ["aa bb", "cc dd"]


def test_a_short_line_is_tried_with_its_next_word():
    short, long = TextLine("aa bb", 0, 0), TextLine("aa bb cc", 0, 0)
    for known, expected in (
        ({short: 5.0}, "aa bb cc"),  # estimated to be too wide, but less than a third
        ({short: 5.7}, "aa bb"), ({short: 5.0, long: 8.1}, "aa bb"), ({short: 5.0, long: 8.0}, "aa bb cc"),
    ):  # fmt: skip
        lines, _ = break_text("aa bb cc dd", lambda text: 1.25 * len(text), 8, known)
        assert texts(lines)[0] == expected, known


def test_a_line_that_fits_is_kept_when_the_estimate_grows():
    line = TextLine("aa bb cc", 0, 0)
    lines, _ = break_text("aa bb cc dd", lambda text: 1.5 * len(text), 8, {line: 7.9})
    assert texts(lines)[0] == "aa bb cc"


def test_long_paragraphs_take_little_work():
    measured = []

    def measure(text: str) -> float:
        measured.append(len(text))
        return len(text)

    words = "some words " * 2000
    lines, _ = break_text(words, measure, 60)
    assert " ".join(texts(lines)) == words.strip()
    assert sum(measured[2:]) < 60 * len(words)


def test_estimates_learn_from_ink():
    estimate = WidthEstimate(2.5)
    assert estimate.measure("mmmm") > estimate.measure("nnnn") > estimate.measure("iiii")
    for text in ("some ordinary words", "and others of them"):
        estimate.learn(text, 3.0 * len(text))
    assert estimate.measure("nothing special") == pytest.approx(3 * 15, rel=0.15)


def hand(seed: int = 0, **options):
    """Something that writes lines, in letters whose distance varies from line to line, and remembers what it wrote."""
    random = np.random.default_rng(seed)
    written = []

    def write(lines: list[TextLine]) -> list[Ink]:
        written.extend(lines)
        return [write_line(line.text, gap=random.uniform(0.2, 1.2), **options) for line in lines]

    return write, written


@pytest.mark.parametrize("seed", range(5))
def test_no_line_is_too_wide(seed):
    page_format = PageFormat(100, 150, (10, 10, 10, 10), x_height=2)
    write, written = hand(seed)
    letter = write_text(LETTER, write, page_format)
    assert letter.broken == []
    assert [ink.text if ink else "" for ink in letter.inks] == texts(letter.lines)
    assert len(written) == len(set(written)) < 3 * len(letter.lines)  # none twice
    for page in lay_out(letter, page_format):
        for placed in page.lines:
            x = np.concatenate(placed.strokes)[:, 0]
            assert x.min() >= 10 - 1e-6 and x.max() <= 90 + 1e-6


@pytest.mark.parametrize("stretch", [0.6, 2.0])
def test_lines_of_an_unusual_hand_are_filled(stretch):
    page_format = PageFormat(150, 400, x_height=2)
    written = []

    def write(lines: list[TextLine]) -> list[Ink]:
        written.extend(lines)
        return [Ink(write_line(line.text).points * [stretch, 1, 1], line.text) for line in lines]

    text = "the quick brown dog and all his friends jumped over the house of some lazy people " * 12
    letter = write_text(text, write, page_format)
    (page,) = lay_out(letter, page_format)
    widths = [np.ptp(ink_of(page, number)[:, 0]) for number in range(len(page.lines))]
    assert np.median(widths[4:-1]) > 0.75 * page_format.text_width
    assert len(written) < 1.5 * len(letter.lines)


def test_the_same_line_in_two_places_is_written_twice():
    write, written = hand()
    write_text("yes\nyes", write, PageFormat())
    assert [(line.text, line.paragraph) for line in written] == [("yes", 0), ("yes", 1)]


def test_a_text_without_characters_is_refused():
    with pytest.raises(InputError, match="empty"):
        write_text(" \n\n", hand()[0], PageFormat())


# Placing


def make_text(inks: list[Ink | None], page_format: PageFormat, indent: float = 0.0) -> WrittenText:
    lines = [TextLine(ink.text if ink else "", number, 0, indent) for number, ink in enumerate(inks)]
    return WrittenText(lines, inks, page_format.x_height / median_x_height([ink for ink in inks if ink]), [])


def make_inks(count: int, **options) -> list[Ink]:
    return [write_line("the quick dog jumps", **options) for _ in range(count)]


def ink_of(page: Page, number: int) -> np.ndarray:
    return np.concatenate(page.lines[number].strokes)


@pytest.mark.parametrize("x_height", [1.5, 4.0])
def test_lines_stand_level_on_their_baselines_in_the_size_asked(x_height):
    page_format = PageFormat(200, 280, 20, x_height=x_height, line_spacing=12)
    (page,) = lay_out(make_text(make_inks(3, slope=0.15, x_height=73), page_format), page_format)
    assert (page.width, page.height) == (200, 280)
    for number, placed in enumerate(page.lines):
        level = find_level(placed.strokes)
        assert abs(level.slope) < 0.01 and level.x_height == pytest.approx(x_height, rel=0.05)
        assert level.baseline == pytest.approx(page_format.baseline(number), abs=0.1 * x_height)
        assert ink_of(page, number)[:, 0].min() == pytest.approx(20)
    assert page_format.baseline(1) - page_format.baseline(0) == pytest.approx(12)


def test_one_scale_for_all_lines():
    small, large = write_line("some words", x_height=50), write_line("some words", x_height=100)
    inks = [small, large, large]
    assert median_x_height(inks) == pytest.approx(100, rel=0.05)
    (page,) = lay_out(make_text(inks, PageFormat(x_height=2)), PageFormat(x_height=2))
    assert np.ptp(ink_of(page, 1)[:, 0]) == pytest.approx(2 * np.ptp(ink_of(page, 0)[:, 0]), rel=0.01)


def test_short_lines_weigh_less_in_the_scale():
    inks = [*(write_line("no", x_height=200) for _ in range(3)), write_line("the quick dog jumps", x_height=100)]
    assert median_x_height(inks) == pytest.approx(100, rel=0.05)


def test_lines_are_aligned():
    text = make_text(make_inks(1), PageFormat(), indent=7.0)
    box = {}
    for align in ("left", "center", "right"):
        (page,) = lay_out(text, PageFormat(margins=(20, 15, 20, 25), align=align))
        box[align] = ink_of(page, 0)[:, 0].min(), ink_of(page, 0)[:, 0].max()
    assert box["left"][0] == pytest.approx(25 + 7)
    assert box["right"][1] == pytest.approx(210 - 15)
    assert sum(box["center"]) / 2 == pytest.approx((25 + 195) / 2)


def test_further_pages_are_begun_without_blank_lines():
    page_format = PageFormat(100, 60, (5, 5, 5, 5), x_height=2, line_spacing=10)
    inks = make_inks(12)
    inks[5] = inks[6] = None  # five lines fit on a page
    pages = lay_out(make_text(inks, page_format), page_format)
    assert page_format.lines_per_page == 5
    assert [len(page.lines) for page in pages] == [5, 5]
    inks[5], inks[0] = write_line("the quick dog jumps"), None
    pages = lay_out(make_text(inks, page_format), page_format)
    assert [len(page.lines) for page in pages] == [4, 4, 2]
    assert ink_of(pages[0], 0)[:, 1].max() > page_format.baseline(1)
    for page in pages:
        y = np.concatenate([ink_of(page, number) for number in range(len(page.lines))])[:, 1]
        assert y.min() > 5 and y.max() < 55


@pytest.mark.parametrize(
    ("vertical", "ruled", "first"),
    [("top", False, 0), ("center", False, 1.5), ("bottom", False, 3), ("center", True, 1)],
)
def test_lines_are_centred_between_the_margins(vertical, ruled, first):
    page_format = PageFormat(100, 60, (5, 5, 5, 5), x_height=2, line_spacing=10, vertical=vertical, ruled=ruled)
    top, found = (
        lay_out(make_text([*make_inks(2), None], each), each)
        for each in (replace(page_format, vertical="top"), page_format)
    )
    for n in range(2):
        assert ink_of(found[0], n)[:, 1] - ink_of(top[0], n)[:, 1] == pytest.approx(10 * first)


def test_margins_and_letters_follow_from_the_paper():
    formats = [PageFormat(*parse_page(name)) for name in ("A3", "A4", "letter", "A5", "A6", "85x55")]
    assert [each.margins[0] for each in formats] == [28, 20, 20, 14, 10, 5]
    assert [each.x_height for each in formats] == [3.0, 2.5, 2.5, 2.1, 1.8, 1.3]
    assert PageFormat(105, 148, 12, 2.2) == PageFormat(105, 148, (12, 12, 12, 12), 2.2)
    assert PageFormat(margins=(10, 5)).margins == PageFormat(margins="10,5").margins == (10, 5, 10, 5)


def test_rules_are_under_the_lines():
    page_format = PageFormat(ruled=True, plots_rules=True)
    text = make_text(make_inks(2), page_format)
    (page,) = lay_out(text, page_format)
    assert len(page.rules) == page_format.lines_per_page and page.plots_rules
    assert page.rules[1].tolist() == [[20, page_format.baseline(1)], [190, page_format.baseline(1)]]
    assert lay_out(text, PageFormat())[0].rules == []


def test_jitter_comes_from_the_seed_and_stays_within_the_margins():
    page_format = PageFormat(margins=(20, 20, 20, 20), jitter=0.4)
    text = make_text(make_inks(20), page_format)
    pages = [lay_out(text, page_format, seed=seed)[0] for seed in (1, 1, 2)]
    starts = [np.array([ink_of(page, n).min(0) for n in range(20)]) for page in pages]
    assert np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[0], starts[2])
    assert starts[0][:, 0].min() >= 20 - 1e-9 and np.ptp(starts[0][:, 0]) > 0.5
    heights = starts[0][:, 1] - [page_format.baseline(n) for n in range(20)]
    assert 0.1 < heights.std() < 0.8


def test_a_full_stop_alone_is_placed():
    inks = [*make_inks(1), Ink(np.array([[0, 0, 0], [0, 0, 1]]), ".")]
    (page,) = lay_out(make_text(inks, PageFormat()), PageFormat())
    assert ink_of(page, 1)[0].tolist() == pytest.approx([20, PageFormat().baseline(1)])
    assert ink_width(inks[1], 100) == 0
    with pytest.raises(InputError, match="no ink"):
        median_x_height(inks[1:])


def test_lines_wider_than_the_page_are_refused():
    text = make_text(make_inks(1), PageFormat())
    with pytest.raises(InputError, match=r"'the quick dog jumps' is [0-9.]+ mm wider"):
        lay_out(text, PageFormat(width=60, margins=20))


# Paper


def test_pages_and_margins_are_parsed():
    assert parse_page("A4") == (210, 297) and parse_page("a5", landscape=True) == (210, 148)
    assert parse_page("letter") == (215.9, 279.4) and parse_page("100x62.5") == (100, 62.5)
    assert parse_page("a6") == (105, 148) and parse_page("Legal") == (215.9, 355.6)
    assert parse_page("148 x 105") == (148, 105) and parse_page("10x15cm", landscape=True) == (150, 100)
    assert parse_page("5x7in") == pytest.approx((127, 177.8)) == parse_page("127×177.8 mm")
    assert parse_margins("20") == (20,) * 4 and parse_margins("10,5") == (10, 5, 10, 5)
    assert parse_margins("1, 2, 3, 4") == (1, 2, 3, 4)


@pytest.mark.parametrize("text", ["A3.5", "", "100", "100x", "axb", "-5x10"])
def test_other_pages_are_refused(text):
    with pytest.raises(InputError, match="A6, A7, letter"):
        parse_page(text)


@pytest.mark.parametrize("text", ["", "1,2,3", "wide", "1;2", (1, 2, 3), (), None, (1, "a")])
def test_other_margins_are_refused(text):
    with pytest.raises(InputError, match="margins"):
        parse_margins(text)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 5}, {"height": float("nan")}, {"x_height": 0}, {"x_height": 90}, {"line_spacing": 0}, {"jitter": -1},
        {"margins": (150, 10, 150, 10)}, {"margins": (10, 110, 10, 110)}, {"margins": (-1, 0, 0, 0)}, {"align": "both"},
        {"vertical": "both"}, {"margins": (1, 2, 3)}, {"margins": "wide"},
    ],
)  # fmt: skip
def test_formats_without_room_are_refused(options):
    with pytest.raises(InputError):
        PageFormat(**options)
