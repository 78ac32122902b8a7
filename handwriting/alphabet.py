"""Texts made ready for the network: the characters that it knows, and what is written for others."""

import csv
import io
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from handwriting.ink.accents import split_character
from handwriting.program import InputError

MAX_CHARACTERS = 2000  # of a line; pages break their lines

# What is written for characters that are neither learned nor drawn (`ink.accents`). Accents that are not drawn are left
# out, and what Unicode has a plain form for, such as ligatures and fractions, is written in it.
REPLACEMENTS = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'", "`": "'",
        "\u2039": "'", "\u203a": "'", "\u02bc": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"', "\u2033": '"',
        "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-", "\u2212": "-",
        "\u2026": "...", "\u2044": "/", "\u00d7": "x", "\u00a9": "(c)", "\u00ae": "(R)", "\u03bc": "u",
        "\u00df": "ss", "\u1e9e": "SS", "\u00e6": "ae", "\u00c6": "Ae", "\u0153": "oe", "\u0152": "Oe",
        "\u00fe": "th", "\u00de": "Th", "\u00f0": "d", "\u00d0": "D",
    }
)  # fmt: skip


class Prepared(NamedTuple):
    """A text that is ready to be written as a line."""

    text: str  # what is to stand on the paper
    letters: str  # what the network writes, a character for each of `text`; the rest is drawn (`ink.accents`)
    codes: np.ndarray  # (U,) int64, of the letters

    @property
    def has_signs(self) -> bool:
        """Whether any of the letters is a blank for a sign."""
        return any(letter == " " != character for letter, character in zip(self.letters, self.text, strict=True))


class Alphabet:
    """The characters that a network knows. A character's code is its place in `characters`."""

    def __init__(self, characters: str, counts: Sequence[int] | None = None):
        """`counts`: how often the network's training lines had each; without them all count as learned."""
        self.characters = characters
        self.learned = "".join(c for c, n in zip(characters, counts or [1] * len(characters), strict=True) if n)

    @property
    def blank(self) -> np.ndarray:
        """The code of a blank, (1,), or none, (0,), if it lacks that."""
        return self.encode(" " * (" " in self.characters))

    def encode(self, text: str) -> np.ndarray:
        """Codes of a text's characters, (U,) int64. Raises InputError that names those that the network lacks."""
        refuse_others(text, self.characters)
        return np.array([self.characters.index(character) for character in text], dtype=np.int64)

    def prepare(self, texts: Sequence[str]) -> tuple[list[Prepared], list[str]]:
        """Make texts ready to be written, each as one line.

        Characters that it lacks are replaced, such as curly quotes. Returns also a note for each that is not written as
        it is. Raises InputError for characters that cannot be written, and a text without characters or with too many.
        """
        replaced, notes = self.replace("\n".join(" ".join(text.split()) for text in texts))
        lines = replaced.split("\n")[: len(texts)]
        for line in lines:
            if not line:
                raise InputError("the text is empty; give some characters to write")
            if len(line) > MAX_CHARACTERS:
                raise InputError(
                    f"{len(line)} characters are too long for a line, which holds {MAX_CHARACTERS} at most; "
                    "write a page (--file, or --page A4), or cut the text in pieces"
                )
        return [self.spell(line) for line in lines], notes

    def prepare_page(self, text: str) -> tuple[str, list[str]]:
        """Likewise a text of paragraphs, whose pieces `spell` takes; blanks at the beginning of a line stay."""
        lines = text.expandtabs(4).splitlines()
        replaced, notes = self.replace("\n".join(" ".join(line.split()) for line in lines))
        if not replaced.strip():
            raise InputError("the text is empty; give some characters to write")
        indents = [" " * (len(line) - len(line.lstrip())) for line in lines]
        pairs = zip(indents, replaced.split("\n"), strict=True)
        return "\n".join(indent + line if line else "" for indent, line in pairs), notes

    def spell(self, text: str) -> Prepared:
        """A line of a text in which all that the network lacks is replaced, ready to be written."""
        letters = "".join(self._letter(character) or character for character in text)
        return Prepared(text, letters, self.encode(letters))

    def replace(self, text: str) -> tuple[str, list[str]]:
        """A text of some lines with characters replaced, and a note for each. Raises InputError for unknown ones."""
        pairs = [self._written(character) for character in unicodedata.normalize("NFC", text)]
        replaced = "".join(piece for piece, _ in pairs)
        refuse_others("".join(self._letter(c) or c for c in replaced if c != "\n"), self.learned)
        return replaced, list(dict.fromkeys(told for _, told in pairs if told))

    def _letter(self, character: str) -> str:
        """What the network writes of a character that is drawn in part, a blank for one that is drawn; else ""."""
        letter, _ = split_character(character) or ("", "")
        return letter if character not in self.learned and letter in self.learned else ""

    def _written(self, character: str) -> tuple[str, str]:
        """What is written for a character, itself if it was learned, is drawn, or has no replacement; and a note."""
        if character in self.learned + "\n":
            return character, ""
        if letter := self._letter(character):
            wrote = f"wrote {letter!r} for {character!r} and drew the rest"
            return character, f"drew {character!r}" if letter == " " else wrote
        plain = unicodedata.normalize("NFKD", character.translate(REPLACEMENTS)).translate(REPLACEMENTS).strip()
        plain = "".join(c for c in plain if not is_part(c))
        if (plain or is_part(character)) and set(plain) <= set(self.learned):
            return plain, f"wrote {plain!r} for {character!r}" if plain else f"left out {character!a}"
        return character, ""


def is_part(character: str) -> bool:
    """Whether a character only changes others: a combining mark, a variation selector, or one that is not seen."""
    return unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")


def refuse_others(text: str, known: str) -> None:
    """Raise InputError that names the characters of a text that are not among the known ones."""
    if unknown := sorted(set(text) - set(known)):
        raise InputError(f"the network never learned {' '.join(map(repr, unknown))}; it knows {known!r}")


def read_text(path: Path) -> str:
    """The text in a file, or on standard input for `-`. Raises InputError for one that cannot be read."""
    if str(path) == "-":
        name, data = "standard input", sys.stdin.buffer.read() if sys.stdin else b""
    elif not path.exists() or path.is_dir():
        raise InputError(f"{path}: no such file; name a text in UTF-8")
    else:
        name, data = str(path), path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text in UTF-8; save it as UTF-8") from None
    if not text.strip():
        raise InputError(f"{name}: there is no text in it")
    return text


def read_texts(path: Path) -> list[str]:
    """The texts in a file: the column `text` of a table, .csv or .tsv, or else each line. InputError for no texts."""
    text, kind = read_text(path), path.suffix.lower()
    if kind not in (".csv", ".tsv"):
        return text.splitlines()
    first = text.partition("\n")[0]
    delimiter = "\t" if kind == ".tsv" else max(",;", key=first.count)
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        column = [name.strip().lower() for name in header].index("text")
        if long := [n for n, row in enumerate(rows, 2) if any(row[len(header) :])]:
            raise csv.Error(f"row {long[0]} has more cells than the first")
        if any(row[column:] for row in rows):
            return [row[column] if len(row) > column else "" for row in rows]
    except csv.Error as error:
        remedy = f'put a cell with {delimiter!r} or " between two ", and double those within'
        raise InputError(f"{path}: not a table of texts ({error}); {remedy}") from None
    except ValueError:
        raise InputError(
            f"{path}: no column of its first row is named text; name one, or give a .txt with a text a line"
        ) from None
    raise InputError(f"{path}: there is no text in it")
