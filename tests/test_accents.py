"""Accents and signs: what characters are taken apart into, where marks are drawn, and that files have them."""

import unicodedata

import numpy as np
import pytest
from batches import write_many
from lxml import etree
from made_up_ink import letter, write_line

import generate
from handwriting.alphabet import Alphabet
from handwriting.ink.accents import APART, NEAR, draw_marks, split_character, without_marks
from handwriting.ink.formats import FORMATS, Ink
from handwriting.ink.pictures import Drawing
from handwriting.ink.read_ink import read_ink
from handwriting.pages import PageFormat
from handwriting.program import InputError
from handwriting.sampling import Sampler
from handwriting.writer import Writer

ASCII = "".join(map(chr, range(32, 127)))
LATIN = [chr(n) for n in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)) if chr(n).isalpha()]
WITH = {
    "GRAVE", "ACUTE", "CIRCUMFLEX", "TILDE", "DIAERESIS", "RING ABOVE", "CEDILLA", "CARON", "MACRON", "BREVE", "OGONEK",
    "DOT ABOVE", "DOT BELOW", "DOUBLE ACUTE",
}  # fmt: skip
ABOVE = "éèêẽëěėēĕ"


# -------------------------------------------------------------------------------------------------------------- letters


def test_a_character_is_its_letter_and_marks_by_name_and_by_composition():
    seen = 0
    for character in LATIN:
        name, _, mark = unicodedata.name(character).partition(" WITH ")
        if mark in WITH and [len(word) for word in name.split()][3:] == [1]:  # LATIN SMALL LETTER E WITH ACUTE
            letter, marks = split_character(character)
            assert letter == (name[-1] if character.isupper() else name[-1].lower())
            is_own = marks == character  # drawn otherwise than the mark is called: an apostrophe for a caron
            assert is_own or unicodedata.normalize("NFC", letter + marks) == character
            seen += not is_own
    assert seen > 200


@pytest.mark.parametrize("character", ["a", "5", " ", "日", "\u0301", "ß", "≠"])
def test_what_has_no_marks_of_the_table_is_not_taken_apart(character):
    assert split_character(character) is None


def test_what_the_network_writes_is_as_long_as_the_text():
    alphabet = Alphabet("abceinorszCLOZ 12")
    (line,), told = alphabet.prepare(["Zoë  ces 12 € Łø"])
    assert (line.text, line.letters) == ("Zoë ces 12 € Łø", "Zoe ces 12 C Lo")
    assert line.codes.tolist() == alphabet.encode(line.letters).tolist()
    assert len(told) == 4 and all(any(repr(c) in note for note in told) for c in "ë€Łø")
    assert alphabet.prepare([line.text])[0][0].text == line.text  # again changes nothing


def test_each_is_told_once():
    text = "50 % of 20 % is é, É, é and ß, ß."
    _, told = Alphabet(ASCII.replace("%", "")).prepare([text])
    assert [[c for c in "%éÉß" if repr(c) in note] for note in told] == [["%"], ["é"], ["É"], ["ß"]]


def test_a_network_that_learned_a_character_writes_it_itself():
    alphabet = Alphabet(ASCII + "é%")
    assert alphabet.prepare(["é % ë"])[0][0].letters == "é % e"
    (line,), told = alphabet.prepare(["é %"])
    assert (line.text, line.letters, told) == ("é %", "é %", [])
    assert "é" in Alphabet("abé").prepare(["é"])[0][0].letters
    with pytest.raises(InputError, match="never learned 'é';"):
        Alphabet("abc").prepare(["abé"])  # nor its letter


# ---------------------------------------------------------------------------------------------------------------- marks


def draw(text, letters, seed=0, change=None, **given):
    """Write letters as made-up ink and draw the rest of a text. Returns the strokes before, and after with owners.

    All are in x-heights from where the first letter begins on the baseline, with slant and slope taken out: nothing is
    measured for that.
    """
    ink = write_line(letters, **given)
    x_height, slant, slope = given.get("x_height", 100.0), np.radians(given.get("slant", 0.0)), given.get("slope", 0.0)
    top = letter(letters.strip()[0])[0, 1]
    start = np.array([-np.tan(slant) * top, top - slope * np.tan(slant) * top])  # ink begins at (0, 0)

    def straight(stroke):
        x, y = (stroke / x_height + start).T
        y = y - slope * x
        return np.column_stack([x + np.tan(slant) * y, y])

    characters = ink.characters if change is None else change(ink.characters)
    strokes, owners = draw_marks(ink.strokes, characters, letters, text, seed)
    owners = np.split(owners, np.cumsum([len(stroke) for stroke in strokes])[:-1])
    before = [straight(stroke) for stroke in ink.strokes]
    return before, [(straight(stroke), owner) for stroke, owner in zip(strokes, owners, strict=True)]


