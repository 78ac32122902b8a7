"""The processes of a training run: how they start, sum up numbers, and end together.

Each has the whole network and takes its part of every batch; PyTorch's DistributedDataParallel makes the gradient that
of the whole batch, over gloo on processors and NCCL on GPUs. Process 0 writes the files and speaks for all.
"""

import contextlib
import ctypes
import multiprocessing
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from handwriting.program import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

LOST = "a process of the run has ended before its time (killed, or out of memory) or hangs; go on with --resume"
SILENCE = 30  # seconds without a sign of life after which a process counts as lost


class Group:
    """The processes of a run, seen from process `rank` of `size`; `Group()` is one process alone.

    `with group:` ends all together: an error in any process is raised as InputError in process 0, and ends the others
    without a word.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: dist.Store | None = None):
        self.rank, self.size, self.store = rank, size, store
        self.children: list[multiprocessing.process.BaseProcess] = []
        self.threads = torch.get_num_threads()
        self.is_over = False
        if torch.cuda.is_available() and size > 1:
            torch.cuda.set_device(rank % torch.cuda.device_count())

    def connect(self) -> None:
        """Wait until every process has come to this point, and connect them. Raises InputError if one has ended."""
        if self.size == 1:
            return
        self.store.add("ready", 1)
        while self.store.add("ready", 0) < self.size:
            if self.store.check(["error"]) or not all(child.is_alive() for child in self.children):
                raise InputError(self.reason())
            time.sleep(0.02)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size)
        # Process 0 watches the others, and they watch it.
        silent = dict.fromkeys([0] if self.rank else range(1, self.size), 0)  # for how many seconds
        for work in (self._show_life, self._watch):
            threading.Thread(target=work, args=[silent], daemon=True).start()

    def _show_life(self, silent: dict[int, int]) -> None:
        """Every second tell the others that this process lives, and see which of the watched ones do."""
        counts: dict[int, int] = {}
        with contextlib.suppress(RuntimeError):  # the store has gone with its process
            while not self.is_over:
                self.store.add(f"life {self.rank}", 1)
                for rank in silent:
                    count = self.store.add(f"life {rank}", 0)
                    if count != counts.get(rank):
                        counts[rank], silent[rank] = count, 0
                time.sleep(1)

    def _watch(self, silent: dict[int, int]) -> None:
        """End the run when a process has been silent for too long.

        Seconds are counted, not measured: a run that is stopped as a whole, as with Ctrl-Z, goes on afterwards.
        """
        while max(silent.values()) < SILENCE:
            time.sleep(1)
            if self.is_over:
                return
            for rank in silent:
                silent[rank] += 1
        for child in self.children:  # without them the step in progress raises an error
            child.kill()
        if not self.children:  # nothing else ends a step that waits for a process elsewhere
            if self.rank == 0:
                os.write(2, f"error: {LOST}\n".encode())
            os._exit(2)

    def part(self, items: Sequence) -> Sequence:
        """This process's part: every `size`-th item, so that neighbours in a sorted row go to different processes."""
        return items[self.rank :: self.size]

    def sums(self, *values: float) -> list[float]:
        """Sums of numbers over all processes, the same in each."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return self.sums(flag)[0] > 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose backward leaves the mean of all processes' gradients in each."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module)

    def reason(self) -> str:
        """Why the run ends: what a process has left in the store, or that one is lost."""
        return self.store.get("error").decode() if self.store.check(["error"]) else LOST

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Disconnect, and make one error of an error in any process."""
        self.is_over = True
        reason = LOST
        is_lost = self.size > 1 and isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))
        with contextlib.suppress(RuntimeError):  # a store that has gone with its process
            if is_lost:
                reason = self.reason()
            elif self.rank and isinstance(error, InputError | OSError):
                self.store.set("error", str(error))
        if dist.is_initialized():
            dist.destroy_process_group()
        for child in self.children:
            if error is None:
                child.join(60)
            child.kill()
            child.join()
        torch.set_num_threads(self.threads)
        if self.rank and (is_lost or isinstance(error, InputError | OSError)):
            sys.exit(2)
        if is_lost:
            raise InputError(reason) from None


def torchrun_group() -> Group:
    """The group that torchrun has started this process in."""
    store, rank, size = next(dist.rendezvous("env://"))
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    return Group(rank, size, store)


def start_group(size: int, work: Callable[..., object], *arguments: Any) -> Group:
    """Start `size` - 1 processes that each call work(*arguments, group), and return their group: this is process 0.

    They share the threads that PyTorch uses here. They end when this process ends, however it does.
    """
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if names:  # the machine's connection to itself, which stays when its other ones come and go
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or the others complain when the store goes with process 0
    group = Group(0, size, dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    threads = max(1, group.threads // size)
    context = multiprocessing.get_context("spawn")
    for rank in range(1, size):
        start = (rank, size, group.store.port, threads, work, arguments)
        group.children.append(context.Process(target=_child, args=start, daemon=True))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it: Ctrl-C is for process 0 to pass on
    try:
        for child in group.children:
            child.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    torch.set_num_threads(threads)
    return group


def _child(rank: int, size: int, port: int, threads: int, work: Callable[..., object], arguments: tuple) -> None:
    """Process `rank` of a group that `start_group` starts."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(2)), daemon=True).start()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    torch.set_num_threads(threads)
    with Group(rank, size, dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))) as group:
        work(*arguments, group)


def tune_malloc() -> None:
    """Have the C library keep the memory that a step frees for the next one, instead of giving it back.

    The kernel clears every page that it gives anew, which took up to a third of a step's time. For glibc, by its
    mallopt(3), and for pieces of up to 32 MiB, the most it takes; other libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@contextlib.contextmanager
def run_lock(folder: Path, task: str) -> Iterator[None]:
    """Keep other runs of the task out of the folder while this is open. The lock goes when its process does.

    Raises InputError if another run has it. Systems and disks without such locks do without.
    """
    with (folder / f".{task}.lock").open("a") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another run of {task} is on there; choose another --model_dir") from None
        except OSError:
            pass
        yield


class NotedSignals:
    """Ctrl-C and SIGTERM while `with noted:` is open: they are counted, and the run looks at the count between steps.

    Within `with noted.ending_work():` process 0 raises KeyboardInterrupt for all but the first of them.
    """

    def __init__(self, group: Group):
        self.rank = group.rank
        self.count = 0
        self.ends_work = False

    def note(self, _number: int, _frame: object) -> None:
        """Handle a signal."""
        self.count += 1
        if self.rank:
            return
        if self.ends_work and self.count > 1:
            raise KeyboardInterrupt
        os.write(2, b"\nstopping after this step\n" if not self.ends_work else b"\nstopping after the evaluation\n")

    @contextlib.contextmanager
    def ending_work(self) -> Iterator[None]:
        """While this is open, a second signal does not wait for the end of the work."""
        self.ends_work = True
        try:
            yield
        finally:
            self.ends_work = False

    def __enter__(self) -> "NotedSignals":
        self.handlers = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
