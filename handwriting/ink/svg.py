"""Scalable Vector Graphics: one path for each stroke out; lines, polylines and paths in (SVG 1.1, chapters 5 to 9)."""

import cmath
import math
import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from lxml import etree

from handwriting.ink.geometry import beziers
from handwriting.ink.pictures import Drawing, Sheet

MAX_POINTS = 1_000_000  # of all strokes of a file
MAX_USED = 20_000  # elements that are seen through <use>, which can stand for many others of its kind

NUMBER = re.compile(r"[\s,]*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
FLAG = re.compile(r"[\s,]*([01])")  # of an arc: no blank need follow
BLANK = re.compile(r"[\s,]*")
COMMAND = re.compile(r"[\s,]*([MmLlHhVvCcSsQqTtAaZz])")
ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
TRANSFORM = re.compile(r"[\s,]*(\w{1,12})\s*\(([^()]*)\)")
UNITS = {"px": 1.0, "deg": 1.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0, "pt": 96 / 72, "pc": 16.0}  # CSS
QUANTITY = re.compile(rf"{NUMBER.pattern}({'|'.join(UNITS)})?")
NOT_SHOWN = {"defs", "clipPath", "mask", "pattern", "marker", "symbol"}  # what stands in them is not drawn itself
WHITE = {"white", "#fff", "#ffffff", "rgb(255,255,255)", "rgb(100%,100%,100%)"}


def svg_bytes(sheet: Sheet, drawing: Drawing) -> bytes:
    """A sheet for plotters: nothing in it but strokes, a path each, in the order of writing, and titles of groups.

    All groups are in one, which programs for plotters take for a layer.
    """
    from matplotlib.colors import to_hex

    width, height = f"{sheet.width:g}", f"{sheet.height:g}"
    size = {"width": f"{width}mm", "height": f"{height}mm", "viewBox": f"0 0 {width} {height}"}
    root = etree.Element("svg", size, nsmap={None: "http://www.w3.org/2000/svg"})
    pen = {"fill": "none", "stroke": to_hex(drawing.colour), "stroke-width": f"{drawing.pen_width:g}"}
    pen |= {"stroke-linecap": "round", "stroke-linejoin": "round"}
    layer = etree.SubElement(root, "g", pen)
    for title, strokes in sheet.groups:
        group = etree.SubElement(layer, "g")
        if title is not None:
            etree.SubElement(group, "title").text = title
        for stroke in strokes:
            etree.SubElement(group, "path", d=path_of(stroke, drawing.smooth))
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def path_of(stroke: np.ndarray, is_smooth: bool = False) -> str:
    """The data of a path along a stroke (n, 2), or along the smooth curve through its points."""
    places = [f"{x:.3f} {y:.3f}" for x, y in (beziers(stroke) if is_smooth else stroke).tolist()]
    return f"M{places[0]} C{' '.join(places[1:])}" if is_smooth else f"M{' L'.join(places)}"


@np.errstate(over="ignore", invalid="ignore")  # such coordinates are refused below
def read_svg(root: etree._Element, tolerance: float | None = None) -> list[tuple[str, list[np.ndarray]]]:
    """The strokes (n, 2) of the lines, polylines, polygons and paths that are shown, in units of the outermost viewBox.

    They are grouped by the nearest `<g>` around them with a `<title>`: (title or "", strokes) each. Curves become
    polylines at most `tolerance` off (default: 0.1 % of the drawing's size). White areas without an outline are paper
    and left out. Raises ValueError for what cannot be read, or more than a million points.
    """
    if etree.QName(root).localname != "svg":
        raise ValueError("not an SVG drawing")
    titles, outlines, left = [], [], MAX_POINTS
    for element, transform, title in shown_elements(root):
        for outline in read_path(path_data(element), left):
            titles.append(title)
            outlines.append(outline @ transform[:2, :2].T + transform[:2, 2])
            left -= len(outline) // 3
    if not outlines:
        return []
    places = np.concatenate(outlines)
    if not np.isfinite(places).all():
        raise ValueError("a coordinate that is not a finite number")
    wanted = 1e-3 * np.ptp(places, axis=0).max() if tolerance is None else tolerance
    tolerance = max(wanted, 1e-9 * np.abs(places).max(), 1e-12)  # rounding bends no straight line by more
    groups = {}
    for title, stroke in zip(titles, flatten(outlines, tolerance), strict=True):
        groups.setdefault(title, []).append(stroke)
    return [("" if title is None else str(title.xpath("normalize-space()")), found) for title, found in groups.items()]


def shown_elements(root: etree._Element) -> Iterator[tuple[etree._Element, np.ndarray, etree._Element | None]]:
    """All elements shown, in order, `<use>` followed, with their transform (3, 3) and the nearest title of a `<g>`."""
    named = {element.get("id"): element for element in root.iter(etree.Element) if element.get("id")}
    waiting, used = [(root, np.eye(3), {}, None, False)], 0  # a stack: files may be nested deeper than Python's calls
    while waiting:
        element, transform, inherited, title, is_used = waiting.pop()
        if (used := used + is_used) > MAX_USED:
            raise ValueError(f"<use> elements that stand for more than {MAX_USED} others, or for themselves")
        name, style = etree.QName(element).localname, dict(element.attrib)  # what its `style` says comes first
        declared = [part.partition(":") for part in element.get("style", "").split(";")]
        style |= {key.strip(): value.strip() for key, _, value in declared}
        if name in NOT_SHOWN or style.get("display") == "none":
            continue
        inherited = inherited | {key: style[key] for key in ("visibility", "fill", "stroke") if key in style}
        if "transform" in style:
            transform = transform @ read_transform(style["transform"])
        if name == "g" and (own := element.find("{*}title")) is not None:
            title = own
        fill = inherited.get("fill", "").lower().replace(" ", "")
        is_paper = fill in WHITE and inherited.get("stroke", "none") == "none"
        if inherited.get("visibility") not in ("hidden", "collapse") and not is_paper:
            yield element, transform, title
        children = list(element)
        if name == "use":
            link = element.get("href") or element.get("{http://www.w3.org/1999/xlink}href") or ""
            target = named.get(link[1:]) if link.startswith("#") else None
            children = [] if target is None else list(target) if etree.QName(target).localname == "symbol" else [target]
            transform = transform @ read_transform(f"translate({element.get('x', '0')} {element.get('y', '0')})")
            is_used = True
        children = [child for child in children if isinstance(child.tag, str)]  # no comments
        waiting += [(child, transform, inherited, title, is_used) for child in reversed(children)]


def read_transform(text: str) -> np.ndarray:
    """The (3, 3) matrix of a transform. Raises ValueError for one that cannot be read."""
    if TRANSFORM.sub("", text).strip(" ,\t\r\n") not in ("", "none"):
        raise ValueError(f"a transform that cannot be read: {text[:60]!r}")
    total = np.eye(3)
    for match in TRANSFORM.finditer(text):
        matrix, numbers = np.eye(3), read_numbers(match[2])
        match match[1].lower(), len(numbers):
            case "matrix", 6:
                matrix[:2] = np.reshape(numbers, (3, 2)).T
            case "translate", 1 | 2:
                matrix[: len(numbers), 2] = numbers
            case "scale", 1 | 2:
                matrix[0, 0], matrix[1, 1] = numbers[0], numbers[-1]
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


def read_numbers(text: str) -> list[float]:
    """Numbers set apart by blanks or commas, or by nothing but their signs; lengths become pixels, 96 to the inch."""
    if not BLANK.fullmatch(QUANTITY.sub("", text)):
        raise ValueError(f"not numbers: {text[:60]!r}")
    return [float(number) * UNITS.get(unit, 1.0) for number, unit in QUANTITY.findall(text)]


def path_data(element: etree._Element) -> str:
    """An element as the data of a path: a line, polyline, polygon or path; "" for any other."""
    name, numbers = etree.QName(element).localname, []
    if name == "path":
        return element.get("d", "")
    if name == "line":
        numbers = read_numbers(" ".join(element.get(side, "0") for side in ("x1", "y1", "x2", "y2")))
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
    for count, (letter, numbers) in enumerate(path_commands(data)):
        command, base = letter.upper(), here if letter.islower() else 0j
        if count > most:
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
