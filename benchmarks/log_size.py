"""`python -m benchmarks.log_size`: the bytes of logs that are written in small pieces.

Prints each figure beside its goal: tool calls with failures and retries, 64 environments side by
side, a step every 45 ms, and the cost of a call that raises.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym

import trajrec
from benchmarks import scratch_folder
from trajrec.log.compaction import compact
from trajrec.recording.event_log import close_logs
from trajrec.types import JsonObject

N_EPISODES = 600
# A refund is tried so often at most.
N_TRIES = 3
TIMEOUT_SHARE = 0.25
REFUSAL_SHARE = 0.1

N_ENVS = 64
N_VECTOR_STEPS = 1_000

SLOW_STEP_S = 0.045
N_SLOW_STEPS = 300

N_RAISING = 2_000
N_REPETITIONS = 5


def size_of(folder: Path) -> int:
    """Return the bytes of the logs in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.trj"))


def make_tools(rng: random.Random) -> dict[str, Callable[..., object]]:
    """Return the tools of a support agent; a third of the refunds fails."""

    def find_customer(name: str) -> list[str]:
        return [f"C{rng.randrange(999)}" for _ in range(rng.randrange(1, 4))]

    def get_order(order: str) -> JsonObject:
        items = [
            {"sku": f"S{rng.randrange(99)}", "n": rng.randrange(1, 5)}
            for _ in range(rng.randrange(1, 4))
        ]
        return {
            "order": order,
            "customer": f"C{rng.randrange(999)}",
            "status": rng.choice(["paid", "shipped", "refunded"]),
            "cents": rng.randrange(10**5),
            "items": items,
        }

    def refund(order: str, cents: int) -> JsonObject:
        if rng.random() < TIMEOUT_SHARE:
            raise TimeoutError("the payment service did not answer within 5 s")
        if rng.random() < REFUSAL_SHARE:
            raise ValueError(f"{cents} cents are more than the price of {order}")
        return {"refund": f"R{rng.randrange(10**6)}", "ok": True}

    def send_message(customer: str, text: str) -> None:
        return None

    return {
        "find_customer": find_customer,
        "get_order": get_order,
        "refund": refund,
        "send_message": send_message,
    }


def refund_calls(rng: random.Random) -> Iterator[tuple[str, JsonObject]]:
    """Yield the calls of one episode."""
    yield "find_customer", {"name": f"name {rng.randrange(500)}"}
    for _ in range(rng.randrange(3, 9)):
        order = f"O{rng.randrange(9999)}"
        yield "get_order", {"order": order}
        yield "refund", {"order": order, "cents": rng.randrange(10**4)}
    yield (
        "send_message",
        {"customer": "C1", "text": "We refunded your order; the money arrives in three days."},
    )


def record_tool_calls(folder: Path) -> int:
    """Record episodes of an agent that tries failed calls again; return the number of calls."""
    rng = random.Random(0)
    tools = make_tools(rng)
    n_calls = 0
    for k in range(N_EPISODES):
        with trajrec.episode(folder, task=f"refund-{k % 40}") as ep:
            for name, function in tools.items():
                ep.tool(function, name=name)
            for name, arguments in refund_calls(rng):
                for _ in range(N_TRIES):
                    n_calls += 1
                    with contextlib.suppress(TimeoutError, ValueError):
                        ep.call(name, **arguments)
                        break
            ep.stop("done", claimed_done=True)
    close_logs()
    return n_calls


def print_tool_calls() -> None:
    """Print the bytes of a tool call, as recorded and compacted."""
    folder = scratch_folder()
    n_calls = record_tool_calls(folder)
    recorded = size_of(folder) / n_calls
    for path in folder.glob("*.trj"):
        compact(path)
    compacted = size_of(folder) / n_calls
    print(f"tool call, a third of the refunds failing: {recorded:.1f} B (goal: 65)")
    print(f"  compacted: {compacted:.1f} B (goal: 40)")


def print_vector() -> None:
    """Print the bytes of a step of many environments side by side."""
    folder = scratch_folder()
    envs = gym.vector.SyncVectorEnv(
        [lambda: trajrec.record(gym.make("CartPole-v1"), folder) for _ in range(N_ENVS)]
    )
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(N_VECTOR_STEPS):
        envs.step(envs.action_space.sample())
    envs.close()
    size = size_of(folder) / (N_ENVS * N_VECTOR_STEPS)
    print(
        f"{N_ENVS} environments, {N_VECTOR_STEPS} CartPole steps each: {size:.1f} B a step (goal: 24)"
    )


def print_slow_steps() -> None:
    """Print the bytes of a step if steps are far apart."""
    folder = scratch_folder()
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    observation, _ = env.reset(seed=0)
    for _ in range(N_SLOW_STEPS):
        action = int(3 * observation[2] + observation[3] > 0)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
        time.sleep(SLOW_STEP_S)
    env.close()
    size = size_of(folder) / N_SLOW_STEPS
    print(f"a CartPole step every {SLOW_STEP_S * 1e3:.0f} ms: {size:.1f} B (goal: 50)")


def time_raising(folder: Path | None) -> float:
    """Return the CPU time of a call that raises, in us; bare if there is no folder."""

    def fail(order: str, cents: int) -> None:
        raise TimeoutError("the payment service did not answer within 5 s")

    begin = time.process_time()
    if folder is None:
        for k in range(N_RAISING):
            with contextlib.suppress(TimeoutError):
                fail(order=f"O{k}", cents=k)
    else:
        with trajrec.episode(folder) as ep:
            ep.tool(fail, name="fail")
            for k in range(N_RAISING):
                with contextlib.suppress(TimeoutError):
                    ep.call("fail", order=f"O{k}", cents=k)
        close_logs()
    return (time.process_time() - begin) / N_RAISING * 1e6


def print_raising() -> None:
    """Print time and bytes of a call that raises, beyond the bare call."""
    costs = []
    sizes = []
    for _ in range(N_REPETITIONS):
        folder = scratch_folder()
        costs.append(time_raising(folder) - time_raising(None))
        sizes.append(size_of(folder) / N_RAISING)
    print(
        f"a call that raises: {statistics.median(costs):.0f} us (goal: 60), "
        f"{statistics.median(sizes):.0f} B (goal: 100)"
    )


def main() -> None:
    """Print all figures."""
    print_tool_calls()
    print_vector()
    print_slow_steps()
    print_raising()


if __name__ == "__main__":
    main()
