"""Replays one episode in a process of its own, under other settings: to find out whether these matter."""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import sys
from typing import Any

import cloudpickle

from trajrec.replay.places import Place
from trajrec.replay.report import Divergence

_NO_RANDOM_ADDRESSES = 0x0040000


class ElsewhereError(Exception):
    """It could not be replayed there."""


def replay_elsewhere(
    work: Any, place: tuple[Place, ...], settings: dict[str, str], *, fixed_addresses: bool = False
) -> Divergence | None:
    """Return the first difference of a replay in a fresh process.

    Args:
        work: Takes a list of places and returns their reports; sent by value or by name.
        place: The episode.
        settings: Environment variables of the process; an empty one is left out.
        fixed_addresses: Whether the process's addresses are not drawn (Linux).

    Raises:
        ElsewhereError: It could not be replayed there.
    """
    changed = {name: value for name, value in {**os.environ, **settings}.items() if value or name not in settings}
    try:
        sent = pickle.dumps(sys.path) + cloudpickle.dumps((work, place))
    except Exception as exc:
        raise ElsewhereError(f"what makes the environment cannot be sent: {exc}") from exc
    done = subprocess.run(
        [sys.executable, "-c", "from trajrec.replay.elsewhere import main; main()"],
        input=sent,
        env=changed,
        capture_output=True,
        preexec_fn=_fix_addresses if fixed_addresses and sys.platform == "linux" else None,
    )
    if done.returncode:
        raise ElsewhereError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    found: Divergence | None = pickle.loads(done.stdout)
    return found


def main() -> None:
    """Replay what stdin describes; write its first difference to stdout."""
    out = os.dup(1)
    os.dup2(2, 1)
    sys.path[:] = pickle.load(sys.stdin.buffer)
    work, place = pickle.load(sys.stdin.buffer)
    (report,) = work([place])
    with os.fdopen(out, "wb") as file:
        pickle.dump(report.divergence, file)


def _fix_addresses() -> None:
    ctypes.CDLL(None).personality(_NO_RANDOM_ADDRESSES)
