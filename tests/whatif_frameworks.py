"""What if, for one small agent of each framework: a refund of another order.

`python whatif_frameworks.py NAME FOLDER` records an agent whose refund fails, tries another order,
and prints the result as JSON, with the number of tools and requests before the step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import framework_agents
from framework_agents import ENTRIES, ran
from model_server import Call, ModelServer, Turn

import trajrec
from trajrec.replay import what_if
from trajrec.replay.whatif.changes import Arguments

NAMES = ("pydantic_ai", "openai_agents", "langgraph", "smolagents")


def plan(request: dict[str, Any], number: int) -> Turn:
    """Look an order up, refund order b, which fails, and end."""
    said = json.dumps(request["messages"])
    if "order a" not in said:
        return Turn(calls=[Call("lookup", '{"order": "a"}', "c-1")])
    # The SDK of OpenAI's agents hides the message of an error.
    if not any(told in said for told in ("no such order", "paid c", "An error occurred")):
        return Turn(calls=[Call("refund", '{"order": "b"}', "c-2")])
    offered = [tool["function"]["name"] for tool in request.get("tools", [])]
    if "final_answer" in offered:
        return Turn(calls=[Call("final_answer", '{"answer": "Done."}', "c-3")])
    return Turn("Done.")


def paid(state: Any) -> bool:
    return "refund c" in state["ran"]


def main(name: str, folder: Path) -> None:
    run = ENTRIES[name].run
    with ModelServer(plan) as server:

        def program() -> None:
            ran.clear()
            with trajrec.episode(folder, task="pay", watch={"ran": ran}) as ep:
                run(server.url)
                ep.check(paid)

        program()
        trajrec.close_logs()
        with trajrec.open(folder) as corpus:
            episode = corpus.episode(next(iter(corpus.episodes())).id)
        server.attempts.clear()
        (step,) = [a.start.step for a in episode.transcript.attempts if a.tool == "refund"]
        result = what_if(episode, at=step, change=Arguments({"order": "c"}), agent=program, n=2)
        asked = [json.loads(attempt.body) for attempt in server.attempts]
        fewest = min((len(body["messages"]) for body in asked), default=0)
    print(json.dumps({**result.to_json(), "step": step, "fewest": fewest}))


if __name__ == "__main__":
    assert framework_agents.PLAN
    main(sys.argv[1], Path(sys.argv[2]))
