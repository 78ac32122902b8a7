"""Scalable Vector Graphics for plotters: one path for each stroke."""

import numpy as np
from lxml import etree

from handwriting.ink.geometry import beziers
from handwriting.ink.pictures import Drawing, Sheet, to_hex


def svg_bytes(sheet: Sheet, drawing: Drawing) -> bytes:
    """A sheet for plotters: nothing in it but strokes, a path each, in the order of writing, and titles of groups.

    All groups are in one, which programs for plotters take for a layer.
    """
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
