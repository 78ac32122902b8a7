"""Characters: those that a network knows, and what is written for those that it does not."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from handwriting.ink.accents import split_character
from handwriting.program import InputError

# What stands for characters that are neither learned nor drawn (`ink.accents`); accents that are not drawn are taken
# off, and what Unicode has a plain form for, such as ligatures and fractions, is written in it.
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


class Alphabet:
    """The characters that a network knows. A character's code is its place in `characters`."""

    def __init__(self, characters: str, counts: Sequence[int] | None = None):
        """`counts`: how often the network's training lines had each; without them all count as learned."""
        self.characters = characters
        self.learned = "".join(c for c, n in zip(characters, counts or [1] * len(characters), strict=True) if n)

    def encode(self, text: str) -> np.ndarray:
        """Codes of a text's characters, (U,) int64. Raises InputError that names those that it does not know."""
        self._refuse_others(text, self.characters)
        return np.array([self.characters.index(character) for character in text], dtype=np.int64)

    def _refuse_others(self, text: str, known: str) -> None:
        unknown = sorted(set(text) - set(known))
        if unknown:
            raise InputError(f"the network never learned {' '.join(map(repr, unknown))}; it knows {known!r}")

    def prepare(self, text: str) -> tuple[str, list[str]]:
        """Replace what the network did not learn and nobody draws (curly quotes, long dashes, ...) by what it did.

        Returns the text to write and, for each character that the network does not write as it is, a note that tells
        it. Raises InputError that names the characters that cannot be written, and for a text without any character.
        """
        notes, pieces = [], []
        for character in unicodedata.normalize("NFC", " ".join(text.split())):
            piece = self._replacement(character)
            if piece != character or character not in self.learned:
                told = self._note(character, piece)
                notes += [told] if told not in notes else []
            pieces.append(piece)
        prepared = "".join(pieces)
        if not prepared:
            raise InputError("the text is empty; give some characters to write")
        self._refuse_others(self.letters(prepared), self.learned)
        return prepared, notes

    def _note(self, character: str, piece: str) -> str:
        """What is told of a character for which `piece` is written, or which is drawn."""
        if not piece:
            return f"left out {character!a}"
        letter = self._letter(piece)
        if letter == " ":
            return f"drew {character!r}"
        return f"wrote {(letter or piece)!r} for {character!r}" + (" and drew the rest" if letter else "")

    def letters(self, text: str) -> str:
        """What the network writes of a prepared text, a character for each: letters without the marks that are drawn.

        `ink.accents.draw_marks` draws the difference.
        """
        return "".join(self._letter(character) or character for character in text)

    def _letter(self, character: str) -> str:
        """What the network writes of a character that is drawn in part, a blank for one that is drawn; else ""."""
        letter, _ = split_character(character) or ("", "")
        return letter if character not in self.learned and letter in self.learned else ""

    def _replacement(self, character: str) -> str:
        """What is written for a character: itself if it was learned, is drawn, or has no replacement."""
        if character in self.learned or self._letter(character):
            return character
        plain = unicodedata.normalize("NFKD", character.translate(REPLACEMENTS)).translate(REPLACEMENTS).strip()
        plain = "".join(c for c in plain if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
        is_invisible = unicodedata.combining(character) or unicodedata.category(character) == "Cf"
        return plain if (plain or is_invisible) and set(plain) <= set(self.learned) else character
