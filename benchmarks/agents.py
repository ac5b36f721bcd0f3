"""`python -m benchmarks.agents`: the cost of recording tool calls and conversations of an agent.

A recorded tool call is compared with the same call without trajrec: CPU time of all threads beyond
the bare call, and bytes on disk, medians of interleaved repetitions. The log of a conversation is
compared with its compressed final history.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import zstandard

import trajrec
from benchmarks import scratch_folder
from trajrec.protocols import Access
from trajrec.recording.event_log import close_logs
from trajrec.tracking.tree import Tree
from trajrec.types import JsonObject

N_CALLS = 3_000
# The first repetition is dropped: it imports modules and fills caches.
N_REPETITIONS = 6
N_TURNS = 1_000

# 145 orders with notes of 60 characters are a state of 20 kB as JSON; 37,000 are one of 5 MB.
SMALL_ORDERS = 145
LARGE_ORDERS = 37_000
NOTE = "x" * 60
# Every call names one of these orders, so all of them exist in the small state.
CALLED_ORDERS = 85

ToolFunction = Callable[..., JsonObject]


class Kind(NamedTuple):
    """A kind of tool call: the tool, the watched state (or False), the goal in us, the access."""

    function: ToolFunction
    state: JsonObject | bool
    goal_us: float
    access: Access = "unknown"


class Cost(NamedTuple):
    """The cost of a recorded call."""

    us: float
    size_bytes: float


def make_state(n_orders: int) -> JsonObject:
    """Return a database of orders."""
    rng = random.Random(0)
    orders = {
        f"O{k}": {
            "customer": f"C{rng.randrange(99)}",
            "status": "paid",
            "cents": rng.randrange(10**5),
            "note": NOTE,
        }
        for k in range(n_orders)
    }
    return {"orders": orders}


def measure_bare(function: ToolFunction) -> float:
    """Return the CPU time of an unrecorded call, in us."""
    begin = time.process_time()
    for k in range(N_CALLS):
        function(order=f"O{k % CALLED_ORDERS}", n=k)
    return (time.process_time() - begin) / N_CALLS * 1e6


def measure_recorded(kind: Kind) -> Cost:
    """Return the CPU time and the bytes of a recorded call."""
    folder = scratch_folder()
    with trajrec.episode(folder, watch=kind.state) as ep:
        ep.tool(kind.function, name="tool", access=kind.access)
        begin = time.process_time()
        for k in range(N_CALLS):
            ep.call("tool", order=f"O{k % CALLED_ORDERS}", n=k)
    # Included in the time: the last events are written when the log is closed.
    close_logs()
    cpu_s = time.process_time() - begin
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Cost(cpu_s / N_CALLS * 1e6, size / N_CALLS)


def print_tool_calls() -> None:
    """Compare recorded with bare tool calls."""
    state = make_state(SMALL_ORDERS)
    large = make_state(LARGE_ORDERS)

    def look(order: str, n: int) -> JsonObject:
        return {"order": order, "n": n, "status": "paid"}

    def change(order: str, n: int) -> JsonObject:
        state["orders"][order]["cents"] = n
        return {"ok": True}

    kinds = {
        "no state": Kind(look, False, 60),
        f"{len(json.dumps(state)) // 1000} kB state, unchanged": Kind(look, state, 150),
        "the same, changed by each call": Kind(change, state, 150),
        f"{len(json.dumps(large)) / 1e6:.1f} MB state, declared read": Kind(
            look, large, 500, "read"
        ),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in kinds}
    for repetition in range(N_REPETITIONS):
        for name, kind in kinds.items():
            bare_us = measure_bare(kind.function)
            cost = measure_recorded(kind)
            if repetition:
                costs[name].append(cost._replace(us=cost.us - bare_us))
    print(f"{'a tool call, beyond a bare call':<34} {'us':>7} {'bytes':>7} {'goal, us':>9}")
    for name, measured in costs.items():
        us = statistics.median(cost.us for cost in measured)
        size = statistics.median(cost.size_bytes for cost in measured)
        print(f"{name:<34} {us:7.1f} {size:7.1f} {kinds[name].goal_us:9}")


def print_conversation() -> None:
    """Compare the log of a conversation with its final history, compressed.

    Every model call repeats the whole history, so a log that stored each request as it is would
    grow with the square of the turns.
    """
    rng = random.Random(0)
    messages = [{"role": "system", "content": "You are a shop assistant. " * 100}]
    folder = scratch_folder()
    begin = time.process_time()
    with trajrec.episode(folder) as ep:
        for turn in range(N_TURNS):
            content = f"{turn} " + "".join(rng.choices("abcdefgh ", k=200))
            messages.append({"role": "user", "content": content})
            ep.model(lambda **_: {"ok": True}, model="m", messages=messages)
    close_logs()
    us = (time.process_time() - begin) / N_TURNS * 1e6
    size = sum(path.stat().st_size for path in folder.iterdir())
    history = zstandard.ZstdCompressor(3).compress(msgspec.msgpack.encode(messages))
    print(
        f"\n{N_TURNS:,} turns of a conversation: {size / len(history):.2f} times the bytes of its "
        f"compressed final history (goal: 3), {us:.0f} us a turn"
    )


def print_tree() -> None:
    """Print the time to search a large state for one changed record, and for none."""
    state = make_state(LARGE_ORDERS)
    tree = Tree(lambda: state)
    tree.begin()
    changed_ms: list[float] = []
    unchanged_ms: list[float] = []
    for k in range(15):
        state["orders"][f"O{k * (LARGE_ORDERS // 16)}"]["cents"] = -k - 1
        for times in (changed_ms, unchanged_ms):
            begin = time.process_time()
            tree.update()
            times.append((time.process_time() - begin) * 1e3)
    size = len(json.dumps(state))
    print(
        f"a state of {size / 1e6:.1f} MB: one changed record found in "
        f"{statistics.median(changed_ms):.1f} ms (goal: 10), "
        f"none in {statistics.median(unchanged_ms):.1f} ms"
    )


def main() -> None:
    """Print all figures."""
    print_tool_calls()
    print_conversation()
    print_tree()


if __name__ == "__main__":
    main()
