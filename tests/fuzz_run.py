"""Runs the fuzzer's reader in processes of its own, which a mutant may hang or kill."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

# Far above the processor time that the reader itself allows, for a machine with other work.
LONGEST_S = 180.0


def read_mutants(numbers: list[int], seeds: Path) -> list[dict[str, Any]]:
    """Read mutants by their numbers, and return the result of each."""
    n_processes = os.cpu_count() or 1
    shares = [numbers[k::n_processes] for k in range(n_processes)]
    with ThreadPoolExecutor(n_processes) as pool:
        return [
            result
            for results in pool.map(lambda s: list(_read(s, seeds)), shares)
            for result in results
        ]


def findings(results: Iterable[dict[str, Any]]) -> list[str]:
    """Return what must not happen, with the number that makes its mutant again."""
    return [
        f"mutant {result['seed']} of {result['log']} ({', '.join(result['names'])}): {reason}"
        for result in results
        for reason in (*result["faults"], *result["wrong"])
    ]


def _read(numbers: list[int], seeds: Path) -> Iterator[dict[str, Any]]:
    """Read mutants in one process, which is started again if it ends."""
    process = _start(seeds)
    for number in numbers:
        line = ""
        try:
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            if select.select([process.stdout], [], [], LONGEST_S)[0]:
                line = process.stdout.readline()
        except BrokenPipeError:
            pass
        if line:
            yield json.loads(line)
            continue
        process.kill()
        reason = f"its reader hung, or ended with {process.wait()}"
        yield {"seed": number, "log": "?", "names": ["?"], "faults": [reason], "wrong": []}
        process = _start(seeds)
    process.communicate()


# The pipes of `Popen` are typed as optional.
def _start(seeds: Path) -> Any:
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(HERE / "fuzz_oracle.py"), str(seeds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