def of(drawn, place, count):
    """The last strokes of a character: its marks."""
    return np.concatenate([s for s, o in drawn if (o == place).all()][-count:])


HANDS = {
    "upright": {}, "slanted": {"slant": 20.0}, "to the left": {"slant": -12.0}, "rising": {"slope": -0.06},
    "small": {"x_height": 40.0, "slant": 10.0}, "joined": {"joined": True, "slant": 15.0},
}  # fmt: skip
WORDS, PLACE = "the men went home again to see them", 16  # the e of home; it begins at x = 16, as all are 1 wide


@pytest.mark.parametrize("given", HANDS.values(), ids=HANDS)
@pytest.mark.parametrize("character", ABOVE)
def test_a_mark_is_above_its_letter_and_in_the_middle(character, given):
    for seed in range(3):
        _, drawn = draw(WORDS[:PLACE] + character + WORDS[PLACE + 1 :], WORDS, seed, **given)
        mark = of(drawn, PLACE, 2 if character == "ë" else 1)
        assert mark[:, 1].min() > -1.8 and mark[:, 1].max() < -1.1  # the letter's top is at -1
        middle = (mark[:, 0].min() + mark[:, 0].max()) / 2
        assert abs(middle - (PLACE + 0.3)) < 0.15
        assert mark[:, 0].min() > PLACE - 0.15 and mark[:, 0].max() < PLACE + 0.75


@pytest.mark.parametrize(
    ("character", "is_there"),
    [
        ("ç", lambda x, y: abs(x.mean() - 0.3) < 0.25 and -0.1 < y.min() < 0.1 and 0.3 < y.max() < 0.6),
        ("ĉ", lambda x, y: y.max() < -1.1),
        ("ċ", lambda x, y: np.ptp(x) < 0.2 and np.ptp(y) < 0.2 and y.max() < -1.1),
        ("¢", lambda x, y: y.min() < -1.2 and y.max() > 0.2 and np.ptp(x) < 0.4),
    ],
)
def test_marks_are_where_they_belong(character, is_there):
    words = "the men race home again"
    _, drawn = draw(words.replace("c", character), words)
    mark = of(drawn, words.index("c"), 1)
    assert is_there(mark[:, 0] - words.index("c"), mark[:, 1])


def test_directions_of_marks():
    """The higher end of an acute is on the right, of a grave on the left; a caron is low in its middle."""
    found = {}
    for character in "éèěê":
        _, drawn = draw(WORDS[:PLACE] + character + WORDS[PLACE + 1 :], WORDS)
        x, y = of(drawn, PLACE, 1).T
        found[character] = np.polyfit(x, y, 1)[0], y[np.abs(x - x.mean()).argmin()] - y[[0, -1]].mean()
    assert found["é"][0] < -0.5 and found["è"][0] > 0.5
    assert found["ě"][1] > 0.15 and found["ê"][1] < -0.15


def test_marks_of_a_capital_are_above_it_and_those_of_capitals_no_larger():
    marks = []
    for words in ("When Emma went", "WHEN EMMA WENT"):
        _, drawn = draw(f"{words[:5]}É{words[6:]}", words)
        mark = of(drawn, 5, 1)
        assert mark[:, 1].max() < -2.2 and mark[:, 1].min() > -3.1  # a capital is 2.2 high
        marks.append(np.ptp(mark[:, 1]))
    assert marks[1] < 1.6 * marks[0]


def test_two_marks_stand_on_each_other():
    _, drawn = draw(WORDS[:PLACE] + "ế" + WORDS[PLACE + 1 :], WORDS)
    circumflex, acute = (s for s, o in drawn if (o == PLACE).all() and s[:, 1].max() < -1)
    assert acute[:, 1].max() < circumflex[:, 1].min()


def test_the_window_may_run_ahead_or_leave_a_letter_without_points():
    text = WORDS[:PLACE] + "é" + WORDS[PLACE + 1 :]
    ahead = draw(text, WORDS, change=lambda characters: np.append(characters[3:], characters[-1:].repeat(3)))
    none = draw(text, WORDS, change=lambda characters: np.where(characters == PLACE, PLACE - 1, characters))
    for (_, drawn), off in ((ahead, 0.2), (none, 0.8)):
        (mark,) = [s for s, o in drawn if (o == PLACE).all() and s[:, 1].max() < -1]
        assert abs(mark[:, 0].mean() - PLACE - 0.3) < off and mark[:, 1].max() < -1.1


