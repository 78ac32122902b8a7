"""utils.py: checkpoints that are damaged or crafted, files that are written, and how a program ends."""

import errno
import math
import os
import signal
import stat
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_refused, environment, run_script
from matplotlib.figure import Figure

from handwriting.figures import lines_figure, save_figure
from handwriting.program import InputError, atomic_write, check_writable
from model import Config, Model
from utils import load_checkpoint, save_checkpoint

SMALL = Config(num_layers=2, cell_size=8, num_clusters=2, K=2, num_chars=3)


def run_code(code, redirect=""):
    """Run lines of Python as a program, with the shell's redirections."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=60)


# --------------------------------------------------------------------------------------------------------- checkpoints

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of a run of `synthesis` after one step."""
    path = tmp_path_factory.mktemp("whole") / "synthesis.pt"
    torch.manual_seed(0)
    model = Model(SMALL)
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    save_checkpoint(
        path, model, "abc", [1, 0, 7], task="synthesis", settings={"seed": 0}, log=[{"epoch": 1}], step_log=[],
        progress={"step": 1}, optimizer=optimizer.state_dict(), fingerprint="f",
    )  # fmt: skip
    return path


def refusal(path):
    """The message by which a checkpoint is refused; "" if it is not."""
    try:
        load_checkpoint(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return str(error)
    return ""


def test_a_damaged_checkpoint_is_never_used(whole, tmp_path):
    data, bad = whole.read_bytes(), tmp_path / "bad.pt"
    with zipfile.ZipFile(whole) as archive:
        spans = []  # of the contents: what is between them means nothing
        for entry in archive.infolist():
            with archive.open(entry) as file:
                spans.append((file._orig_compress_start, entry.file_size))
    assert sum(size for _, size in spans) > len(data) / 4
    for start, size in spans:
        for at in range(start, start + size, 331):
            bad.write_bytes(data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])
            assert refusal(bad), at
    start, _ = max(spans, key=lambda span: span[1])
    bad.write_bytes(data[: start + 64] + bytes(64) + data[start + 128 :])
    assert "checksum" in refusal(bad)
    for end in range(0, len(data), 997):
        bad.write_bytes(data[:end])
        assert refusal(bad), end


def test_whole_checkpoint_loads_with_all_its_numbers(whole):
    model, content = load_checkpoint(whole)
    assert content["char_counts"] == [1, 0, 7] and not model.training
    torch.manual_seed(0)
    expected = Model(SMALL)
    for (name, found), first in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert found.requires_grad and found.dtype == torch.float32, name
        assert (found - (first - 1e-3)).abs().max() < 1e-6, name  # a first step of Adam is the step size
    text = torch.tensor([[0, 2, 1]])
    losses = model.losses(torch.ones(5, 1, 3), torch.ones(4, 1, dtype=torch.bool), text)[0]
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def with_weight(name, change):
    return lambda content: content["weights"].update({name: change(content["weights"][name])})


def with_config(**sizes):
    return lambda content: content["config"].update(sizes)


def with_parts(**parts):
    return lambda content: content.update(parts)


