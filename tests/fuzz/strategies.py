"""What the cases are made of."""

import io

import numpy as np
import torch
from conftest import CHARSET
from hypothesis import strategies as st

ODD = "\u00e9\u201c\u2014\u200b\u0301\ufb01\u65e5\U0001f600\ufeff\u202e\x00\x1b\x7f\x85\t\n\r\f\udc80\udcff-'\"<&\\%"
TEXTS = st.text(st.sampled_from(CHARSET) | st.characters() | st.sampled_from(ODD), max_size=20)
ARGUMENTS = TEXTS.map(lambda text: text.replace("\0", ""))  # the system passes none
KNOWN = st.text(CHARSET, min_size=1, max_size=8)
ODD_NUMBERS = st.sampled_from(
    ["", " ", "-", "nan", "inf", "-inf", "1e308", "1e309", "1e-300", "-0", "0x10", "1_0", "\u0663", "1,5", "9" * 5000]
    + [str(2**bits + more) for bits in (31, 62, 63, 64, 100) for more in (-1, 0)]
)
NUMBERS = st.integers(-2, 30).map(str) | st.floats(-2, 30).map(str) | ODD_NUMBERS | st.floats().map(str)
ODD_VALUES = st.sampled_from(
    [None, True, -1, 0, 1, 3, 2**31, 2**63, 10**500, 1.5, np.nan, np.inf, -1e300, "", "a", "\0", [], {}, [[]], [1, "a"],
     {"a": 1}, {0: {}}]
)  # fmt: skip


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Bytes with some bits flipped, a block zeroed, doubled or taken out, bytes put in, or the end cut off."""
    place, length = draw(st.integers(0, max(len(data) - 1, 0))), draw(st.sampled_from([1, 4, 64, 512, 4096]))
    block, rest = data[place : place + length], data[place + length :]
    bits = bytes(byte ^ draw(st.integers(1, 255)) for byte in block[:2])
    new = {"bits": bits + block[2:], "zero": bytes(len(block)), "double": 2 * block, "out": b"", "in": b"\xff" + block}
    kind = draw(st.sampled_from([*new, "cut"]))
    return data[:place] + (new[kind] + rest if kind in new else b"")


@st.composite
def odd_arrays(draw, array: np.ndarray) -> np.ndarray:
    """An array of another type, shape or size, or with other numbers in it."""
    kind = draw(st.sampled_from(["type", "times", "shape", "number"]))
    if kind == "shape":
        parts = [array[:-1], array[:0]] if array.ndim else []
        return draw(st.sampled_from([array.reshape(-1), array[None], np.repeat(array, 2), *parts]))
    if kind == "type" and array.dtype.kind != "U":
        return array.astype(
            draw(st.sampled_from(["f2", "f4", "f8", "c8", "i1", "i2", "i8", "u8", "?", "U3", "S2", "O"]))
        )
    factor = draw(st.sampled_from([-1, 2, 1000, 1e10, 1e30, 1e300, 1e-30, 1e-300, np.nan, np.inf, 0]))
    if kind == "times" and array.dtype.kind in "if" and array.size:
        new = array.astype(float).ravel()
        new[draw(st.integers(0, array.size - 1)) if draw(st.booleans()) else ...] *= factor
        return np.nan_to_num(new).astype(array.dtype).reshape(array.shape) if array.dtype.kind == "i" else new
    return np.array(factor)


@st.composite
def changed(draw, content: dict | list) -> dict | list:
    """Nested values and tensors with something in them taken out, or replaced by something else."""
    copy = content.copy()
    key = draw(st.sampled_from(list(copy) if isinstance(copy, dict) else range(len(copy))))
    is_odd, old = draw(st.integers(0, 3)) == 0, copy[key]
    if isinstance(old, dict | list) and old and not is_odd:
        copy[key] = draw(changed(old))
    elif isinstance(old, torch.Tensor) and not is_odd:
        new = draw(odd_arrays(old.numpy()).filter(lambda array: array.dtype.kind not in "USO"))
        copy[key] = torch.from_numpy(new.copy()).to(draw(st.sampled_from([old.dtype, None])))
    elif draw(st.booleans()):
        copy[key] = draw(ODD_VALUES)
    else:
        del copy[key]
    return copy


@st.composite
def changed_npz(draw, data: bytes) -> bytes:
    """An .npz with other arrays in place of some of its own, or damaged."""
    if draw(st.booleans()):
        return draw(damaged(data))
    arrays, file = dict(np.load(io.BytesIO(data))), io.BytesIO()
    with np.errstate(all="ignore"):
        for name in draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=2, unique=True)):
            arrays[name] = draw(odd_arrays(arrays[name]))
    np.savez(file, **arrays)
    return file.getvalue()


# XML of line files, drawings and InkML, well-formed or not quite.
HEADS = st.sampled_from(
    ["", "", "", '<?xml version="1.0" encoding="ISO-8859-1"?>', '<?xml version="1.0" encoding="UTF-16"?>', "\ufeff",
     '<?xml version="1.0" encoding="none"?>', '<!DOCTYPE a SYSTEM "letter.txt">', "<!-- - -->", "<?a b?>",
     '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]>']
)  # fmt: skip
PLACES = st.integers(-300, 300).map(str) | st.sampled_from(["0", "1e9", "-1e308", "1e999", "nan", "\u0663", "x", "&y;"])
ROWS = st.lists(PLACES, max_size=8).map(" ".join)
PATHS = st.lists(st.tuples(st.sampled_from("MmLlHhVvCcSsQqTtAaZz"), ROWS).map("".join), max_size=5).map("".join)
TRACES = st.lists(st.tuples(st.sampled_from(["", "!", "'", '"', "*", "?", "#f"]), ROWS).map("".join), max_size=5)
TRANSFORMS = st.tuples(st.sampled_from(["matrix", "scale", "rotate", "skewX", "translate", "a"]), ROWS)
POINTS = st.builds('<Point x="{}" y="{}" time="{}"/>'.format, PLACES, PLACES, PLACES)
SHAPES = st.one_of(
    POINTS, PATHS.map('<path d="M0 0L9 9{}"/>'.format), TRACES.map(", ".join).map("<trace>{}</trace>".format),
    ROWS.map('<polyline points="{}"/>'.format), PLACES.map('<line x1="0" y1="0" x2="9" y2="{}"/>'.format),
    KNOWN.map('<title>{0}</title><annotation type="truth">{0}</annotation>'.format), TEXTS.map("<!-- {} -->".format),
    st.just('<traceFormat><channel name="Y" orientation="-ve"/><channel name="T"/><channel name="X"/></traceFormat>'),
)  # fmt: skip
GROUPS = st.builds(
    '<{0} transform="{1[0]}({1[1]})">{2}</{0}>'.format, st.sampled_from(["g", "g", "traceGroup", "a:b", "defs"]),
    TRANSFORMS, st.lists(SHAPES, max_size=5).map("".join),
)  # fmt: skip
STROKES = st.lists(POINTS, max_size=5).map("".join).map("<Stroke>{}</Stroke>".format)


@st.composite
def xml(draw, root: str) -> bytes:
    """A file with a root element of a name."""
    body = "".join(
        draw(st.lists(STROKES, max_size=5) if draw(st.booleans()) else st.lists(SHAPES | GROUPS, max_size=6))
    )
    text = f'{draw(HEADS)}<{root} xmlns:a="a">{body}</{root}>'
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"])), "replace")
    return draw(damaged(data)) if draw(st.integers(0, 4)) == 0 else data
