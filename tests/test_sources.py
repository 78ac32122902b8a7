"""Where IAM-OnDB is found, and archives that are made to harm: never a traceback, a hang, or a part taken for all."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_preprocessing import line_path, line_xml, prepare, put, source_files

from handwriting.data import sources
from handwriting.data.sources import read_files
from handwriting.program import InputError


def tar_of(files, mode="w"):
    """The bytes of a .tar of files by path."""
    with tarfile.open(fileobj=(data := io.BytesIO()), mode=mode) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def zip_of(files):
    """The bytes of a .zip of files by path."""
    with zipfile.ZipFile(data := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return data.getvalue()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What is made of the usual layout."""
    folder = tmp_path_factory.mktemp("usual")
    prepare(put(folder / "source", source_files()), folder / "data.npz")
    return (folder / "data.npz").read_bytes()


def under(prefix, files=None):
    """The files in folders of other names: `prefix` has {} where the collection was."""
    found = {}
    for path, data in (files or source_files()).items():
        top, slash, rest = path.partition("/")
        found[f"{prefix.format(top)}/{rest}" if slash else path] = data
    return found


def packed(name, pack, prefix="{}"):
    """Each collection as an archive of its own, and the lists beside them."""
    files = source_files()
    found = {path: data for path, data in files.items() if "/" not in path}
    for top in ("lineStrokes", "ascii"):
        own = {path: data for path, data in files.items() if path.startswith(f"{top}/")}
        found[name.format(top)] = pack(under(prefix, own))
    return found


LAYOUTS = {
    "nested": lambda: under("{0}-all/{0}"), "lower case": lambda: {p.lower(): d for p, d in source_files().items()},
    "one folder down": lambda: {f"iam/online/{path}": data for path, data in source_files().items()},
    "tar": lambda: packed("{}-all.tar", tar_of), "tgz": lambda: packed("{}.tgz", lambda files: tar_of(files, "w:gz")),
    "flat": lambda: packed("{}-all.tar.gz", lambda files: tar_of({Path(p).name: d for p, d in files.items()}, "w:gz")),
    "zips": lambda: packed("{}-all.zip", zip_of, "a/{}"), "one zip": lambda: {"IAM.zip": zip_of(under("iam/{0}-all"))},
    "one tar": lambda: {"mirror.tar": tar_of({f"m/{path}": data for path, data in source_files().items()})},
    "from macOS": lambda: {"i.zip": zip_of({f"x/lineStrokes/._{n}.xml": b"x" for n in "ab"} | source_files())},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_mirrors_give_the_same_bytes(layout, expected, tmp_path):
    files = layout()
    prepare(put(tmp_path / "source", files), tmp_path / "data.npz")
    assert (tmp_path / "data.npz").read_bytes() == expected
    if len(files) == 1:  # the archive may be named itself
        prepare(tmp_path / "source" / next(iter(files)), tmp_path / "again.npz")
        assert (tmp_path / "again.npz").read_bytes() == expected


def test_whole_pages_are_told_apart_from_lines(tmp_path, capsys):
    page = line_xml([[(10, 10, 1.0), (20, 10, 1.01)]]).replace(
        b"<StrokeSet>", b'<Form id="a01-000u"/><Transcription><TextLine text="a"/></Transcription><StrokeSet>'
    )
    prepare(put(tmp_path / "source", source_files() | {line_path("a01-000u", 2): page}))
    assert "skipped a01-000u-02: a whole page of IAM-OnDB's original files" in capsys.readouterr().out


def header(name="lineStrokes/a01-000u-01.xml", size=0, kind=tarfile.REGTYPE):
    """A header of a .tar, with a content of blocks of zeros if it is short."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(-(-size // 512) * 512 if 0 <= size < 10**6 else 0)


def pax(**records):
    """A pax header with these records."""
    return tarfile.TarInfo("pax")._create_pax_generic_header(records, tarfile.XHDTYPE, "utf-8")


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
HOSTILE = {
    "long names": header("a", 9, tarfile.GNUTYPE_LONGNAME) * 5000, "pax": pax(a="b") * 5000,
    "sparse size": pax(**SPARSE | {"GNU.sparse.realsize": "abc"}) + header(),
    "sparse map": pax(**SPARSE) + header(size=512)[:512] + b"abc\n" + bytes(508),
    "old sparse map": pax(**{"GNU.sparse.map": "abc"}) + header(), "size": header(size=10**18),
    "negative": header(size=512) + header(size=-1024), "pax size": pax(size="-512") + header(size=512),
    "600 MB header": header("a", 600 << 20, tarfile.GNUTYPE_LONGNAME), "600 MB pax": header("a", 600 << 20, b"x"),
    "no end": header(size=512), "nothing": b"", "text": b"no archive" * 100,
}  # fmt: skip


@pytest.mark.parametrize("is_zipped", [True, False])
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_tar_is_refused_by_name(data, is_zipped, tmp_path):
    end = bytes(1024) if data and data is not HOSTILE["no end"] else b""
    archive = tmp_path / f"lineStrokes-all.tar{'.gz' * is_zipped}"
    archive.write_bytes(gzip.compress(data + end) if is_zipped else data + end)
    with pytest.raises(InputError, match=archive.name):
        list(read_files(tmp_path, "lineStrokes", ".xml"))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_archives_have_bounds(kind, tmp_path, monkeypatch):
    files = {f"lineStrokes/a01-000u-{n:02}.xml": bytes(9000) for n in range(1, 9)}
    archive = tmp_path / f"lineStrokes-all.{kind}"
    archive.write_bytes(zip_of(files) if kind == "zip" else tar_of(files, "w:gz" if "gz" in kind else "w"))
    assert len(list(read_files(tmp_path, "lineStrokes", ".xml"))) == 8
    for name, most in (("MOST_FILES", 7), ("MOST_BYTES", 50_000)):
        with monkeypatch.context() as patched, pytest.raises(InputError, match=f"{archive.name}: .*more than"):
            patched.setattr(sources, name, most)
            list(read_files(tmp_path, "lineStrokes", ".xml"))


def test_a_hostile_zip_is_refused_by_name(tmp_path):
    whole = zip_of({"lineStrokes/a01-000u-01.xml": b"abc" * 99})
    end, central = whole.rindex(b"PK\5\6"), whole.rindex(b"PK\1\2")
    long = whole[: end + 12] + (600 << 20).to_bytes(4, "little") + whole[end + 16 :]
    locked = bytearray(whole)
    locked[central + 8] |= 1
    locked[6] |= 1
    for data in (long, bytes(locked), whole[:-5], whole[:40] + b"\xff" * 9 + whole[49:]):
        (tmp_path / "lineStrokes-all.zip").write_bytes(data)
        with pytest.raises(InputError, match=r"lineStrokes-all\.zip: "):
            list(read_files(tmp_path, "lineStrokes", ".xml"))


def test_a_tar_that_is_cut_is_never_taken_for_a_whole_one(tmp_path):
    whole = tar_of({f"lineStrokes/a01-000u-{n:02}.xml": bytes(900) for n in range(1, 5)})
    archive = tmp_path / "lineStrokes-all.tar"
    for cut in range(0, 4 * 1536, 256):
        archive.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=archive.name):
            list(read_files(tmp_path, "lineStrokes", ".xml"))
