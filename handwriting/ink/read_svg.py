"""Scalable Vector Graphics in: the strokes of lines, polylines and paths, as they are shown (SVG 1.1, chapters 5 to 9).

What is not drawn is left out: by attributes, styles and style sheets. Outlines, filled shapes in the form of a stroke,
become their middles.
"""

import cmath
import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from lxml import etree

from handwriting.ink.geometry import resample

MAX_POINTS = 100_000  # of all strokes of a file
MAX_USED = 20_000  # elements that are seen through <use>, which can stand for many others of its kind
MAX_STYLED = 3_000_000  # elements times rules of style sheets
MAX_TRANSFORM = 10_000  # characters

NUMBER = re.compile(r"[\s,]*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)")
FLAG = re.compile(r"[\s,]*([01])")  # of an arc: no blank need follow
BLANK = re.compile(r"[\s,]*")
COMMAND = re.compile(r"[\s,]*([MmLlHhVvCcSsQqTtAaZz])")
ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
TRANSFORM = re.compile(r"(\w{1,12})\s*\(([^()]*)\)")
UNITS = {  # of CSS, in pixels and degrees
    "rem": 16.0, "em": 16.0, "ex": 8.0, "vw": 1.0, "vh": 1.0,
    "px": 1.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0, "pt": 96 / 72, "pc": 16.0,
    "deg": 1.0, "grad": 0.9, "rad": math.degrees(1), "turn": 360.0,
}  # fmt: skip
QUANTITY = re.compile(rf"{NUMBER.pattern}({'|'.join(UNITS)}|%)?")
SVG, XLINK = (f"http://www.w3.org/{name}" for name in ("2000/svg", "1999/xlink"))
NOT_SHOWN = {  # what stands in them is not drawn itself
    "defs", "clipPath", "mask", "pattern", "marker", "symbol", "metadata", "foreignObject", "style", "script",
}  # fmt: skip
INHERITED = ("visibility", "fill", "stroke", "stroke-width", "fill-opacity", "stroke-opacity")
WHITE = {"white", "#fff", "#ffffff", "rgb(255,255,255)", "rgb(100%,100%,100%)"}
ZERO = r"(?:0+(?:\.0*)?|\.0+)(?:%|[a-z]+)?"
NOTHING = re.compile(  # a colour, a width or an opacity that cannot be seen
    rf"none|transparent|\+?{ZERO}|rgba\((?:[^,]*,){{3}}{ZERO}\)|rgba?\([^/]*/{ZERO}\)|#(?:[\da-f]{{6}}00|[\da-f]{{3}}0)"
)
SELECTOR = re.compile(r"\s*([\w-]*|\*)((?:[.#][\w-]+)*)\s*")
Rule = tuple[tuple[int, ...], str, set[str], dict[str, str]]  # weight, kind of element, .class and #name, declarations
OUTLINE_CURVES = 8  # that the outline of a stroke has, at the least
OUTLINE_PARTS = 400  # that it is cut into
OUTLINE_WIDTH = 0.15  # the most width of a stroke, by the length of its outline


@np.errstate(over="ignore", invalid="ignore")  # such coordinates are refused below
def read_svg(root: etree._Element, tolerance: float | None = None) -> list[tuple[str, list[np.ndarray]]]:
    """The strokes (n, 2) of the lines, polylines, polygons and paths that are shown, in units of the outermost viewBox.

    They are grouped by the nearest `<g>` around them with a `<title>`: (title or "", strokes) each. Curves become
    polylines at most `tolerance` off (default: 0.1 % of the drawing's size). White areas without an outline are paper
    and left out. Raises ValueError for what cannot be read, or too many points.
    """
    if etree.QName(root).localname != "svg":
        raise ValueError("not an SVG drawing")
    titles, outlines, filled, left = [], [], [], MAX_POINTS
    for shown in shown_elements(root):
        for outline in read_path(path_data(shown.element, shown.viewport), left):
            titles.append(shown.title)
            filled.append(
                shown.is_filled and len(outline) > 3 * OUTLINE_CURVES and not (outline[0] - outline[-1]).any()
            )
            outlines.append(outline @ shown.transform[:2, :2].T + shown.transform[:2, 2])
            left -= len(outline) // 3
    if not outlines:
        return []
    places = np.concatenate(outlines)
    if not np.isfinite(places).all():
        raise ValueError("a coordinate that is not a finite number")
    wanted = 1e-3 * np.ptp(places, axis=0).max() if tolerance is None else tolerance
    tolerance = max(wanted, 1e-9 * np.abs(places).max(), 1e-12)  # rounding bends no straight line by more
    groups = {}
    for title, stroke in zip(titles, middles(flatten(outlines, tolerance), filled), strict=True):
        groups.setdefault(title, []).extend(stroke)
    texts = ("" if title is None else str(title.xpath("normalize-space()")) for title in groups)
    return [(text, strokes) for text, strokes in zip(texts, groups.values(), strict=True) if strokes]


