"""An agent of smolagents whose tools fail in parallel: it is recorded, and rerun some times."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import smolagents
from model_server import Call, ModelServer, Turn

import trajrec

SAME = '{"order": "O1"}'

PLAN = [
    # Equal calls, of which only the id tells which result is whose.
    Turn(calls=[Call("count", SAME, f"c-{k}") for k in range(4)]),
    # The first error that is handed out is told to the model; the others are dropped.
    Turn(
        calls=[
            Call("fail", '{"order": "slow"}', "f-1"),
            Call("fail", '{"order": "fast"}', "f-2"),
            Call("missing", SAME, "f-3"),
        ]
    ),
    Turn(calls=[Call("fail", json.dumps({"order": f"at once {k}"}), f"g-{k}") for k in range(4)]),
    Turn(
        calls=[Call("fail", '{"order": "slow"}', "h-1"), Call("fail", '{"order": "fast"}', "h-2")]
    ),
    Turn(calls=[Call("final_answer", '{"answer": "done"}', "e-1")]),
]

numbers: dict[int, int] = {}
lock = threading.Lock()


def count(order: str) -> str:
    """Return a number that no other call has.

    Args:
        order: Id of the order.
    """
    with lock:
        number = len(numbers)
        numbers[number] = number
    # The first one to begin is the last one to end.
    time.sleep(0.1 - 0.03 * number)
    return f"number {number}"


def fail(order: str) -> str:
    """Fail.

    Args:
        order: Id of the order.
    """
    if order == "slow":
        time.sleep(0.15)
    raise ValueError(f"{order} failed")


def run(url: str) -> Any:
    """Run the agent."""
    model = smolagents.OpenAIServerModel("m", api_base=f"{url}/v1", api_key="none")
    tools = [smolagents.tool(count), smolagents.tool(fail)]
    agent = smolagents.ToolCallingAgent(tools=tools, model=model, verbosity_level=0)
    said = agent.run("Go.")
    steps = [step for step in agent.memory.steps if hasattr(step, "observations")]
    told = [step.observations or str(step.error and step.error.message) for step in steps]
    return said, told


def main(folder: Path, n_reruns: int) -> None:
    """Print what the recording tells, and how many reruns differ."""
    with ModelServer(PLAN) as server, trajrec.episode(folder):
        said, told = run(server.url)
    trajrec.close_logs()
    with trajrec.open(folder) as corpus:
        episode = next(corpus.episodes())
        results = {a.start.call_id: a.result for a in episode.transcript.attempts}
        n_different = 0
        first = ""
        for _ in range(n_reruns):
            try:
                with trajrec.rerun(episode):
                    assert run(server.url) == (said, told)
            except Exception as error:
                n_different += 1
                first = first or repr(error)
    print(json.dumps({"told": told, "results": results, "different": n_different, "first": first}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
