"""The tasks of agentdojo as worlds, through an adapter like those that users write.

As a program:

- `dojo.py record FOLDER [free] [cut] [large]` records the ground truth of the tasks. The clock is
  frozen unless "free" is given. With "cut", an episode lacks its last call. With "large", it has
  options of 10 kB, which its prompt shows.
- `dojo.py replay FOLDER` prints a report a line.
- `dojo.py credit FOLDER N` records N tasks that fail by one wrong call. It prints the step of the
  wrong call and the decisive step of each.

The variable TRAJREC_DOJO_TASKS chooses tasks by their numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from agentdojo.task_suite.load_suites import get_suites

import trajrec
from trajrec.protocols import Tool
from trajrec.replay import replay_episode
from trajrec.replay.credit import decisive_step

VERSION = "v1.2.2"


def tasks() -> list[tuple[str, str]]:
    """Return (suite, task) of the chosen user tasks; all of them by default."""
    names = [
        (name, task) for name, suite in get_suites(VERSION).items() for task in suite.user_tasks
    ]
    chosen = os.environ.get("TRAJREC_DOJO_TASKS")
    return [names[int(number)] for number in chosen.split(",")] if chosen else names


class Dojo:
    """A user task of agentdojo: its environment, its tools and its own check."""

    def __init__(self, suite: str, task: str) -> None:
        self.kwargs = {"suite": suite, "task": task}
        self.suite = get_suites(VERSION)[suite]
        self.task = self.suite.get_user_task_by_id(task)
        self.runtime = FunctionsRuntime(self.suite.tools)
        self.traces: list[FunctionCall] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        default = self.suite.load_and_inject_default_environment({})
        self.environment = self.task.init_environment(default)
        self.before = self.environment.model_copy(deep=True)
        self.traces.clear()
        return str(self.task.PROMPT) + (options or {}).get("notes", "")

    def tools(self) -> list[Tool]:
        return [
            Tool(tool.name, tool.parameters.model_json_schema(), "write", tool.description)
            for tool in self.suite.tools
        ]

    def watch(self) -> Any:
        return lambda: self.environment

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        self.traces.append(FunctionCall(function=name, args=arguments))
        result, _ = self.runtime.run_function(
            self.environment, name, arguments, raise_on_error=True
        )
        return result

    def get_state(self) -> Any:
        return {"environment": self.environment, "traces": list(self.traces)}

    def set_state(self, state: Any) -> None:
        self.environment = state["environment"].model_copy(deep=True)
        self.traces = list(state["traces"])

    def ground_truth(self) -> list[FunctionCall]:
        return list(self.task.ground_truth(self.before))


@trajrec.verifier(id="agentdojo-utility", version=VERSION, family="environmental")
def utility(world: Dojo) -> bool:
    """Return agentdojo's own verdict."""
    output = world.task.GROUND_TRUTH_OUTPUT
    verdict = world.task.utility_from_traces(output, world.before, world.environment, world.traces)
    # None: the task is judged by its environment alone.
    if verdict is None:
        verdict = world.task.utility(output, world.before, world.environment)
    return bool(verdict)


def notes_of(task: str) -> str:
    """Return 10 kB of text that hardly compresses, another one for each task."""
    return random.Random(task).randbytes(5_000).hex()


def record(folder: Path, options: list[str]) -> None:
    """Record the ground truth of every task."""
    for suite, task in tasks():
        world = Dojo(suite, task)
        with trajrec.episode(
            folder,
            task=f"{suite}/{task}",
            world=world,
            options={"notes": notes_of(task)} if "large" in options else None,
            checks=[utility],
            deterministic="free" not in options,
            redact=False,
        ) as ep:
            calls = world.ground_truth()
            for call in calls[: len(calls) - ("cut" in options)]:
                ep.call(call.function, **call.args)


def replay(folder: Path) -> None:
    """Print the report of every episode."""
    for episode in trajrec.open(folder).episodes():
        report = replay_episode(episode, allow=["__main__"], checks=[utility])
        print(json.dumps([episode.transcript.task, report.as_dict()]))


def credit(folder: Path, n: int) -> None:
    """Record tasks with one wrong call, and search for the call.

    Prints (task, wrong step, decisive step or None, confidence) of n tasks that fail by it.
    """
    for suite, task in tasks():
        world = Dojo(suite, task)
        world.reset()
        plan: Any = [(call.function, dict(call.args)) for call in world.ground_truth()]
        for wrong, (name, arguments) in enumerate(plan):
            texts = [key for key, value in arguments.items() if isinstance(value, str)]
            if not texts:
                continue
            wrong_call = (name, {**arguments, texts[0]: "nothing such"})
            calls = [*plan[:wrong], wrong_call, *plan[wrong + 1 :]]
            with trajrec.episode(
                folder,
                task=f"{suite}/{task}",
                world=world,
                checks=[utility],
                deterministic=True,
                redact=False,
            ) as ep:
                for tool, tool_arguments in calls:
                    with contextlib.suppress(Exception):
                        ep.call(tool, **tool_arguments)
                ep.stop("done", claimed_done=True)
            corpus = trajrec.open(folder)
            episode = corpus.episode(ep.id)
            if episode.outcome != "failure":
                continue

            def follow(context: Any, rng: Any, plan: Any = plan) -> Any:
                return plan[context.step] if context.step < len(plan) else None

            decision = decisive_step(
                episode,
                follow,
                n_rollouts=8,
                success=utility,
                env=lambda suite=suite, task=task: Dojo(suite, task),
            )
            row = [f"{suite}/{task}", wrong, decision.step, decision.confidence]
            print(json.dumps(row), flush=True)
            n -= 1
            break
        if n == 0:
            return


if __name__ == "__main__":
    if sys.argv[1] == "credit":
        credit(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "record":
        record(Path(sys.argv[2]), sys.argv[3:])
    else:
        replay(Path(sys.argv[2]))
