"""The speed and the memory of imports: calls a second of one core, for generated files.

    python benchmarks/imports.py [CALLS]

Each call has a result of 1 kB; an episode has 100 calls. Texts are drawn, so that no two results are the same.
The figure without redaction is the goal (20,000 calls/s for ATIF and Inspect); the one with it stands beside it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CALLS_PER_EPISODE = 100
RESULT_BYTES = 1000
WORDS = [f"{chr(97 + k % 26)}{k:04x}" for k in range(4096)]


def text(rng: random.Random, size: int) -> str:
    """Return a text of words, about `size` bytes long."""
    return " ".join(rng.choices(WORDS, k=size // 6))


def atif_documents(n_calls: int) -> Iterator[dict[str, Any]]:
    """Yield trajectories of ATIF."""
    rng = random.Random(0)
    for number in range(n_calls // CALLS_PER_EPISODE):
        steps: list[dict[str, Any]] = [{"step_id": 1, "source": "user", "message": "Go."}]
        for k in range(CALLS_PER_EPISODE):
            call = {
                "tool_call_id": f"c{k}",
                "function_name": "bash",
                "arguments": {"command": text(rng, 60)},
            }
            result = {"source_call_id": f"c{k}", "content": text(rng, RESULT_BYTES)}
            steps.append(
                {
                    "step_id": k + 2,
                    "source": "agent",
                    "message": text(rng, 100),
                    "tool_calls": [call],
                    "observation": {"results": [result]},
                    "metrics": {"prompt_tokens": 1000, "completion_tokens": 50},
                }
            )
        agent = {"name": "a", "version": "1", "model_name": "m"}
        yield {
            "schema_version": "ATIF-v1.7",
            "session_id": f"s{number}",
            "agent": agent,
            "steps": steps,
        }


def write_atif(path: Path, n_calls: int) -> None:
    """Write trajectories of ATIF, one a line."""
    with path.open("w") as file:
        for document in atif_documents(n_calls):
            file.write(json.dumps(document) + "\n")


def inspect_sample(number: int, rng: random.Random) -> dict[str, Any]:
    """Return a sample of Inspect, with its messages in a pool."""
    pool: list[dict[str, Any]] = [{"id": "m0", "role": "user", "content": "Go."}]
    events: list[dict[str, Any]] = []
    for k in range(CALLS_PER_EPISODE):
        arguments = {"command": text(rng, 60)}
        asked = {"id": f"c{k}", "function": "bash", "arguments": arguments, "type": "function"}
        message: dict[str, Any] = {"id": f"a{k}", "role": "assistant"}
        message |= {"content": text(rng, 100), "tool_calls": [asked]}
        content = text(rng, RESULT_BYTES)
        choices = [{"message": message, "stop_reason": "tool_calls"}]
        times = {"timestamp": "2026-01-01T00:00:00+00:00", "completed": "2026-01-01T00:00:01+00:00"}
        output = {"model": "m", "choices": choices, "usage": {"input_tokens": 9}}
        events.append(
            {
                "event": "model",
                "model": "m",
                "input": [],
                "input_refs": [[0, len(pool)]],
                "config": {},
                "output": output,
                **times,
            }
        )
        events.append(
            {
                "event": "tool",
                "id": f"c{k}",
                "function": "bash",
                "arguments": arguments,
                "result": content,
                **times,
            }
        )
        pool += [
            message,
            {"id": f"t{k}", "role": "tool", "content": content, "tool_call_id": f"c{k}"},
        ]
    return {
        "id": number,
        "epoch": 1,
        "input": "Go.",
        "messages": [],
        "events": events,
        "events_data": {"messages": pool, "calls": []},
        "scores": {"match": {"value": "C"}},
    }


def write_inspect(path: Path, n_calls: int) -> None:
    """Write a log of Inspect."""
    rng = random.Random(0)
    header = {"version": 2, "status": "success", "eval": {"task": "t", "model": "m"}, "plan": {}}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for number in range(n_calls // CALLS_PER_EPISODE):
            sample = json.dumps(inspect_sample(number, rng))
            file.writestr(f"samples/{number}_epoch_1.json", sample)
        file.writestr("header.json", json.dumps(header))


def measure(path: Path, *, redact: bool) -> dict[str, float]:
    """Return the CPU time and the memory of one import, in a process of its own."""
    code = (
        "import resource, sys, tempfile, time\n"
        "from pathlib import Path\n"
        "from trajrec.exchange.importing import import_trajectories\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    start = time.process_time()\n"
        f"    report = import_trajectories({str(path)!r}, folder, redact={redact})\n"
        "    seconds = time.process_time() - start\n"
        "    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    size = sum(p.stat().st_size for p in Path(folder).glob('*.trj'))\n"
        "    print(seconds, after / 1024, (after - before) / 1024, size, report.files[0].n_calls)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, peak, grown, size, n_calls = map(float, done.stdout.split())
    return {
        "calls_per_s": n_calls / seconds,
        "peak_mb": peak,
        "grown_mb": grown,
        "bytes_per_call": size / n_calls,
    }


def main(n_calls: int) -> None:
    """Print the figures."""
    print(f"{n_calls} calls, CPU of one core, each import in a process of its own")
    with tempfile.TemporaryDirectory() as folder:
        files = {"atif": Path(folder) / "t.jsonl", "inspect": Path(folder) / "t.eval"}
        write_atif(files["atif"], n_calls)
        write_inspect(files["inspect"], n_calls)
        for name, path in files.items():
            for redact in (False, True):
                figures = measure(path, redact=redact)
                print(
                    f"{name:<8} {'redacted' if redact else 'as it is':<9}"
                    f"{figures['calls_per_s']:>9.0f} calls/s  peak {figures['peak_mb']:.0f} MB "
                    f"({figures['grown_mb']:.0f} MB of the import)  "
                    f"{figures['bytes_per_call']:.0f} bytes a call  "
                    f"file {path.stat().st_size / 1e6:.0f} MB"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
