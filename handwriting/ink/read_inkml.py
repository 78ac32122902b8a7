"""Ink Markup Language in (https://www.w3.org/TR/InkML/): which traces make a line, and what their numbers are."""

import re

import numpy as np
from lxml import etree

Order = tuple[int, int, np.ndarray]  # where X and Y stand among the channels, and their directions (2,): 1 or -1
USUAL_ORDER: Order = 0, 1, np.array([1, 1])
ID = "{http://www.w3.org/XML/1998/namespace}id"
TEXTS = ("normalizedLabel", "label", "truth", "transcription")  # types of annotations that say what the ink says
LATEX = re.compile(r"\\[A-Za-z]|[_^]\{|^\$.*\$$")
MAX_POINTS = 100_000  # of all traces
# A value of a trace (InkML, 3.2.1): explicit (!), a difference (') or a difference of differences ("), which hold for
# the values that follow in the channel; * for an unchanged one. X and Y cannot be ? (none), T, F or a hexadecimal.
VALUE = re.compile(r""" ?([!'"]?) ?(?:([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|\*)|\#[0-9a-fA-F]+|[?TF])""")


def read_inkml(root: etree._Element) -> list[tuple[str, list[np.ndarray]]]:
    """Lines of InkML: (text or "", strokes (n, 2)) each, y downwards. Raises ValueError for what cannot be read.

    Where the file has a text, it is one line. Else each outermost traceGroup and traceView is one, and so are the
    traces that are in none of them.
    """
    if etree.QName(root).localname != "ink":
        raise ValueError("not InkML")
    named = {key: element for element in root.iter(etree.Element) if (key := element.get(ID) or element.get("id"))}
    places, left, parts = read_traces(root, named), MAX_POINTS, []
    for kind in ("trace", "traceGroup", "traceView"):
        for part in root.iterfind(f"{{*}}{kind}"):
            parts.append((part, traces_of(part, named)))
            left -= sum(1 + len(places[trace]) for trace in parts[-1][1])
            if left < 0:
                raise ValueError(f"more than {MAX_POINTS} points")
    in_groups = {trace for part, traces in parts for trace in traces if trace is not part}
    alone = [part for part, traces in parts if traces == [part] and part not in in_groups]
    lines = [(root, alone), *(each for each in parts if each[1] != [each[0]])]
    if text_of(root) is not None:  # of all that is there; groups are its words or symbols
        lines = [(root, list(dict.fromkeys(trace for _, traces in parts for trace in traces)))]
    found = [(text_of(element) or "", join_traces(traces, places)) for element, traces in lines]
    return [(text, strokes) for text, strokes in found if strokes]


def traces_of(group: etree._Element, named: dict[str, etree._Element]) -> list[etree._Element]:
    """The traces in a group or a view, and those that it names, each once."""
    waiting, seen = [group], {}
    while waiting:
        element = waiting.pop()
        if element not in seen:
            seen[element] = etree.QName(element).localname == "trace"
            referred = named.get(element.get("traceDataRef", "").lstrip("#"))
            waiting += reversed([*element.iterchildren(etree.Element), *([] if referred is None else [referred])])
    return [element for element, is_trace in seen.items() if is_trace]


def text_of(element: etree._Element) -> str | None:
    """What an annotation says that the ink says: "" for LaTeX, which is no text, None without an annotation."""
    said = {annotation.get("type"): annotation for annotation in element.iterfind("{*}annotation")}
    texts = [str(said[kind].xpath("normalize-space()")) for kind in TEXTS if kind in said]
    return next((text for text in texts if text and not LATEX.search(text)), "") if texts else None


def read_order(element: etree._Element, named: dict[str, etree._Element]) -> Order | None:
    """How the traces of a context, or of a whole file, are to be read; None if it has no format with X and Y."""
    for _ in range(5):  # an ink source or a format that it names, or a context that it goes on from
        for form in element.iter("{*}traceFormat"):
            channels = {channel.get("name"): (n, channel) for n, channel in enumerate(form.iter("{*}channel"))}
            if {"X", "Y"} <= channels.keys():
                (x, first), (y, second) = channels["X"], channels["Y"]
                return x, y, np.array([-1 if each.get("orientation") == "-ve" else 1 for each in (first, second)])
        links = [element.get(name, "").lstrip("#") for name in ("traceFormatRef", "inkSourceRef", "contextRef")]
        if not (targets := [named[link] for link in links if link in named]):
            break
        element = targets[0]
    return None


def read_traces(root: etree._Element, named: dict[str, etree._Element]) -> dict[etree._Element, np.ndarray]:
    """The positions (n, 2) of all traces, none where the pen is up. Raises ValueError as `read_trace`."""
    usual, orders, places, left = read_order(root, named) or USUAL_ORDER, {}, {}, MAX_POINTS
    for trace in root.iter("{*}trace"):
        text = "".join(trace.itertext()) if trace.get("type") != "penUp" else ""
        if (left := left - text.count(",") - 1) < 0:
            raise ValueError(f"more than {MAX_POINTS} points")
        context = (trace.get("contextRef") or trace.getparent().get("contextRef") or "").lstrip("#")
        if context not in orders:
            orders[context] = (read_order(named[context], named) if context in named else None) or usual
        places[trace] = read_trace(text, orders[context])
    return places


def join_traces(traces: list[etree._Element], places: dict[etree._Element, np.ndarray]) -> list[np.ndarray]:
    """The strokes (n, 2) of traces, those in several parts as one."""
    strokes, owners = [], {}
    for trace in traces:
        if len(places[trace]):
            prior = owners.get(trace.get("priorRef", "").lstrip("#"))
            if prior is None or trace.get("continuation") not in ("middle", "end"):
                strokes.append(prior := [])
            prior.append(places[trace])
            owners[trace.get(ID) or trace.get("id")] = prior
    return [np.concatenate(stroke) for stroke in strokes]


def read_trace(text: str, order: Order) -> np.ndarray:
    """The positions (n, 2) of a trace, which is points apart by commas. Raises ValueError for one that is not."""
    x, y, signs = order
    mode, value, change, positions = {x: "!", y: "!"}, {x: 0.0, y: 0.0}, {x: 0.0, y: 0.0}, []
    for point in filter(None, (" ".join(part.split()) for part in text.split(","))):
        found = list(VALUE.finditer(point))
        is_read = "".join(match[0] for match in found) == point and len(found) > max(x, y)
        if not (is_read and found[x][2] and found[y][2]):
            raise ValueError(f"a trace with a point that cannot be read: {point[:40]!r}")
        for channel in (x, y):
            mode[channel], number = found[channel][1] or mode[channel], found[channel][2]
            base = {"!": -value[channel], "'": 0.0, '"': change[channel]}[mode[channel]]
            change[channel] = 0.0 if number == "*" else float(number) + base
            value[channel] += change[channel]
        positions.append((value[x], value[y]))
    return np.array(positions).reshape(-1, 2) * signs
