"""Environments whose state lies where a snapshot of their attributes does not see it.

All play the same game: a number that each action changes, and that is seen only every 25 steps and
at the end. `truth` computes it without any environment.
"""

from __future__ import annotations

import ctypes
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

SHOWN_EVERY = 25
LENGTH = 60
_MASK = (1 << 31) - 1

_ENGINE = """
import sys
x = 0
for line in sys.stdin:
    word, number = line.split()
    x = int(number) if word == "reset" else (x * 1103515245 + int(number) + 12345) % (1 << 31)
    print(x, flush=True)
"""


def after(x: int, action: int) -> int:
    """Return the number that follows one."""
    return (x * 1103515245 + action + 12345) & _MASK


def truth(seed: int, actions: Sequence[int]) -> list[int]:
    """Return the observations after the reset and each action."""
    x = seed
    shown = [0]
    for n, action in enumerate(actions, 1):
        x = after(x, action)
        shown.append(x if n % SHOWN_EVERY == 0 or n == LENGTH else 0)
    return shown


class Hidden(gym.Env[int, int]):
    """The game; `put` and `push` are the store of its number."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Discrete(1 << 31)
        self.action_space = gym.spaces.Discrete(5)
        self.n = 0

    def put(self, x: int) -> None:
        raise NotImplementedError

    def push(self, action: int) -> int:
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = 0
        self.put(seed or 0)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.n += 1
        x = self.push(int(action))
        is_over = self.n == LENGTH
        shown = x if self.n % SHOWN_EVERY == 0 or is_over else 0
        return shown, float(shown % 7), is_over, False, {}


class InChild(Hidden):
    """The number lies in a child process."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = subprocess.Popen(
            [sys.executable, "-c", _ENGINE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, word: str, number: int) -> int:
        assert self.engine.stdin is not None
        assert self.engine.stdout is not None
        self.engine.stdin.write(f"{word} {number}\n")
        self.engine.stdin.flush()
        return int(self.engine.stdout.readline())

    def put(self, x: int) -> None:
        self._ask("reset", x)

    def push(self, action: int) -> int:
        return self._ask("step", action)

    def close(self) -> None:
        if self.engine.stdin is not None and not self.engine.stdin.closed:
            self.engine.stdin.close()
            assert self.engine.stdout is not None
            self.engine.stdout.close()
            self.engine.wait()


class InFile(Hidden):
    """The number lies in a file, of which all environments of this user have the same."""

    path = Path(os.environ.get("TRAJREC_TEST_FILE", "/nonexistent"))

    def put(self, x: int) -> None:
        self.path.write_text(str(x))

    def push(self, action: int) -> int:
        self.put(after(int(self.path.read_text()), action))
        return int(self.path.read_text())


class InThread(Hidden):
    """The number lies in a thread, which gets requests by a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: queue.Queue[tuple[str, int] | None] = queue.Queue()
        self.answers: queue.Queue[int] = queue.Queue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        x = 0
        while (request := self.requests.get()) is not None:
            word, number = request
            x = number if word == "reset" else after(x, number)
            self.answers.put(x)

    def put(self, x: int) -> None:
        self.requests.put(("reset", x))
        self.answers.get()

    def push(self, action: int) -> int:
        self.requests.put(("step", action))
        return self.answers.get()

    def close(self) -> None:
        self.requests.put(None)


class InLibrary(Hidden):
    """The number lies in memory that a C library has allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.libc = ctypes.CDLL(None)
        self.libc.malloc.restype = ctypes.c_void_p
        self.address = self.libc.malloc(8)

    def put(self, x: int) -> None:
        ctypes.c_uint64.from_address(self.address).value = x

    def push(self, action: int) -> int:
        cell = ctypes.c_uint64.from_address(self.address)
        cell.value = after(cell.value, action)
        return cell.value


_buffer = ctypes.create_string_buffer(8)
_address = ctypes.addressof(_buffer)


class InMemory(Hidden):
    """The number lies at an address: nothing that Python shows of the environment has it."""

    def put(self, x: int) -> None:
        ctypes.c_uint64.from_address(_address).value = x

    def push(self, action: int) -> int:
        cell = ctypes.c_uint64.from_address(_address)
        cell.value = after(cell.value, action)
        return cell.value


_numbers = [0]


class InModule(Hidden):
    """The number is a global variable of this module."""

    def put(self, x: int) -> None:
        _numbers[0] = x

    def push(self, action: int) -> int:
        _numbers[0] = after(_numbers[0], action)
        return _numbers[0]


class Store:
    """A number that is changed by a call, as functions are left out of keys of states."""

    def __init__(self) -> None:
        self.x = 0

    def __call__(self, action: int) -> int:
        self.x = after(self.x, action)
        return self.x


class InCallable(Hidden):
    """The number lies in an attribute that can be called."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()

    def put(self, x: int) -> None:
        self.store.x = x

    def push(self, action: int) -> int:
        return self.store(action)
