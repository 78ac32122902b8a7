"""What a process of a run does that fails, in a module that takes a second process no time to import."""

import os
import signal

from handwriting.program import InputError
from handwriting.training.processes import Group


def fail_in_second(when: str, group: Group) -> None:
    if when == "before":
        raise InputError("disk 7 is full")
    group.connect()
    group.sums(0)
    if when == "after":
        raise InputError("disk 7 is full")
    os.kill(os.getpid(), signal.SIGSTOP if when == "stopped" else signal.SIGKILL)
