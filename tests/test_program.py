"""handwriting/program.py: files that are written whole or not at all, and how a program ends."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT, assert_refused, environment

import data_preprocessing
import generate
import train
from handwriting import program
from handwriting.program import InputError, atomic_write, check_writable


def written(path, data=b"new"):
    check_writable(path)
    with atomic_write(path) as file:
        file.write(data)
    return path.read_bytes()


@pytest.fixture
def device(tmp_path):
    """A device that is nobody's: the same one as /dev/null."""
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError:
        pytest.skip("only root can make devices")
    return path


def test_a_device_or_pipe_is_refused_and_stays(tmp_path, device):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(device)
    for path in (device, tmp_path / "pipe", tmp_path / "link", tmp_path):
        before = path.lstat()
        for use in (written, check_writable, lambda path: atomic_write(path).__enter__()):
            with pytest.raises(InputError, match=f"{path}: is "):
                use(path)
        assert os.path.samestat(before, path.lstat()) and not path.is_file()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/target")
    for data in (b"first", b"second"):  # the first makes the target
        assert written(tmp_path / "link", data) == data
        assert (tmp_path / "link").is_symlink() and (tmp_path / "folder" / "target").read_bytes() == data
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match="circle"):
        written(tmp_path / "circle")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["circle", "folder", "link", "target"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660])
def test_the_mode_of_an_existing_file_is_kept(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    assert written(path) == b"new" and stat.S_IMODE(path.stat().st_mode) == mode
    umask = os.umask(0o027)
    try:
        written(tmp_path / "fresh")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


def test_an_existing_file_is_replaced_on_windows_too(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "fchmod")  # it came to Windows with Python 3.13
    assert written(tmp_path / "file") == b"new" and written(tmp_path / "file", b"newer") == b"newer"


def test_names_may_be_as_long_as_the_file_system_takes(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    assert written(tmp_path / ("n" * longest)) == b"new"
    for use in (written, check_writable):
        with pytest.raises(InputError, match="name"):
            use(tmp_path / ("n" * (longest + 1)))
        with pytest.raises(InputError, match="name"):
            use(tmp_path / "new" / ("n" * (longest + 1)))
    assert not (tmp_path / "new").exists()


def test_two_programs_that_write_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as first:
        first.write(b"first")
        with atomic_write(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


def test_check_writable_makes_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "a" / "b" / "new"):
        check_writable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(InputError, match="file/new"):
        check_writable(tmp_path / "file" / "new")
    with pytest.raises(InputError, match="/proc"):  # not even by root
        check_writable(Path("/proc/new"))


# ------------------------------------------------------------------------------------------------ how a program ends


def run_code(code, redirect=""):
    """Run lines of Python as a program, with the shell's redirections."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=60)


PROGRAM = """
    import sys, warnings
    from handwriting.program import InputError, ResultError, note, run_cli

    def main():
        note("first\\nof\\x1b[31m two")
        print("output")
        warnings.warn("of a library")
        {end}

    run_cli(main)
"""


@pytest.mark.parametrize("redirect", [">&-", "<&- >&- 2>&-"])
def test_output_may_be_closed(redirect):
    result = run_code(PROGRAM.format(end=""), redirect)
    assert result.returncode == 0 and result.stdout == "" and "Traceback" not in result.stderr
    assert run_code(PROGRAM.format(end="raise InputError('bad')"), redirect).returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    assert_refused(run_code(PROGRAM.format(end=""), ">/dev/full"), os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("program", [generate, train, data_preprocessing])
def test_a_wrong_flag_is_one_line(program, run_here):
    assert_refused(run_here(program.main, "--seed=\na", "--x"), "--help")


def test_notes_are_told_safely_at_the_end_and_not_before_an_error():
    result = run_code(PROGRAM.format(end=""))
    assert (result.returncode, result.stdout, result.stderr) == (0, "output\n", "note: first of\\x1b[31m two\n")
    assert_refused(run_code(PROGRAM.format(end="raise InputError('bad\\r\\x07 name')")), "error: bad \\x07 name")
    result = run_code(PROGRAM.format(end="raise ResultError('wrong')"))
    assert result.returncode == 3
    assert result.stderr == "note: first of\\x1b[31m two\nerror: wrong\n"


def test_names_that_no_encoding_has_can_be_printed():
    result = run_code(PROGRAM.format(end="print('\\udcff')"))
    assert (result.returncode, result.stdout) == (0, "output\n\\udcff\n")


@pytest.mark.parametrize(
    "program", ["train.py", "generate.py", "data_preprocessing.py", "-m handwriting", "-m handwriting.compose"]
)
def test_ctrl_c_during_the_imports_ends_without_a_traceback(program, tmp_path):
    """A module that all of them import sends it."""
    (tmp_path / "argparse.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    result = subprocess.run(
        [sys.executable, *program.split(), "--help"], cwd=ROOT, env=environment() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_ends_without_a_traceback():
    result = run_code(PROGRAM.format(end="raise KeyboardInterrupt"))
    assert result.returncode == 130 and result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_stderr_that_cannot_be_written_changes_nothing():
    result = run_code(PROGRAM.format(end="print('line', file=sys.stderr)"), "2>/dev/full")
    assert (result.returncode, result.stdout) == (0, "output\n")
    for end, status in (("raise InputError('bad')", 2), ("raise ResultError('wrong')", 3)):
        assert run_code(PROGRAM.format(end=end), "2>/dev/full").returncode == status


def test_pictures_need_no_home_and_no_backend(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "junk")
    monkeypatch.setenv("HOME", "/dev/null/none")
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    end = "from matplotlib.figure import Figure; Figure().savefig(sys.stdout.buffer, format='svg')"
    result = run_code(PROGRAM.format(end=end))
    assert result.returncode == 0 and "</svg>" in result.stdout
    assert result.stderr == "note: first of\\x1b[31m two\n"


def test_without_a_terminal_progress_is_told_in_lines(monkeypatch, capsys):
    assert list(program.progress_bar(range(5), desc="early")) == [*range(5)]
    assert capsys.readouterr() == ("", "")  # nothing before the first minute is over
    monkeypatch.setattr(program, "LINE_EVERY", 0)
    with program.progress_bar(total=3, unit=" steps", desc="late") as bar:
        for _ in range(3):
            bar.update()
    out, told = capsys.readouterr()
    assert out == "" and "\r" not in told and len(told.splitlines()) >= 3
    assert all(line.startswith("late: ") and " steps" in line for line in told.splitlines())