class Shown(NamedTuple):
    """An element that is drawn."""

    element: etree._Element
    transform: np.ndarray  # (3, 3)
    title: etree._Element | None  # the nearest one of a `<g>`
    viewport: list[float]  # width and height, of which percentages are
    is_filled: bool  # and has no line around it


def shown_elements(root: etree._Element) -> Iterator[Shown]:
    """All elements that are drawn, in order, `<use>` followed."""
    named = {element.get("id"): element for element in root.iter(etree.Element) if element.get("id")}
    rules, used = read_rules(root), 0
    waiting = [(root, np.eye(3), {}, None, [100.0, 100.0], False)]  # a stack: files may be nested deeper than calls
    while waiting:
        element, transform, inherited, title, viewport, is_used = waiting.pop()
        if (used := used + is_used) > MAX_USED:
            raise ValueError(f"<use> elements that stand for more than {MAX_USED} others, or for themselves")
        name, style = etree.QName(element), style_of(element, rules)
        is_hidden = style.get("display") == "none" or NOTHING.fullmatch(style.get("opacity", "1"))
        if name.localname in NOT_SHOWN or is_hidden or name.namespace not in (None, SVG):
            continue
        inherited = inherited | {key: style[key] for key in INHERITED if style.get(key, "inherit") != "inherit"}
        if "transform" in style:
            transform = transform @ read_transform(style["transform"])
        if name.localname == "g" and (own := element.find("{*}title")) is not None:
            title = own
        children, is_used = list(element.iterchildren(etree.Element)), is_used or name.localname == "use"
        if name.localname in ("svg", "use"):
            view, viewport, children = read_view(element, viewport, named)
            transform = transform if element is root else transform @ view
        elif name.localname == "switch":  # the first that a reader of plain SVG understands
            children = [child for child in children if not child.get("requiredExtensions")][:1]
        is_filled, has_line = is_painted(inherited, "fill"), is_painted(inherited, "stroke")
        if inherited.get("visibility") not in ("hidden", "collapse") and (is_filled or has_line):
            yield Shown(element, transform, title, viewport, is_filled and not has_line)
        waiting += [(child, transform, inherited, title, viewport, is_used) for child in reversed(children)]


def is_painted(style: dict[str, str], kind: str) -> bool:
    """Whether something is seen of an element's "stroke" or "fill", in inherited styles; white areas are paper.

    What is not filled has a line, unless it is said that it has none.
    """
    usual = "none" if kind == "stroke" and style.get("fill") != "none" else "black"
    colour = style.get(kind, usual).lower().replace(" ", "")
    others = [style.get(f"{kind}-opacity", "1"), style.get(f"{kind}-width", "1")]
    return not (kind == "fill" and colour in WHITE) and not any(map(NOTHING.fullmatch, [colour, *others]))


def read_view(
    element: etree._Element, viewport: list[float], named: dict[str, etree._Element]
) -> tuple[np.ndarray, list[float], list[etree._Element]]:
    """Where an `<svg>` or `<use>` draws (3, 3), the viewport within, and what a `<use>` stands for."""
    link = element.get("href") or element.get(f"{{{XLINK}}}href") or ""
    target, is_use = named.get(link[1:]) if link.startswith("#") else None, element.tag.endswith("use")
    sides = []
    for name, whole in zip(("x", "y", "width", "height"), 2 * viewport, strict=True):
        match = QUANTITY.fullmatch(element.get(name, "").strip())  # else it is "auto"
        sides.append(to_pixels(match[1], match[2], whole) if match else whole * (name in ("width", "height")))
    view, size = np.array([[1.0, 0, sides[0]], [0, 1, sides[1]], [0, 0, 1]]), sides[2:]
    if is_use and (target is None or not target.tag.endswith("symbol")):
        return view, viewport, [] if target is None else [target]
    holder = element if target is None else target
    box = read_numbers(holder.get("viewBox", ""))
    if len(box) == 4 and min(box[2:]) > 0:
        scale, is_free = np.divide(size, box[2:]), holder.get("preserveAspectRatio", "").startswith("none")
        scale = scale if is_free else np.full(2, scale.min())
        view[:2, 2] += (size - scale * box[2:]) / 2 - scale * box[:2]  # in the middle, as usual
        view[[0, 1], [0, 1]], size = scale, box[2:]
    return view, size, list(holder.iterchildren(etree.Element))


