"""The processes of a training run: how they start, sum up numbers (over gloo or NCCL), and end together.

Process 0 writes the files and speaks for all. A process that is killed closes its connections, which is an error in
the step of each other one. Several machines and GPUs were never tried, nor several processes on Windows.
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
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from handwriting.program import InputError

LOST = "a process of the run has ended before its time (killed, or out of memory) or hangs; go on with --resume"
PATIENCE = 600  # seconds that a process waits for the others in a step before they count as hanging


class Group:
    """The processes of a run, seen from process `rank` of `size`, `local_size` of them on this machine.

    `with group:` ends all together: process 0 raises an error of any as InputError, the others end without a word.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: dist.Store | None = None):
        self.rank, self.size, self.store = rank, size, store
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))  # set by torchrun
        self.children: list[multiprocessing.process.BaseProcess] = []
        self.threads = torch.get_num_threads()
        if torch.cuda.is_available() and size > 1:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())

    def connect(self) -> None:
        """Wait until every process has come to this point, and connect them. Raises DistError if one has ended."""
        if self.size == 1:
            return
        self.store.add("ready", 1)
        while self.store.add("ready", 0) < self.size:
            if self.store.check(["error"]) or not all(child.is_alive() for child in self.children):
                raise dist.DistError
            time.sleep(0.02)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        patience = timedelta(seconds=PATIENCE)
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size, timeout=patience)

    def sums(self, *values: float) -> list[float]:
        """Sums of numbers over all processes, the same in each."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give the parameters the sum of all processes' gradients; None counts as zeros."""
        if self.size == 1:
            return
        parameters = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(total)
        for parameter, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def __enter__(self) -> "Group":
        if self.rank:
            sys.stdout = open(os.devnull, "w")  # for as long as the process lives
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Disconnect, and make one error of an error in any process."""
        reason, is_told = LOST, isinstance(error, InputError | OSError)
        is_lost = isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))
        is_lost &= self.size > 1 and isinstance(error, RuntimeError)
        with contextlib.suppress(RuntimeError):  # a store that has gone with its process
            if is_lost:
                reason = self.store.get("error").decode() if self.store.check(["error"]) else LOST
            elif self.rank and is_told:
                self.store.set("error", str(error))
        for child in self.children:
            if error is None:
                child.join(60)
            child.kill()
            child.join()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(self.threads)
        if self.rank and (is_lost or is_told):
            sys.exit(2)
        if is_lost:
            raise InputError(reason) from None


def loopback_interface() -> str | None:
    """The name of the machine's connection to itself, which stays when others go. Gloo has none on Windows."""
    names = [] if sys.platform == "win32" else [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith("lo")), None)


def start_group(size: int, work: Callable[..., object], *arguments: Any) -> Group:
    """Start processes that each call work(*arguments, group), and share this one's threads; return the group's rank 0.

    They end when this process ends, however it does.
    """
    if loopback := loopback_interface():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or the others complain when the store goes with process 0
    group = Group(0, size, dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    threads = max(1, group.threads // size)
    context = multiprocessing.get_context("spawn")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it: Ctrl-C is for process 0 to pass on
    try:
        for rank in range(1, size):
            start = (rank, size, group.store.port, threads, work, arguments)
            group.children.append(context.Process(target=_child, args=start, daemon=True))
            group.children[-1].start()
    finally:
        signal.signal(signal.SIGINT, handler)
    torch.set_num_threads(threads)
    return group


def _child(rank: int, size: int, port: int, threads: int, work: Callable[..., object], arguments: tuple) -> None:
    """Process `rank` of a group that `start_group` starts."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(2)), daemon=True).start()
    torch.set_num_threads(threads)
    with Group(rank, size, dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))) as group:
        work(*arguments, group)


def tune_malloc() -> None:
    """Have glibc keep what a step frees for the next: clearing new pages took up to a third of its time. mallopt(3)."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the most it takes
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@contextlib.contextmanager
def noted_signals(rank: int) -> Iterator[SimpleNamespace]:
    """Only `count` Ctrl-C and SIGTERM; while `ends_work` is set, the second raises KeyboardInterrupt in process 0."""
    noted = SimpleNamespace(count=0, ends_work=False)

    def note(_number: int, _frame: object) -> None:
        noted.count += 1
        if rank == 0 and noted.ends_work and noted.count > 1:
            raise KeyboardInterrupt
        if rank == 0:
            os.write(2, b"\nstopping after the evaluation\n" if noted.ends_work else b"\nstopping after this step\n")

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
