"""Find out where an environment keeps state outside of its process, which no fork copies."""

from __future__ import annotations

import builtins
import contextlib
import io
import math
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_NO_STATE = ("/dev/null", "/dev/tty")
"""Files that keep nothing of what is written to them."""


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Note what a block does outside of this process: the list gets an item for each kind.

    Noticed are files that are opened for writing, connections, new processes, and a change of the
    working directory or of environment variables, by Python code of this thread.
    """
    notes: list[str] = []
    thread_id = threading.get_ident()
    working_directory, variables = _working_directory(), dict(os.environ)

    def note(text: str) -> None:
        if threading.get_ident() == thread_id and text and text not in notes:
            notes.append(text)

    places: tuple[tuple[Any, str, Callable[..., str]], ...] = (
        (builtins, "open", _opened),
        (io, "open", _opened),
        (os, "open", _opened_by_flags),
        (socket.socket, "connect", lambda _, address: f"it connects to {address}"),
        (socket.socket, "connect_ex", lambda _, address: f"it connects to {address}"),
        (subprocess.Popen, "__init__", lambda *_, **__: "it starts processes"),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, describe in places:
            stack.enter_context(_replaced(owner, name, describe, note))
        yield notes
    if _working_directory() != working_directory:
        note("it changes the working directory")
    if dict(os.environ) != variables:
        note("it changes environment variables")


@contextlib.contextmanager
def _replaced(
    owner: Any, name: str, describe: Callable[..., str], note: Callable[[str], None]
) -> Iterator[None]:
    original = getattr(owner, name)
    is_own = name in vars(owner)

    def call(*args: Any, **kwargs: Any) -> Any:
        # What is wrong with the arguments, the original says.
        with contextlib.suppress(TypeError):
            note(describe(*args, **kwargs))
        return original(*args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def _opened(file: object, mode: str = "r", *_: object, **__: object) -> str:
    is_written = not set(mode).isdisjoint("wax+")
    return f"it writes to {file}" if is_written and file not in _NO_STATE else ""


def _opened_by_flags(file: object, flags: int, *_: object, **__: object) -> str:
    is_written = bool(flags & (os.O_WRONLY | os.O_RDWR))
    return f"it writes to {file}" if is_written and file not in _NO_STATE else ""


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # it was removed


class Holdings(NamedTuple):
    """The ties of this process to others and to files, as Linux tells them; empty elsewhere.

    Attributes:
        descriptors: Number and target of each open file, pipe and socket.
        children: Ids of the child processes.
        mappings: Memory that is shared with other processes: range and name of each mapping.
    """

    descriptors: frozenset[tuple[int, str]]
    children: frozenset[str]
    mappings: frozenset[tuple[str, str]]

    @classmethod
    def present(cls) -> Holdings:
        """Return those of this moment."""
        descriptors: set[tuple[int, str]] = set()
        children: set[str] = set()
        mappings: set[tuple[str, str]] = set()
        # A system without /proc tells nothing; controls and repeats are left.
        with contextlib.suppress(OSError):
            for number in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    descriptors.add((int(number), os.readlink(f"/proc/self/fd/{number}")))
            with open("/proc/self/maps") as file:
                for line in file:
                    fields = line.split(maxsplit=5)
                    if fields[1].startswith("rw") and fields[1].endswith("s"):
                        mappings.add((fields[0], fields[-1].strip()))
            with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
                children.update(file.read().split())
        return cls(frozenset(descriptors), frozenset(children), frozenset(mappings))

    def with_children(self, process_ids: list[int], pipes: list[int]) -> Holdings:
        """Return these and some child processes, with the descriptors of their pipes."""
        own = set(pipes)
        ends = {end for end in Holdings.present().descriptors if end[0] in own}
        return self._replace(
            children=self.children | set(map(str, process_ids)),
            descriptors=self.descriptors | ends,
        )


def shared_since(before: Holdings) -> str:
    """Return what forked processes would share that this process did not have before.

    Returns:
        A phrase such as "it has the child process 123"; "" if there is nothing.
    """
    now = Holdings.present()
    for process_id in sorted(now.children - before.children):
        return f"it has the child process {process_id}"
    for _, name in sorted(now.mappings - before.mappings):
        return f"it shares memory with other processes ({name})"
    pipes = [target for _, target in now.descriptors if target.startswith("pipe:")]
    for number, target in sorted(now.descriptors - before.descriptors):
        # Both ends of a pipe within one process are a signal to itself.
        if target.startswith("pipe:") and pipes.count(target) == 1:
            return "it has a pipe to another process"
        if target.startswith("socket:") and _is_connected(number):
            return "it has a connection"
        if _is_written_file(number, target):
            return f"it has the file {target.removesuffix(' (deleted)')} open for writing"
    return ""


def threads_here() -> str:
    """Return the names of the threads that a process forked now would lack; "" if there are none.

    Of the threads that no Python code has started only those of JAX are named. They run from its
    first computation on, and computations of a forked process wait for them for ever. Others may
    stand idle, as those of SDL do.
    """
    main = threading.main_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not main]
    if "jaxlib" in sys.modules and _n_threads() > len(names) + 1:
        names.append("those of JAX")
    return ", ".join(names)


def _n_threads() -> float:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        # This system does not say.
        return math.inf


def _is_connected(number: int) -> bool:
    """Return whether a socket leads to an address; a pair of sockets has none."""
    try:
        with socket.socket(fileno=os.dup(number)) as copy:
            return bool(copy.getpeername())
    except OSError:
        return False


def _is_written_file(number: int, target: str) -> bool:
    try:
        is_file = stat.S_ISREG(os.fstat(number).st_mode)
        with open(f"/proc/self/fdinfo/{number}") as file:
            flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
    except (OSError, StopIteration):
        return False
    return is_file and bool(flags & (os.O_WRONLY | os.O_RDWR)) and target not in _NO_STATE