def declarations(text: str) -> dict[str, str]:
    """What stands in a `style`, or between the braces of a style sheet."""
    parts = (part.partition(":") for part in text.split(";"))
    return {key.strip().lower(): value.partition("!")[0].strip() for key, _, value in parts}


def read_rules(root: etree._Element) -> list[Rule]:
    """The rules of all style sheets for elements by kind, class and name, the strongest last; @media is left out."""
    rules = []
    for sheet in root.iter("{*}style"):
        first, *rest = "".join(sheet.xpath("text()")).split("/*")
        parts, heads = re.split("([{}])", first + "".join(part.partition("*/")[2] for part in rest)), []
        for content, brace in zip(parts[::2], parts[1::2], strict=False):
            if brace == "{":
                heads.append(content.rpartition(";")[2])
            elif heads and (head := heads.pop()) and not heads:
                for match in filter(None, map(SELECTOR.fullmatch, head.split(","))):  # not such as :hover
                    weight = match[2].count("#"), match[2].count("."), len(match[1].strip("*")) > 0, len(rules)
                    marks = set(re.findall(r"[.#][^.#]+", match[2]))
                    rules += [(weight, match[1], marks, declarations(content))] if match[0].strip() else []
    if len(rules) * sum(1 for _ in root.iter()) > MAX_STYLED:
        raise ValueError("a style sheet of too many rules")
    return sorted(rules, key=lambda rule: rule[0])


def style_of(element: etree._Element, rules: list[Rule]) -> dict[str, str]:
    """What an element's attributes, the style sheets and its `style` say, which comes first."""
    style, kinds = dict(element.attrib), ("", "*", etree.QName(element).localname)
    marks = {f".{name}" for name in element.get("class", "").split()} | {f"#{element.get('id')}"}
    for _, kind, wanted, declared in rules:
        if kind in kinds and wanted <= marks:
            style |= declared
    return style | declarations(element.get("style", ""))


def read_transform(text: str) -> np.ndarray:
    """The (3, 3) matrix of a transform. Raises ValueError for one that cannot be read."""
    text, total = " ".join(text.replace(",", " ").split()), np.eye(3)
    if len(text) > MAX_TRANSFORM or TRANSFORM.sub("", text).strip() not in ("", "none"):
        raise ValueError(f"a transform that cannot be read: {text[:60]!r}")
    for match in TRANSFORM.finditer(text):
        matrix, numbers = np.eye(3), read_numbers(match[2])
        match match[1].lower(), len(numbers):
            case "matrix", 6:
                matrix[:2] = np.reshape(numbers, (3, 2)).T
            case "translate", 1 | 2:
                matrix[: len(numbers), 2] = numbers
            case "scale", 1 | 2:
                matrix[0, 0], matrix[1, 1] = numbers[0], numbers[-1]
            case ("translatex" | "translatey" | "scalex" | "scaley") as name, 1:
                matrix["xy".index(name[-1]), 2 if name.startswith("t") else "xy".index(name[-1])] = numbers[0]
            case "rotate", 1 | 3:
                turn, center = cmath.rect(1, math.radians(numbers[0])), np.array(numbers[1:] or [0.0, 0.0])
                matrix[:2, :2] = [[turn.real, -turn.imag], [turn.imag, turn.real]]
                matrix[:2, 2] = center - matrix[:2, :2] @ center
            case ("skewx" | "skewy") as name, 1:
                matrix[(0, 1) if name == "skewx" else (1, 0)] = math.tan(math.radians(numbers[0]))
            case name, count:
                raise ValueError(f"the transform {name!r} with {count} numbers")
        total = total @ matrix
    return total


def to_pixels(number: str, unit: str | None, whole: float) -> float:
    """A length in pixels, 96 to the inch, or an angle in degrees; a percentage is of the `whole`."""
    return float(number) * (whole / 100 if unit == "%" else UNITS.get(unit or "px", 1.0))