CRAFTED = {
    "version a float": with_parts(version=1.0), "version true": with_parts(version=True),
    "huge version": with_parts(version=10**500),
    "config no dict": with_parts(config=[1, 2]), "config unknown": with_config(cells=3),
    "config huge number": with_config(K=10**500), "layers a float": with_config(num_layers=2.0),
    "layers true": with_config(num_layers=True), "no layers": with_config(num_layers=0),
    "layers a tensor": with_config(num_layers=torch.ones(1)),
    "charset a list": with_parts(charset=["a", "b", "c"]), "charset twice": with_parts(charset="aba"),
    "counts no list": with_parts(char_counts="abc"), "counts of words": with_parts(char_counts=["a", "b", "c"]),
    "counts below 0": with_parts(char_counts=[1, 2, -1]), "counts huge": with_parts(char_counts=[1, 2, 2**80]),
    "counts too few": with_parts(char_counts=[1, 2]),
    "unknown task": with_parts(task="draw"), "task of a list": with_parts(task=["read"]),
    "other task": with_parts(task="rand_write"),
    "weights no dict": with_parts(weights=[]), "weights of lists": with_weight("head.bias", torch.Tensor.tolist),
    "weights of numbers": with_weight("head.bias", lambda weight: 3.0),
    "weights whole": with_weight("head.bias", torch.Tensor.int),
    "weights complex": with_weight("head.bias", lambda weight: weight.to(torch.complex64)),
    "weights not finite": with_weight("head.bias", lambda weight: weight * math.inf),
    "weights turned": with_weight("head.weight", lambda weight: weight.T.contiguous()),
    "weights one number": with_weight("head.weight", lambda weight: torch.zeros(1, 1).expand(weight.shape)),
    "weight missing": lambda content: content["weights"].pop("head.bias"),
    "weight too many": lambda content: content["weights"].update(more=torch.zeros(1)),
    "std 0": with_weight("std", torch.zeros_like), "std below 0": with_weight("std", lambda std: -std),
    "std tiny": with_weight("std", lambda std: std * 1e-30), "std huge": with_weight("std", lambda std: std * 1e10),
    "mean huge": with_weight("mean", lambda mean: mean + 1e10),
    "log no list": with_parts(log={}), "log of words": with_parts(log=["a"]),
    "steps of lists": with_parts(step_log=[[]]),
    "progress a list": with_parts(progress=[]), "settings a word": with_parts(settings="a"),
    "fingerprint a number": with_parts(fingerprint=3),
    "optimizer a list": with_parts(optimizer=[]), "optimizer empty": with_parts(optimizer={}),
    "optimizer without groups": lambda content: content["optimizer"].update(param_groups=[]),
    "optimizer of other weights": lambda content: content["optimizer"]["param_groups"][0].update(params=[0, 1]),
    "optimizer's shapes": lambda content: content["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
    "optimizer's words": lambda content: content["optimizer"]["state"][0].update(exp_avg="abc"),
    "optimizer's numbers": lambda content: content["optimizer"]["state"].update({99: {"step": torch.zeros(())}}),
}  # fmt: skip


@pytest.mark.parametrize("change", CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_checkpoint_is_refused(change, whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "bad.pt")
    message = refusal(tmp_path / "bad.pt")
    assert "not a checkpoint of this version" in message or "do not fit together" in message


@pytest.mark.parametrize("sizes", [{"num_layers": 10**6}, {"cell_size": 20_000}, {"num_clusters": 9999, "K": 9999}])
def test_sizes_are_compared_before_memory_is_taken(sizes, whole, tmp_path, monkeypatch):
    content = torch.load(whole, weights_only=True)
    content["config"] |= sizes
    torch.save(content, tmp_path / "bad.pt")
    most, made = 0, torch.nn.Parameter.__new__

    def make(cls, data=None, requires_grad=True):
        nonlocal most
        most = max(most, 0 if data is None or data.is_meta else data.numel())
        return made(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", make)
    assert "fit together" in refusal(tmp_path / "bad.pt") and most == 0


class Trap:
    def __reduce__(self):
        return bytearray, (10**9,)


@pytest.mark.parametrize("trap", [Trap(), Path("a"), torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()])
def test_what_else_a_pickle_can_hold_is_refused_in_our_words(trap, whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    torch.save(content | {"more": trap}, tmp_path / "bad.pt")
    message = refusal(tmp_path / "bad.pt")
    assert "something other than tensors and plain values" in message and "weights_only" not in message


def test_a_checkpoint_of_a_run_of_an_earlier_version_still_loads(whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    del content["step_log"], content["fingerprint"]
    torch.save(content, tmp_path / "earlier.pt")
    assert not refusal(tmp_path / "earlier.pt")


def test_a_run_of_version_1_gives_its_network_without_the_optimizer(whole, tmp_path):
    content = torch.load(whole, weights_only=True)
    content["version"] = 1
    cell = {name: content["weights"].pop(f"layers.0.cell.{name}") for name in NAMES}
    turned = {name: value.roll(SMALL.cell_size, 0) for name, value in cell.items()}  # output gates first
    of_point, of_window = turned["weight_ih"].split([3, SMALL.num_chars], dim=1)
    content["weights"] |= {
        "layers.0.input.weight": of_point.contiguous(), "layers.0.input.bias": turned["bias_ih"] + turned["bias_hh"],
        "layers.0.recurrent.weight": torch.cat([of_window, turned["weight_hh"]], dim=1),
    }  # fmt: skip
    torch.save(content, tmp_path / "version_1.pt")
    model, found = load_checkpoint(tmp_path / "version_1.pt")
    assert "optimizer" not in found  # it is of other weights
    batch = torch.ones(5, 1, 3), torch.ones(4, 1, dtype=torch.bool), torch.tensor([[0, 2, 1]])
    torch.testing.assert_close(model.losses(*batch), load_checkpoint(whole)[0].losses(*batch))


def test_a_compressed_checkpoint_is_refused(whole, tmp_path):
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "bad.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "compressed" in refusal(tmp_path / "bad.pt")


# --------------------------------------------------------------------------------------------------------------- files


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


@pytest.mark.parametrize("written_before", [0, 3000])
def test_a_full_disk_ends_with_one_line_and_leaves_the_old_checkpoint(written_before, whole, tmp_path):
    path = tmp_path / "synthesis.pt"
    path.write_bytes(whole.read_bytes())
    code = f"""
        import resource, signal
        from pathlib import Path
        from handwriting.program import run_cli
        from utils import load_checkpoint, save_checkpoint

        def main():
            model, content = load_checkpoint(Path({str(path)!r}))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # beyond the limit a write is an error, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, ({written_before}, {written_before}))
            save_checkpoint(Path({str(path)!r}), model, "abc", [1, 0, 7])

        run_cli(main)
    """
    assert_refused(run_code(code), "synthesis.pt: ", os.strerror(errno.EFBIG))
    assert path.read_bytes() == whole.read_bytes() and len(list(tmp_path.iterdir())) == 1


# ------------------------------------------------------------------------------------------------ how a program ends


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


@pytest.mark.parametrize("program", ["generate.py", "train.py", "data_preprocessing.py"])
def test_a_wrong_flag_is_one_line(program):
    assert_refused(run_script(program, "--seed=\na", "--x"), "--help")


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


@pytest.mark.parametrize("program", ["train", "generate", "data_preprocessing"])
def test_ctrl_c_during_the_imports_ends_without_a_traceback(program, tmp_path):
    """A module that all of them import sends it."""
    (tmp_path / "argparse.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    result = subprocess.run(
        [sys.executable, ROOT / f"{program}.py", "--help"],
        env=environment() | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_ends_without_a_traceback():
    result = run_code(PROGRAM.format(end="raise KeyboardInterrupt"))
    assert result.returncode == 130 and result.stderr == ""


# ------------------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize("titles", [None, ["first", "second"]])
def test_lines_stand_below_each_other_at_one_scale(titles):
    tall = np.array([[5, 7, 0], [300, 400, 1]])  # one stroke, 300 wide and 400 high
    dotted = np.array([[0, 0, 0], [100, 50, 1], [-80, -90, 1]])  # a stroke, and a dot above it
    figure = lines_figure([tall, dotted], titles)
    axes = figure.axes[0]
    first, second, dot = axes.collections[0].get_segments()
    np.testing.assert_allclose([first.min(0)[0], min(second[:, 0].min(), dot[0, 0])], 0)  # aligned on the left
    np.testing.assert_allclose([np.ptp(first, axis=0), np.ptp(second, axis=0)], [[300, 400], [100, 50]])
    assert len(dot) == 2 and (dot[0] == dot[1]).all()  # round caps make a dot of it
    np.testing.assert_allclose(dot[0] - second[0], [20, -40])
    assert dot[0, 1] > first[:, 1].max()
    assert [text.get_text() for text in axes.texts] == (titles or [])
    for text, ink in zip(axes.texts, (first, dot), strict=False):
        assert text.get_position()[1] < ink[:, 1].min()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (left, right, top) == (-60, 360, -60) and bottom > second[:, 1].max()
    np.testing.assert_allclose(figure.get_size_inches() * 400, [right - left, bottom - top])


@pytest.mark.parametrize(("inches", "dots"), [((8, 4), 150), ((2, 800), 75), ((100, 125), 4000**0.5)])
def test_large_pictures_have_fewer_pixels_to_the_inch(monkeypatch, tmp_path, inches, dots):
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **settings: found.append(settings["dpi"]))
    save_figure(Figure(figsize=inches), tmp_path / "large.png")
    assert found == [pytest.approx(dots)]
