"""Make the corpus of the support agent: `python sample_trajectories/make_support.py [FOLDER]`.

`--without-credit` leaves out the estimates, which take longest.

An agent asks a scripted model server and works for a shop, whose payment provider fails at times.
Some of its episodes are lost by one wrong amount. The corpus holds the episodes, the verdicts of
their replays, an experiment that changes the amount and wins, and credit. Ids, times and the
server's port differ each time; everything that the agent did is the same.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import HTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
from make import RUNTIME, error_without_frames
from support import model

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.envs.shop import ToolError
from trajrec.recording import error_text, provenance
from trajrec.replay import credit, what_if
from trajrec.replay.whatif.changes import Arguments

# Tasks of the shop that refund one order: with and without failures of the payment provider.
TASKS = (0, 5)
SHOPS = range(6)

REFUND = 1
"""The step at which the model first asks for a refund."""

N_RUNS = 8
"""Runs of each arm of the experiment, and rollouts of each step."""


@trajrec.verifier(id="solved", version="1")
def solved(shop: Any) -> bool:
    """The shop's database is as the task's ground truth leaves it."""
    return bool(shop.task_solved())


def support(ep: Any) -> None:
    """The agent: it makes the calls that the model asks for, until the model is done."""
    messages: list[Any] = [{"role": "user", "content": ep.goal["goal"]}]
    with httpx.Client(base_url=os.environ["OPENAI_BASE_URL"]) as client:
        while True:
            asked = {"model": "scripted-1", "messages": messages}
            answer = client.post("/chat/completions", json=asked)
            message = answer.raise_for_status().json()["choices"][0]["message"]
            messages.append(message)
            if not message.get("tool_calls"):
                ep.stop("done", claimed_done=True)
                return
            for call in message["tool_calls"]:
                tool = call["function"]
                arguments = json.loads(tool["arguments"])
                result: Any
                try:
                    result = ep.execute(tool["name"], arguments, call_id=call["id"])
                except ToolError as exc:
                    result = {"error": str(exc)}
                told = {"role": "tool", "tool_call_id": call["id"]}
                messages.append({**told, "content": json.dumps(result)})


def record(folder: Path) -> None:
    """Record an episode of each task in each shop."""
    for task in TASKS:
        for seed in SHOPS:
            with trajrec.episode(
                folder,
                task=f"shop-{task}",
                world=trajrec.envs.Shop(seed=seed),
                options={"task": task},
                checks=[solved],
            ) as ep:
                support(ep)
    trajrec.close_logs()


def ask(folder: Path) -> None:
    """Replay the episodes, and change the amount in one of those with failed calls."""
    main(["replay", str(folder), "--json"])
    with trajrec.open(folder) as corpus:
        episode = lost_episode(corpus)
        order = episode.transcript.attempts[0].result
        what_if(
            episode,
            at=REFUND,
            change=Arguments({"cents": order["cents"]}),
            agent=support,
            n=N_RUNS,
            success=solved,
        )
    trajrec.close_logs()


def estimate(folder: Path) -> None:
    """Estimate the credit of the steps of the same episode. It takes half a minute or more."""
    with trajrec.open(folder) as corpus:
        episode = lost_episode(corpus)
        policy = credit.AgentPolicy(support, id="support")
        steps = [REFUND, REFUND + 1]
        credit.estimate(episode, policy, estimator="value", n_rollouts=N_RUNS, steps=steps)
        credit.decisive_step(episode, policy, n_rollouts=N_RUNS, max_rollouts=2 * N_RUNS)
    trajrec.close_logs()


def lost_episode(corpus: trajrec.Corpus) -> Episode:
    """Return the first lost episode with failed calls."""
    return next(corpus.episodes("outcome = 'failure' AND n_failures > 0"))


@contextmanager
def served() -> Iterator[None]:
    """Serve the model, and name its address as the provider's."""
    model.drawn.setstate(random.Random(3).getstate())
    server = HTTPServer(("127.0.0.1", 0), model.Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        with mock.patch.dict(os.environ, {"OPENAI_BASE_URL": url}):
            yield
    finally:
        server.shutdown()
        server.server_close()


def make(folder: Path, *, with_credit: bool = True) -> None:
    """Make the corpus in a folder.

    Args:
        folder: The folder, without logs.
        with_credit: Whether to estimate credit too, which takes longest.
    """
    with ExitStack() as stack:
        stack.enter_context(served())
        stack.enter_context(
            mock.patch.multiple(
                provenance, describe_runtime=lambda: RUNTIME, hostname=lambda: "sample"
            )
        )
        # A traceback has paths and line numbers of this machine.
        stack.enter_context(mock.patch.object(error_text, "format_traceback", error_without_frames))
        record(folder)
        ask(folder)
        if with_credit:
            estimate(folder)


if __name__ == "__main__":
    paths = [word for word in sys.argv[1:] if not word.startswith("--")]
    make(
        Path(paths[0]) if paths else Path(__file__).parent / "support",
        with_credit="--without-credit" not in sys.argv,
    )