def read_numbers(text: str, viewport: Sequence[float] = (100.0,)) -> list[float]:
    """Numbers and lengths, apart by blanks, commas, or nothing but their signs; % of `viewport`'s numbers in turn."""
    text = " ".join(text.replace(",", " ").split())
    if QUANTITY.sub("", text).strip():
        raise ValueError(f"not numbers: {text[:60]!r}")
    found = QUANTITY.findall(text)
    return [to_pixels(number, unit, viewport[n % len(viewport)]) for n, (number, unit) in enumerate(found)]


def path_data(element: etree._Element, viewport: Sequence[float]) -> str:
    """An element as the data of a path: a line, polyline, polygon or path; "" for any other."""
    name, numbers = etree.QName(element).localname, []
    if name == "path":
        return element.get("d", "")
    if name == "line":
        numbers = read_numbers(" ".join(element.get(side, "0") for side in ("x1", "y1", "x2", "y2")), viewport)
    elif name in ("polyline", "polygon"):
        numbers = read_numbers(element.get("points", ""))
    return f"M{' '.join(map(str, numbers))}{'Z' if name == 'polygon' else ''}" if numbers else ""


def path_commands(data: str) -> Iterator[tuple[str, list[float]]]:
    """The commands of a path's data, each with its numbers; a letter left out is put in (SVG 1.1, 8.3)."""
    end, letter = 0, ""
    while not BLANK.fullmatch(data, end):
        if match := COMMAND.match(data, end):
            letter, end = match[1], match.end()
        elif letter in "Zz":  # also the empty one
            raise ValueError(f"path data that cannot be read: {data[end : end + 40]!r}")
        numbers = []
        for place in range(ARGUMENTS[letter.upper()]):
            match = (FLAG if letter in "Aa" and place in (3, 4) else NUMBER).match(data, end)
            if not match:
                raise ValueError(f"path data that cannot be read: {data[end : end + 40]!r} after {letter}")
            numbers.append(float(match[1]))
            end = match.end()
        yield letter, numbers
        letter = {"M": "L", "m": "l"}.get(letter, letter)  # further pairs after a move are lines


def read_path(data: str, most: int) -> list[np.ndarray]:
    """The strokes of a path's data, each m cubic Bezier curves (3 m + 1, 2): a start, and three control points a curve.

    Raises ValueError for data that cannot be read, and for more than `most` commands. Places are complex: x + i y.
    """
    outlines = []
    here, start, control, before = 0j, 0j, 0j, ""  # `control`: the last but one of a curve; `before`: the last command
    for letter, numbers in path_commands(data):
        command, base = letter.upper(), here if letter.islower() else 0j
        if (most := most - (4 if command == "A" else 1)) < 0:
            raise ValueError(f"more than {MAX_POINTS} points")
        if not outlines and command != "M":
            raise ValueError("path data that does not begin with M")
        curves = [base + complex(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=False)]
        match command:
            case "M":
                start = curves.pop()
                outlines.append([start])
            case "H":
                curves = [complex(base.real + numbers[0], here.imag)]
            case "V":
                curves = [complex(here.real, base.imag + numbers[0])]
            case "Z":
                curves = [start] if here != start else []
            case "A":
                try:
                    curves = arc(here, base + complex(*numbers[5:]), *numbers[:5])
                except (ValueError, ArithmeticError):  # radii of 1e300
                    raise ValueError(f"an arc that cannot be read: {numbers}") from None
            case "C" | "S" | "Q" | "T":
                if command in "ST":  # the first control point is the last one's mirror image
                    curves.insert(0, 2 * here - control if before in ("CS" if command == "S" else "QT") else here)
                control = curves[-2]
                if command in "QT":  # a quadratic curve as a cubic one
                    curves[:1] = [(here + 2 * control) / 3, (curves[-1] + 2 * control) / 3]
        if len(curves) == 1:  # a straight line, as a cubic curve
            curves[:0] = [(2 * here + curves[0]) / 3, (here + 2 * curves[0]) / 3]
        outlines[-1] += curves
        here, before = outlines[-1][-1], command
    return [np.array(outline).view(float).reshape(-1, 2) for outline in outlines if len(outline) > 1]


