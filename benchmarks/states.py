"""The time to rebuild the states of an agent's episode, at random and in a loop.

Run as `python -m benchmarks.states`.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import trajrec
from benchmarks import scratch_folder
from trajrec.corpus.episode import Episode
from trajrec.envs import Office
from trajrec.recording.event_log import close_logs
from trajrec.values import codec

N_STEPS = 1_000
N_LOOKS = 30


def record_office(folder: Path) -> None:
    """Record an episode of the office: queries, changed rows, new rows and files."""
    rng = random.Random(0)
    with trajrec.episode(folder, world=Office(seed=1), options={"task": 0}) as ep:
        for step in range(N_STEPS):
            draw = rng.random()
            if draw < 0.4:
                ep.call("query", sql="SELECT * FROM expenses")
            elif draw < 0.7:
                ep.call("execute", sql=f"UPDATE expenses SET cents={step} WHERE id={1 + step % 24}")
            elif draw < 0.9:
                ep.call("write_file", path=f"notes/n{step % 40}.md", text=f"text {step}\n" * 20)
            else:
                row = f"({1000 + step}, 'Ada', 'x', {step}, 0)"
                ep.call("execute", sql=f"INSERT INTO expenses VALUES {row}")
    close_logs()


def main() -> None:
    """Print all figures."""
    folder = scratch_folder()
    record_office(folder)
    with trajrec.open(folder) as corpus:

        def fresh() -> Episode:
            return next(iter(corpus.episodes()))

        size = len(codec.encode(fresh().state(N_STEPS)))
        print(f"{N_STEPS:,} steps of an office, a last state of {size / 1e3:.0f} kB; CPU time")
        first = [_ms(lambda: fresh().state(N_STEPS)) - _ms(fresh) for _ in range(9)]
        print(f"the last state, of a fresh episode: {statistics.median(first):.1f} ms (goal: 10)")
        episode = fresh()
        rng = random.Random(1)
        looks = [_ms(lambda: episode.state(rng.randrange(N_STEPS + 1))) for _ in range(N_LOOKS)]
        print(
            f"a random state: {statistics.median(looks):.1f} ms in the median, {max(looks):.1f} ms "
            "at most (goal: 10)"
        )
        for name, steps in (
            ("forward", range(N_STEPS + 1)),
            ("backward", range(N_STEPS, -1, -1)),
        ):
            episode = fresh()
            whole = _ms(lambda: [episode.state(step) for step in steps])  # noqa: B023
            print(f"all states {name}: {whole / (N_STEPS + 1):.2f} ms each")


def _ms(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return (time.process_time() - begin) * 1e3


if __name__ == "__main__":
    main()
