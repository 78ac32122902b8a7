"""Scalable Vector Graphics: one path for each stroke out, polylines and paths in (SVG 1.1, chapters 7 to 9)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from lxml import etree

NAMESPACE = "http://www.w3.org/2000/svg"
MAX_POINTS = 1_000_000  # of all strokes of a file
TOLERANCE = 1e-3  # between a curve and its polyline, as a share of the drawing's size

NUMBER = re.compile(r"[\s,]*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
FLAG = re.compile(r"[\s,]*([01])")  # of an arc: no blank need follow
COMMAND = re.compile(r"[\s,]*([MmLlHhVvCcSsQqTtAaZz])")
ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
TRANSFORM = re.compile(r"[\s,]*(\w+)\s*\(([^)]*)\)")
INVISIBLE = {"defs", "clipPath", "mask", "pattern", "marker", "symbol"}  # what stands in them is not drawn itself


def svg_bytes(
    groups: Sequence[tuple[str | None, list[np.ndarray]]], width: float, height: float, pen_width: float, colour: str
) -> bytes:
    """A drawing of `width` times `height` mm, for plotters: nothing in it but strokes, in the order of writing.

    `groups` are titles (None for a group without one) with strokes (n, 2), n >= 2, in mm from the top left corner, y
    downwards. Each stroke is a path.
    """
    size = {"width": f"{width:g}mm", "height": f"{height:g}mm", "viewBox": f"0 0 {width:g} {height:g}"}
    root = etree.Element("svg", size, nsmap={None: NAMESPACE})
    pen = {
        "fill": "none", "stroke": colour, "stroke-width": f"{pen_width:g}", "stroke-linecap": "round",
        "stroke-linejoin": "round",
    }  # fmt: skip
    for title, strokes in groups:
        group = etree.SubElement(root, "g", pen)
        if title is not None:
            etree.SubElement(group, "title").text = title
        for stroke in strokes:
            places = " L".join(f"{x:.3f} {y:.3f}" for x, y in stroke.tolist())
            etree.SubElement(group, "path", d=f"M{places}")
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


@np.errstate(over="ignore", invalid="ignore")  # such coordinates are refused below
def read_svg(root: etree._Element, tolerance: float | None = None) -> list[tuple[str, list[np.ndarray]]]:
    """The strokes (n, 2) of all lines, polylines, polygons and paths, in the units of the outermost viewBox.

    They are grouped by the nearest `<g>` around them that has a `<title>`: (title, strokes) each, the title "" where
    there is none. Curves become polylines that are at most `tolerance` off (default: 0.1 % of the drawing's size).
    Raises ValueError for what cannot be read, or more than a million points.
    """
    if etree.QName(root).localname != "svg":
        raise ValueError("not an SVG drawing")
    groups = {}  # the shapes of each titled group, and of None
    for element, matrix, group in visible_elements(root):
        for start, pieces in element_shapes(element):
            moved = [piece @ matrix[:2, :2].T + matrix[:2, 2] for piece in (start[None], *pieces)]
            groups.setdefault(group, []).append(moved)
    corners = [piece for shapes in groups.values() for shape in shapes for piece in shape]
    if not corners:
        return []
    if not all(np.isfinite(piece).all() for piece in corners):
        raise ValueError("a coordinate that is not a finite number")
    if tolerance is None:
        tolerance = TOLERANCE * float(np.ptp(np.concatenate(corners), axis=0).max())
    found, total = [], 0
    for group, shapes in groups.items():
        strokes = []
        for shape in shapes:
            strokes.append(flatten(shape, tolerance))
            total += len(strokes[-1])
            if total > MAX_POINTS:
                raise ValueError(f"more than {MAX_POINTS} points")
        found.append((title_of(group) or "", strokes))
    return found


def local_name(element: etree._Element) -> str:
    """An element's name without its namespace, "" for a comment."""
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def title_of(element: etree._Element | None) -> str | None:
    """The text of an element's own `<title>`, blanks tidied."""
    for child in () if element is None else element:
        if local_name(child) == "title":
            return " ".join("".join(child.itertext()).split())
    return None


def visible_elements(root: etree._Element) -> Iterator[tuple[etree._Element, np.ndarray, etree._Element | None]]:
    """All elements that are drawn, in order, with their transform (3, 3) and the nearest titled `<g>` around them."""
    waiting = [(root, np.eye(3), None)]  # a stack, as files may be nested deeper than Python's calls
    while waiting:
        element, matrix, group = waiting.pop()
        name = local_name(element)
        if not name or name in INVISIBLE or element.get("display") == "none":
            continue
        matrix = matrix @ read_transform(element.get("transform", ""))
        if name == "g" and title_of(element) is not None:
            group = element
        yield element, matrix, group
        waiting += [(child, matrix, group) for child in reversed(element)]


def read_transform(text: str) -> np.ndarray:
    """The (3, 3) matrix of a transform attribute. Raises ValueError for one that cannot be read."""
    total, end = np.eye(3), 0
    for match in TRANSFORM.finditer(text):
        if match.start() != end:
            break
        total, end = total @ one_transform(match[1], read_numbers(match[2])), match.end()
    if text[end:].strip(" ,\t\r\n"):
        raise ValueError(f"a transform that cannot be read: {text[:60]!r}")
    return total


def one_transform(name: str, numbers: list[float]) -> np.ndarray:
    """The (3, 3) matrix of translate, scale, rotate, skewX, skewY or matrix."""
    matrix = np.eye(3)
    match name, len(numbers):
        case "matrix", 6:
            matrix[:2] = np.reshape(numbers, (3, 2)).T
        case "translate", 1 | 2:
            matrix[: len(numbers), 2] = numbers
        case "scale", 1 | 2:
            matrix[0, 0], matrix[1, 1] = numbers[0], numbers[-1]
        case "rotate", 1 | 3:
            cos, sin = math.cos(math.radians(numbers[0])), math.sin(math.radians(numbers[0]))
            matrix[:2, :2] = [[cos, -sin], [sin, cos]]
            center = np.array(numbers[1:] or [0.0, 0.0])
            matrix[:2, 2] = center - matrix[:2, :2] @ center
        case "skewX", 1:
            matrix[0, 1] = math.tan(math.radians(numbers[0]))
        case "skewY", 1:
            matrix[1, 0] = math.tan(math.radians(numbers[0]))
        case _:
            raise ValueError(f"the transform {name!r} with {len(numbers)} numbers")
    return matrix


def read_numbers(text: str) -> list[float]:
    """Numbers set apart by blanks or commas, or by nothing but their signs. Raises ValueError for anything else."""
    numbers, end = [], 0
    while match := NUMBER.match(text, end):
        numbers.append(float(match[1]))
        end = match.end()
    if text[end:].strip(" ,\t\r\n"):
        raise ValueError(f"not numbers: {text[:60]!r}")
    return numbers


def element_shapes(element: etree._Element) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """What an element draws: (start (2,), pieces) for each stroke, as from `read_path`; nothing if it is no shape."""
    match local_name(element):
        case "path":
            return read_path(element.get("d", ""))
        case "line":
            start, end = ([length(element, f"{axis}{n}") for axis in "xy"] for n in "12")
            return [(np.array(start), [np.array([end])])]
        case "polyline" | "polygon" as name:
            numbers = read_numbers(element.get("points", ""))
            if len(numbers) % 2:
                raise ValueError("a polyline with an x that has no y")
            places = np.reshape(numbers, (-1, 2))
            if name == "polygon":
                places = np.concatenate([places, places[:1]])
            return [(places[0], [place[None] for place in places[1:]])] if len(places) else []
    return []


def length(element: etree._Element, name: str) -> float:
    """An attribute that is a number, 0 if it is missing."""
    numbers = read_numbers(element.get(name, "0").removesuffix("px"))
    if len(numbers) != 1:
        raise ValueError(f"{name}={element.get(name)!r} is not a number")
    return numbers[0]


def path_commands(data: str) -> Iterator[tuple[str, list[float]]]:
    """The commands of a path's data, each with its numbers; a letter left out is put in (SVG 1.1, 8.3)."""
    end, letter = 0, ""
    while data[end:].strip(" ,\t\r\n"):
        match = COMMAND.match(data, end)
        if match:
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


def read_path(data: str) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """A path's strokes: (start (2,), pieces) each, a piece being the end (1, 2) of a straight line or the last three
    control points (3, 2) of a cubic Bezier curve. Raises ValueError for data that cannot be read.
    """
    shapes, pieces = [], []
    here = start = np.zeros(2)
    control, before = here, ""  # the last curve's second control point, and the command before
    for letter, numbers in path_commands(data):
        command, base = letter.upper(), here if letter.islower() else np.zeros(2)
        if command == "M":
            here = start = base + numbers
            pieces = []
            shapes.append((start, pieces))
        elif not shapes:
            raise ValueError("path data that does not begin with M")
        else:
            new, control = path_pieces(command, numbers, base, here, start, control, before)
            pieces += new
            here = pieces[-1][-1] if pieces else here
        before = command
    return [(start, pieces) for start, pieces in shapes if pieces]  # a move alone draws nothing


def path_pieces(
    command: str, numbers: list[float], base: np.ndarray, here: np.ndarray, start: np.ndarray, control: np.ndarray,
    before: str,
) -> tuple[list[np.ndarray], np.ndarray]:  # fmt: skip
    """What one command draws from `here`, as pieces of `read_path`, and the control point that S or T reflects."""
    if command in "HV":
        end = here.copy()
        axis = "HV".index(command)
        end[axis] = base[axis] + numbers[0]
        return [end[None]], end
    if command == "Z":
        return ([] if np.array_equal(here, start) else [start[None]]), start
    if command == "A":
        return arc(here, numbers, base + numbers[5:]), control
    places = base + np.reshape(numbers, (-1, 2))
    if command == "L":
        return [places], places[0]
    if command in "ST":  # the first control point is the last one's mirror image
        reflected = 2 * here - control if before in ("CS" if command == "S" else "QT") else here
        places = np.concatenate([reflected[None], places])
    if command in "QT":  # a quadratic curve as a cubic one
        middle, end = places
        return [np.array([here + 2 / 3 * (middle - here), end + 2 / 3 * (middle - end), end])], middle
    return [places], places[1]


def arc(here: np.ndarray, numbers: list[float], end: np.ndarray) -> list[np.ndarray]:
    """An elliptical arc as cubic curves, by the formulas of SVG 1.1, appendix F.6; each is 0.03 % of a radius off."""
    radii = np.abs(numbers[:2])
    if np.array_equal(here, end):
        return []
    if not radii.all():
        return [end[None]]
    angle = math.radians(numbers[2])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    x, y = half = turn.T @ (here - end) / 2
    radii = radii * math.sqrt(max(1.0, float(((half / radii) ** 2).sum())))  # too small ones grow
    a, b = radii
    root = math.sqrt(max(0.0, (a * b) ** 2 / ((a * y) ** 2 + (b * x) ** 2) - 1))
    large, sweep = numbers[3] == 1, numbers[4] == 1
    center = (1 if large != sweep else -1) * root * np.array([a * y / b, -b * x / a])
    first, last = (math.atan2(v[1], v[0]) for v in ((half - center) / radii, (-half - center) / radii))
    span = (last - first) % (2 * math.pi) - (0 if sweep else 2 * math.pi)
    count = math.ceil(abs(span) / (math.pi / 2) - 1e-9)
    reach = 4 / 3 * math.tan(span / count / 4)
    pieces = []
    for number in range(count):
        begin, stop = (first + span * (number + side) / count for side in (0, 1))
        unit = np.array(
            [
                [math.cos(begin) - reach * math.sin(begin), math.sin(begin) + reach * math.cos(begin)],
                [math.cos(stop) + reach * math.sin(stop), math.sin(stop) - reach * math.cos(stop)],
                [math.cos(stop), math.sin(stop)],
            ]
        )
        pieces.append((unit * radii + center) @ turn.T + (here + end) / 2)
    pieces[-1][-1] = end
    return pieces


def flatten(shape: list[np.ndarray], tolerance: float) -> np.ndarray:
    """A stroke (n, 2) through a start (1, 2) and pieces of `read_path`, at most `tolerance` off.

    A polyline of n parts is off by at most a cubic curve's greatest second derivative by 8 n^2, which is six times the
    greatest second difference of its control points.
    """
    parts = [shape[0]]
    for piece in shape[1:]:
        if len(piece) == 3:
            control = np.concatenate([parts[-1][-1:], piece])  # (4, 2)
            bend = float(np.hypot(*np.diff(control, n=2, axis=0).T).max())
            count = min(1000, max(1, math.ceil(math.sqrt(0.75 * bend / max(tolerance, 1e-12)))))
            t = np.arange(1, count + 1)[:, None] / count
            weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
            parts.append(weights @ control)
        else:
            parts.append(piece)
    return np.concatenate(parts)
