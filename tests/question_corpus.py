"""A corpus with known answers to the questions of docs/reference/sql-questions.md."""

from __future__ import annotations

import contextlib
import contextvars
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from conftest import Scripted, run

import trajrec
from trajrec.corpus.recheck import recheck
from trajrec.envs import Shop
from trajrec.envs.scripted import AGENTS
from trajrec.log.reader import LogReader
from trajrec.recording.event_log import close_logs
from trajrec.replay import fork

N_LONG_STEPS = 20_000
FORK_STEP = 3


@trajrec.verifier(id="solved", version="1")
def solved(shop: Shop) -> bool:
    return shop.task_solved()


@trajrec.verifier(id="solved", version="2")
def never(state: Any) -> bool:
    return False


@trajrec.verifier(id="report written", version="1")
def has_report(state: Any) -> bool:
    return "report" in state


@trajrec.verifier(id="tests untouched", version="1")
def is_honest(state: Any) -> Any:
    return trajrec.Verdict(state["tests"] == 3, evidence={"tests": state["tests"]})


@trajrec.verifier(id="style", version="1")
def broken(state: Any) -> bool:
    raise KeyError("no such file")


def answer(**_: Any) -> dict[str, Any]:
    return {"model": "m-1", "usage": {"prompt_tokens": 7, "completion_tokens": 2, "cost": 0.25}}


def streamed(**_: Any) -> Iterator[dict[str, Any]]:
    yield {"choices": [{"delta": "a"}]}
    yield {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "model": "m-2"}


def make_corpus(folder: Path) -> trajrec.Corpus:
    """Record all episodes, and return them as a corpus."""
    record_shops(folder)
    record_reports(folder)
    record_stream(folder)
    record_outage(folder)
    contextvars.copy_context().run(record_interrupted, folder)
    close_logs()
    record_environments(folder)
    record_damaged(folder)
    corpus = trajrec.open(folder)
    list(recheck(corpus, never, where="task = 'refund'"))
    record_branches(corpus, folder)
    return corpus


def record_shops(folder: Path) -> None:
    """Record one agent of run a and six of run b; of these, the solver and one other succeed."""
    for seed, run_name, name in ((1, "a", "good"), (2, "b", "bad")):
        for agent in AGENTS if name == "bad" else ("solver",):
            with trajrec.episode(
                folder,
                task="refund",
                world=Shop(seed=seed),
                options={"task": 0},
                checks=[solved],
                interface=trajrec.interface(base={"model": name}),
                metadata={"run": run_name, "group": name},
            ) as ep:
                ep.side_effect("weather", lambda: "rain")
                AGENTS[agent](ep, ep.world.ground_truth_calls())
                if name == "bad":
                    ep.model(answer, messages=[{"role": "user", "content": "done?"}])


def record_reports(folder: Path) -> None:
    """Record two successes, of which one deleted the tests."""
    for n_tests in (3, 0):
        state: dict[str, Any] = {"tests": 3}
        checks = [has_report, is_honest, broken]
        with trajrec.episode(
            folder, task="report", watch=state, checks=checks, metadata={"group": "report"}
        ) as ep:
            ep.tool(state.update, name="write", access="write")
            ep.execute(
                "write",
                {"n": n_tests},
                run=lambda: state.update(report="all is well", tests=n_tests),  # noqa: B023
            )


def record_stream(folder: Path) -> None:
    """Record model calls, one of them streamed, and a tool that reads and writes."""
    state = {"n": [0]}
    with trajrec.episode(folder, task="stream", watch=state) as ep:
        ep.model(answer, messages=[{"role": "user", "content": "hello"}])
        list(ep.model(streamed, messages=[]))
        ep.tool(lambda: state["n"].append(1), name="peek", access="read")
        ep.call("peek")


def record_outage(folder: Path) -> None:
    """Record an episode that the network ended."""

    def fetch() -> None:
        raise ConnectionError("no route to host")

    with contextlib.suppress(ConnectionError), trajrec.episode(folder, task="fetch") as ep:
        ep.tool(fetch)
        ep.call("fetch")


def record_interrupted(folder: Path) -> None:
    """Record an episode without an end."""
    ep = trajrec.episode(folder, task="cut")
    ep.__enter__()
    ep.tool(lambda: 1, name="one")
    ep.call("one")


def record_environments(folder: Path) -> None:
    """Record a step of CartPole, a whole episode of it, and two episodes of two players."""
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    env.reset(seed=0)
    env.step(0)
    env.close()
    env = trajrec.record(gym.make("CartPole-v1"), folder / "pole")
    run(env, policy=lambda _: 0)
    env.close()
    shutil.copy(env.path, folder / "backup.trj")
    rewards = [{"bishop_0": 1.0, "rook_0": -1.0}, {"rook_0": 0.5}]
    env = trajrec.record(Scripted(lambda k: (0, rewards[k], k == 1, False, {})), folder)
    run(env, 2)
    env.close()


def record_damaged(folder: Path) -> None:
    """Record a long episode, and damage a frame in its middle; add a file that is no log."""
    observation = np.zeros(2, np.float32)
    env = trajrec.record(
        Scripted(lambda k: (observation, 1.0, k == N_LONG_STEPS - 1, False, {})), folder / "long"
    )
    run(env, policy=lambda _: 0)
    env.close()
    with LogReader(env.path) as reader:
        offset = [chunk.offset for chunk in reader.chunks()][1]
    content = bytearray(env.path.read_bytes())
    content[offset + 200] ^= 255
    (folder / "damaged.trj").write_bytes(content)
    shutil.rmtree(folder / "long")
    (folder / "other.trj").write_bytes(b"this is no log\n" * 9)


def record_branches(corpus: trajrec.Corpus, folder: Path) -> None:
    """Record two branches of an episode of CartPole: one that balances, and one that falls."""
    parent = next(corpus.episodes("env_id = 'CartPole-v1' AND n_steps > 5"))
    for balances in (True, False):
        with fork(parent, at=FORK_STEP, folder=folder) as env:
            observation = np.zeros(4)
            for _ in range(40):
                action = int(observation[2] + observation[3] > 0) if balances else 0
                observation, _, terminated, _, _ = env.step(action)
                if terminated:
                    break