def arc(here: complex, end: complex, rx: float, ry: float, angle: float, large: float, sweep: float) -> list[complex]:
    """An elliptical arc as cubic curves (SVG 1.1, appendix F.6), each 0.03 % of a radius off; [end] if it is a line."""
    if here == end:
        return []
    if not rx or not ry:
        return [end]
    rx, ry, turn = abs(rx), abs(ry), cmath.rect(1, math.radians(angle))
    half = (here - end) / 2 / turn
    half = complex(half.real / rx, half.imag / ry)  # where the ellipse is a circle of radius 1, from the chord's middle
    grown = max(1.0, abs(half))  # a radius that is too small grows
    half /= grown
    center = (-1j if large != sweep else 1j) * half * math.sqrt(max(0.0, 1 / abs(half) ** 2 - 1))
    first = cmath.phase(half - center)
    span = (cmath.phase(-half - center) - first) % math.tau - (0 if sweep else math.tau)
    count = math.ceil(abs(span) / (math.pi / 2) - 1e-9)
    reach = 4j / 3 * math.tan(span / count / 4)
    curves = []
    for begin, stop in pairwise([cmath.rect(1, first + span * number / count) for number in range(count + 1)]):
        places = [center + place for place in (begin * (1 + reach), stop * (1 - reach), stop)]
        stretched = [grown * complex(rx * place.real, ry * place.imag) for place in places]
        curves += [(here + end) / 2 + turn * place for place in stretched]
    return [*curves[:-1], end]


def flatten(outlines: list[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """Strokes of m cubic curves each (3 m + 1, 2), see `read_path`, as strokes (n, 2) that are at most `tolerance` off.

    n parts are off by at most the curve's greatest second derivative, six times the greatest second difference of its
    control points, by 8 n^2. Raises ValueError for more than `MAX_POINTS` points.
    """
    sizes = [len(outline) // 3 for outline in outlines]
    begins = 3 * np.arange(sum(sizes)) + np.repeat(np.arange(len(sizes)), sizes)  # of all curves, among all points
    curves = np.concatenate(outlines)[begins[:, None] + np.arange(4)]  # (m, 4, 2)
    bends = np.hypot(*np.diff(curves, n=2, axis=1).T).max(0)  # (m,)
    counts = np.clip(np.ceil(np.sqrt(0.75 * bends / tolerance)), 1, 1000).astype(int)
    if counts.sum() + len(outlines) > MAX_POINTS:
        raise ValueError(f"more than {MAX_POINTS} points")
    owners, ends = np.repeat(np.arange(len(curves)), counts), np.cumsum(counts)
    t = (np.arange(1, len(owners) + 1) - (ends - counts)[owners]) / counts[owners]
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    parts = np.split(np.einsum("nk,nkd->nd", weights, curves[owners]), ends[np.cumsum(sizes) - 1])
    return [np.concatenate([outline[:1], part]) for outline, part in zip(outlines, parts, strict=False)]


def middles(strokes: list[np.ndarray], filled: list[bool]) -> list[list[np.ndarray]]:
    """For each of some strokes itself, or the middle of the outline that it is, or nothing for a filled area.

    Raises ValueError if there are many such areas.
    """
    found = [middle(stroke) if is_filled else stroke for stroke, is_filled in zip(strokes, filled, strict=True)]
    areas = sum(stroke is None for stroke in found)
    if 4 * areas > len(found):
        raise ValueError(f"{areas} of its {len(found)} strokes are filled areas; export lines, not their outlines")
    return [[] if stroke is None else [stroke] for stroke in found]


def middle(outline: np.ndarray) -> np.ndarray | None:
    """The middle (m, 2) of a stroke's outline (n, 2) that begins at one of its ends; None for one too wide.

    From that end, on both sides, it goes on to the nearest pair of places, until the sides meet.
    """
    length = np.hypot(*np.diff(outline, axis=0).T).sum()
    places = (resample(outline, length / min(OUTLINE_PARTS, 4 * len(outline))) @ [1, 1j]).tolist()
    left, right, pairs = 0, len(places) - 1, []
    while left < right:
        pairs.append((places[left], places[right]))
        steps = (left + 1, right - 1), (left + 1, right), (left, right - 1)
        left, right = min(steps, key=lambda step: abs(places[step[0]] - places[step[1]]))
    widths = [abs(one - other) for one, other in pairs]
    if not length or np.median(widths) > OUTLINE_WIDTH * length:
        return None
    return np.array([(one + other) / 2 for one, other in pairs]).view(float).reshape(-1, 2)
