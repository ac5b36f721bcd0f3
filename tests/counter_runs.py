"""Runs of a scripted counter world with known results, recorded as real logs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trajrec
from trajrec.recording.event_log import close_logs

Results = Sequence[bool | str]
"""One rollout each: whether it reaches its goal; "infra" for an outage; "verifier" for a check
that raises; "cut" for a rollout that is abandoned without a check."""

GOAL = 3


@trajrec.verifier(id="reached", version="1")
def reached(state: dict[str, Any]) -> bool:
    if state["count"] < 0:
        raise ValueError("the counter is broken")
    return bool(state["count"] >= GOAL)


def interface(**fields: Any) -> dict[str, Any]:
    """Return an interface of which every field is known."""
    known: dict[str, Any] = {
        "verifier": {"id": "reached", "version": "1"},
        "base": {"model": "counter"},
        "lineage": trajrec.run_interface.missing("not_applicable"),
        "optimizer": trajrec.run_interface.missing("not_applicable"),
        "scaffold": {"prompt": "A", "tools": 1},
        "budget": {"steps": 5},
        "env": {"world": "counter"},
        "sampling": {"temperature": 0},
        "eval_protocol": {"seeded": True},
    }
    return trajrec.interface(**{**known, **fields})


def record_run(
    folder: Path,
    run: str,
    results: Mapping[str, Results],
    *,
    of: dict[str, Any] | None = None,
    checks: Sequence[Callable[..., Any]] = (reached,),
    families: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """Record the rollouts of a run, task by task.

    Args:
        folder: The corpus.
        run: Goes into the metadata.
        results: The rollouts of each task.
        of: The interface; by default one whose fields are all known.
        checks: The verifiers.
        families: The family of each task.
        options: Further arguments of `trajrec.episode`.
    """
    for task, of_task in results.items():
        for result in of_task:
            metadata = {"run": run}
            if families is not None:
                metadata["family"] = families[task]
            record_one(
                folder,
                result,
                task=task,
                checks=list(checks),
                interface=interface() if of is None else of,
                metadata=metadata,
                **options,
            )
    close_logs()


def record_one(folder: Path, result: bool | str, **options: Any) -> str:
    """Record one rollout; return its id."""
    state: dict[str, Any] = {"count": 0}

    def add(n: int) -> int:
        if result == "infra":
            raise ConnectionError("no route to host")
        state["count"] += n
        return int(state["count"])

    with (
        contextlib.suppress(ConnectionError),
        trajrec.episode(folder, watch=state, **options) as ep,
    ):
        ep.tool(add, access="write")
        ep.call("add", n=-1 if result == "verifier" else GOAL if result else 1)
    return str(ep.id)


def of_run(run: str) -> str:
    """Return the condition that selects a run."""
    return f"metadata->>'$.run' = '{run}'"


def counts(**tasks: tuple[int, int]) -> dict[str, list[bool | str]]:
    """Return results from (successes, rollouts) of each task."""
    return {task: [k < passed for k in range(n)] for task, (passed, n) in tasks.items()}
