"""`python -m benchmarks.agents`: what recording an agent's tool calls and conversations costs.

CPU time of all threads beyond the bare call, medians over repetitions, interleaved; bytes on disk.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zstandard

import trajrec
from benchmarks import scratch_folder
from trajrec.recording.event_log import close_logs
from trajrec.tracking.tree import Tree

CALLS = 3_000


def orders(n: int, note: int) -> dict[str, Any]:
    """Return a database of n orders."""
    draw = random.Random(0)
    return {
        "orders": {
            f"O{i}": {
                "customer": f"C{draw.randrange(99)}",
                "status": "paid",
                "cents": draw.randrange(10**5),
                "note": "x" * note,
            }
            for i in range(n)
        }
    }


def bare(function: Callable[..., Any]) -> float:
    """Return the CPU time of a call as it is, in us."""
    begin = time.process_time()
    for k in range(CALLS):
        function(order=f"O{k % 85}", n=k)
    return (time.process_time() - begin) / CALLS * 1e6


def recorded(function: Callable[..., Any], state: Any) -> tuple[float, float]:
    """Return the CPU time of a recorded call, in us, and its bytes."""
    folder = scratch_folder()
    try:
        with trajrec.episode(folder, watch=state) as ep:
            ep.tool(function, name="tool")
            begin = time.process_time()
            for k in range(CALLS):
                ep.call("tool", order=f"O{k % 85}", n=k)
        close_logs()
        cpu = time.process_time() - begin
        return cpu / CALLS * 1e6, sum(path.stat().st_size for path in folder.iterdir()) / CALLS
    finally:
        shutil.rmtree(folder)


def conversation(turns: int) -> tuple[float, float, float]:
    """Return the bytes of a conversation's log, those of its final history, and the CPU time a turn in us."""
    draw, messages = (
        random.Random(0),
        [{"role": "system", "content": "You are a shop assistant. " * 100}],
    )
    folder = scratch_folder()
    try:
        begin = time.process_time()
        with trajrec.episode(folder) as ep:
            for turn in range(turns):
                messages.append(
                    {
                        "role": "user",
                        "content": f"{turn} " + "".join(draw.choices("abcdefgh ", k=200)),
                    }
                )
                ep.model(lambda **_: {"ok": True}, model="m", messages=messages)
        close_logs()
        cpu = time.process_time() - begin
        size = sum(path.stat().st_size for path in folder.iterdir())
        return (
            size,
            len(zstandard.ZstdCompressor(3).compress(msgspec.msgpack.encode(messages))),
            cpu / turns * 1e6,
        )
    finally:
        shutil.rmtree(folder)


def tree(n: int) -> tuple[int, float, float]:
    """Return the size of a state, and the CPU time in ms to find one changed record and to find none."""
    state = orders(n, 60)
    watched = Tree(lambda: state)
    watched.begin()
    changed, same = [], []
    for k in range(15):
        state["orders"][f"O{k * (n // 16)}"]["cents"] = -k - 1
        for times in (changed, same):
            begin = time.process_time()
            watched.update()
            times.append((time.process_time() - begin) * 1e3)
    return len(json.dumps(state)), statistics.median(changed), statistics.median(same)


def main() -> None:
    """Measure, print."""
    small = orders(145, 60)

    def look(order: str, n: int) -> dict[str, Any]:
        return {"order": order, "n": n, "status": "paid"}

    def change(order: str, n: int) -> dict[str, Any]:
        small["orders"][order]["cents"] = n
        return {"ok": True}

    kinds = {
        "no state": (look, False, 60),
        f"{len(json.dumps(small)) // 1000} kB state, unchanged": (look, small, 150),
    }
    kinds["the same, changed by each call"] = (change, small, 150)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for repetition in range(6):
        for name, (function, state, _) in kinds.items():
            base = bare(function)
            cpu, size = recorded(function, state)
            if repetition:
                found[name].append((cpu - base, size))
    print(f"{'a tool call':<34} {'us':>7} {'bytes':>7} {'to reach':>9}")
    for name, results in found.items():
        cpu, size = (statistics.median(result[k] for result in results) for k in (0, 1))
        print(f"{name:<34} {cpu:7.1f} {size:7.1f} {kinds[name][2]:9}")
    size, history, cpu = conversation(1000)
    times = f"{size / history:.2f} times the bytes of its final history (to reach: 3)"
    print(f"\n1,000 turns of a conversation: {times}, {cpu:.0f} us a turn")
    size, changed, same = tree(37_000)
    print(
        f"a state of {size / 1e6:.1f} MB: one changed record found in {changed:.1f} ms (to reach: 10), none in {same:.1f} ms"
    )


if __name__ == "__main__":
    main()