def test_marks_come_after_their_word_and_the_ink_stays_as_it_was():
    letters, text = "a tree, een one", "a trëé, ëen öne"
    ink, drawn = draw(text, letters)
    order = [int(np.median(owners)) for _, owners in drawn]
    assert order == [0, 2, 3, 4, 5, 4, 4, 5, 6, 8, 9, 10, 8, 8, 12, 13, 14, 12, 12]
    kept = [stroke for n, (stroke, _) in enumerate(drawn) if n not in (5, 6, 7, 12, 13, 17, 18)]
    for stroke, before in zip(kept, ink, strict=True):
        np.testing.assert_allclose(stroke, before, atol=1e-5)


def test_points_are_as_far_apart_as_the_lines():
    ink, drawn = draw("mañana is warm", "manana is warm")
    mark = of(drawn, 2, 1)
    usual = np.median([np.hypot(*step) for stroke in ink for step in np.diff(stroke, axis=0)])
    steps = np.hypot(*np.diff(mark, axis=0).T)
    assert 0.4 * usual < np.median(steps) <= 1.1 * usual


def test_a_mark_takes_the_place_of_the_dot_and_other_dots_stay():
    letters = "a mini in it"
    for text, place in (("a mïni in it", 3), ("a miní in it", 5), ("a mıni in it", 3)):
        _, drawn = draw(text, letters)
        dots = [(s[0], o[0]) for s, o in drawn if len(s) == 1]
        assert sorted(o for _, o in dots) == [n for n, c in enumerate(letters) if c == "i" and n != place]
    _, drawn = draw("a mïni in it", letters, joined=True)  # no dots: the marks are drawn all the same
    assert sum(bool((owners == 3).all()) for _, owners in drawn) == 2


def test_the_dot_of_another_letter_stays():
    ink = write_line("ii to", gap=0.1)  # the second's dot is 0.4 x-heights from the middle of the first
    strokes = [ink.strokes[0], *ink.strokes[2:]]  # without the first's
    kept = np.delete(ink.characters, len(strokes[0]))
    drawn, owners = draw_marks(strokes, kept, "ii to", "ïi to")
    assert [len(stroke) for stroke in drawn].count(1) == 1 and (owners == 0).sum() > len(strokes[0])


def test_a_sign_stands_in_its_blank_and_what_follows_makes_room():
    letters, text = "ten   of  een", "ten % of° een"
    for given in HANDS.values():
        _, drawn = draw(text, letters, **given)
        spans = {}
        for stroke, owners in drawn:
            for place in np.unique(owners):
                x = stroke[owners == place, 0]
                low, high = spans.get(place, (np.inf, -np.inf))
                spans[place] = min(low, x.min()), max(high, x.max())
        gaps = [spans[after][0] - spans[before][1] for before, after in ((2, 4), (4, 6), (7, 8), (8, 10))]
        np.testing.assert_allclose(gaps, [APART, APART, NEAR, APART], atol=0.2)
        order = [int(np.median(owners)) for _, owners in drawn]
        assert order == sorted(order)


def test_signs_at_the_ends_and_alone():
    _, drawn = draw("¿que?%", " que? ")
    assert [int(np.median(o)) for _, o in drawn] == [0, 0, 1, 2, 3, 4, 5, 5, 5]
    assert max(s[:, 0].max() for s, o in drawn if o[0] == 0) < min(s[:, 0].min() for s, o in drawn if o[0] == 1)
    ink = write_line("ab")  # what a network writes for a blank is nothing
    strokes, owners = draw_marks(ink.strokes, np.zeros(len(ink.points), int), " ", "=", 0)
    assert len(strokes) == 2 and (owners == 0).all()


def test_the_same_seed_draws_the_same_and_no_two_marks_are_alike():
    text, letters = "été et été", "ete et ete"
    (_, first), (_, again), (_, other) = (draw(text, letters, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))
    marks = [of(first, place, 1) for place in (0, 2)]
    assert abs(np.ptp(marks[0][:, 1]) - np.ptp(marks[1][:, 1])) > 1e-3


