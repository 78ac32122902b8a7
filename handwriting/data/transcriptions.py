"""The texts of IAM-OnDB: reading a form's transcription, and giving its lines the blanks that the pen wrote."""

import re

MAX_LINE_CHARACTERS = 1000  # the longest line of IAM-OnDB has 64
STRUCK_OUT = "#*"  # marks of words that were struck out or corrected: the ink there is not what the text says


def read_transcription(data: bytes) -> list[str]:
    """Lines of text under `CSR:` in a transcription file, blank ones left out. ValueError if it cannot be used."""
    _, _, corrected = data.decode("latin-1").partition("CSR:")
    lines = [line for line in corrected.replace("\r", "\n").split("\n") if line.strip()]
    if any(len(line) > MAX_LINE_CHARACTERS for line in lines):
        raise ValueError(f"a line of more than {MAX_LINE_CHARACTERS} characters")
    if not all(character.isprintable() or character.isspace() for line in lines for character in line):
        raise ValueError("control characters in its text")
    return lines


CONTRACTED = r"(?:s|t|d|m|ll|re|ve)\b(?!')"  # what follows an apostrophe: Lark's, don't, they'll
QUOTE = rf"(?:(?<!\w)(?:\"|'(?!{CONTRACTED}))|[\"'](?!\w))"  # a mark that is not within a word
# Neighbouring marks and the blanks around them, between the character before and the one after (or two points).
QUOTES = re.compile(rf"(?<=([^ ]))( ?)({QUOTE}(?: ?{QUOTE})*)( ?)(?=(\.\.|[^ ]))")
CLOSER = re.compile(r"([^ ]) ?'(?!\w)")  # a mark that can close a quotation, and the character before


def tidy_texts(lines: list[str]) -> list[str]:
    """Give a form's lines the blanks that the pen wrote: some transcriptions set every mark apart (`Mr . Lark ' s`)."""
    text = "\n".join(" ".join(line.split()) for line in lines)
    text = re.sub(r" \.(?: \.)+", lambda dots: dots[0].replace(" ", ""), text)  # we waited . . . then left
    text = re.sub(r"(?<=\d) (,(?= ?\d{3}\b)|\.(?= ?\d{2,3}\b)) ?", r"\1", text)  # 2 , 415 , 000
    text = re.sub(rf"(?:(?<=\w) ?|^)' ?(?={CONTRACTED})", "'", text, flags=re.MULTILINE)  # Lark ' s, they 'll
    text = re.sub(r" +(?=[,;:!?)\]])", "", text)  # so it was ) , [ sic ] ; why ?
    text = re.sub(r"(?<=[(\[]) +", "", text)  # ( so
    text = re.sub(r"(?<=\w) \.(?=[A-Za-z])", ". ", text)  # Mr .Lark
    text = re.sub(r"(?<!\.) \.(?![.\d])", ".", text)  # Mr . Lark; but ` ...` keeps its blank
    return tidy_quotations(text).split("\n")


def tidy_quotations(text: str) -> str:
    """Move quotation marks of a form that are set apart to the word before if they close, else to the word after."""
    opened = set()  # kinds of marks, " and ', whose quotation is open; it goes on from line to line

    def place(run: re.Match) -> str:
        before, left, marks, right, after = run.groups()
        marks = marks.replace(" ", "")
        if marks == "'" and "'" not in opened and before == "s" and (right or not re.match(r"\w", after)):
            closer = CLOSER.search(run.string, run.end())
            if closer is None or closer[1] == "s":  # `workers ' meeting`, and not `he plays ' golf '`
                return marks + right
        if twins := re.search(r"(.)\1", marks):  # `Why ? " " Look !`
            closing = twins.start() + 1
        elif before in "([\n":
            closing = 0
        elif after == "\n" or (after in ",.;:!?)]" and not right):
            closing = len(marks)
        elif bool(left) != bool(right):  # it touches one side and stays: writers copied the print with its mistakes
            closing = len(marks) if right else 0
        else:
            closing = next((number for number, mark in enumerate(marks) if mark not in opened), len(marks))
            if before in ",.!?" and after.islower():  # `Will you ? " she asked`, though the form lacks its beginning
                closing = max(closing, 1)
        closers, openers = marks[:closing], marks[closing:]
        if after == "\n" and (before.isalnum() or before == ":"):  # the quotation may begin on the next line
            opened.symmetric_difference_update(closers)
        else:
            opened.difference_update(closers)
        opened.update(openers)
        between = " " if closers and openers else ""
        return ("" if closers else left) + closers + between + openers + ("" if openers else right)

    return QUOTES.sub(place, f"\n{text}\n")[1:-1]