def test_marks_are_found_again():
    letters, text = "When Zoe went, een c een", "When Zoë went, éęn ç een"
    ink = write_line(letters, slant=10)
    drawn = draw_marks(ink.strokes, ink.characters, letters, text, 3)
    assert len(drawn[0]) > len(ink.strokes)
    strokes, owners = without_marks(*drawn, letters, text)
    assert np.array_equal(owners, ink.characters)
    for stroke, before in zip(strokes, ink.strokes, strict=True):
        np.testing.assert_allclose(stroke, before, atol=1e-3)


def test_ink_of_marks_alone_stays():
    ink = write_line("ab")
    strokes, owners = without_marks(ink.strokes, np.ones(len(ink.points), int), "a ", "a%")
    assert len(strokes) == 2 and len(owners) == len(ink.points)


# ------------------------------------------------------------------------------------------------------ all that writes


@pytest.fixture
def writer(checkpoints):
    return Writer(checkpoints / "blanks.pt", retries=0, seed=4)


def marks_of(ink, text):
    """How many strokes belong to accented characters alone."""
    owners = np.split(ink.characters, np.cumsum([len(s) for s in ink.strokes])[:-1])
    return sum(text[o[0]] in "äç" and (o == o[0]).all() for o in owners)


def test_lines_pages_and_batches_have_marks(writer, checkpoints, tmp_path):
    ink, plain = writer.write("abäc"), writer.write("abac")
    assert ink.text == "abäc" and len(ink.strokes) == len(plain.strokes) + 2
    (page,) = writer.page("aä bç\nab", PageFormat(60, 60, (5, 5, 5, 5)))
    assert " ".join(placed.ink.text for placed in page.lines).split() == ["aä", "bç", "ab"]
    assert sum(marks_of(placed.ink, placed.ink.text) for placed in page.lines) >= 3
    rows = write_many(["abä", "ab7", "日"], tmp_path, "json", checkpoint=checkpoints / "blanks.pt", retries=0)
    assert {row["number"]: row["written"] for row in rows} == {1: "abä", 2: "ab7", 3: None}
    assert marks_of(read_ink(tmp_path / "000001.json"), "abä") >= 2


def test_every_format_has_the_marks(writer, tmp_path):
    ink = writer.write("abäc")
    for ending in FORMATS:
        assert ink.save(tmp_path / f"a.{ending}", Drawing(dpi=30, speed=20))
    assert len(etree.parse(tmp_path / "a.svg").findall("{*}g/{*}g/{*}path")) == len(ink.strokes)
    for ending in ("json", "npz", "svg", "inkml", "xml"):
        back = read_ink(tmp_path / f"a.{ending}")
        assert back.text == "abäc" and len(back.strokes) == len(ink.strokes)


def test_a_hand_is_taken_from_the_ink_without_its_marks(checkpoints, writer):
    accented, plain = writer.write("abäc"), writer.write("abac")
    hands = [Writer(checkpoints / "blanks.pt", style=ink, retries=0, seed=1) for ink in (accented, plain)]
    first, second = (hand.write("cab") for hand in hands)
    np.testing.assert_allclose(first.points, second.points, atol=1e-2)
    given = Ink(accented.points, accented.text)  # as from elsewhere: which strokes are marks is not known
    assert len(Writer(checkpoints / "blanks.pt", style=given, retries=0).write("cab").points) > 1


def test_what_cannot_be_written_is_named_before_anything_is_computed(checkpoints, tmp_path, monkeypatch):
    def compute(*_, **__):
        raise AssertionError("nothing was to be computed")

    for name in ("write", "prime"):
        monkeypatch.setattr(Sampler, name, compute)
    hand = tmp_path / "hand.json"
    write_line("abc").save(hand)
    output = tmp_path / "out.png"
    for page in ([], ["--page", "A4"]):
        arguments = ["aä 日", "b ж", "--checkpoint", str(checkpoints / "blanks.pt"), "--output", str(output), *page]
        with pytest.raises(InputError, match="'ж' '日'"):
            generate.main([*arguments, "--style", str(hand), "--force"])
    with pytest.raises(InputError, match="'ă' is not in Latin-1"):
        generate.main(["aă", "--checkpoint", str(checkpoints / "blanks.pt"), "--output", str(tmp_path / "out.xml")])
    assert not output.exists()


def test_a_program_tells_each_once(checkpoints, tmp_path, capsys):
    arguments = ["aä", "bä", "--checkpoint", str(checkpoints / "blanks.pt"), "--retries", "0"]
    generate.main([*arguments, "--output", str(tmp_path / "a.svg")])
    assert capsys.readouterr().err.count("'ä'") == 1
