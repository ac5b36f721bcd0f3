"""The logs that the fuzzer changes: small ones of every kind."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from conftest import Scripted, run

import trajrec
from trajrec.log.compaction import compact
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader

GOLDEN = Path(__file__).resolve().parent / "golden/format-1"


def make_seeds(folder: Path) -> list[Path]:
    """Make the logs in a folder, each under a name that says its kind; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "work"
    for name, make in MAKERS.items():
        make(work / name)
        trajrec.close_logs()
        for number, path in enumerate(sorted((work / name).glob("*.trj"))):
            shutil.copy(path, folder / f"{name}-{number}.trj")
            if journal_path(path).exists():
                shutil.copy(journal_path(path), journal_path(folder / f"{name}-{number}.trj"))
    shutil.rmtree(work)
    for path in sorted(folder.glob("*.trj")):
        if path.stem in ("lake-0", "dicts-0", "agent-0"):
            shutil.copy(path, folder / f"{path.stem}-compact.trj")
            compact(folder / f"{path.stem}-compact.trj")
        if path.stem in ("lake-0", "cartpole-0", "agent-0"):
            with LogReader(path) as reader:
                whole = reader.slice(0, reader.frames[-1].end)
            (folder / f"{path.stem}-unsealed.trj").write_bytes(whole)
    for path in sorted(GOLDEN.glob("*.trj")):
        shutil.copy(path, folder / f"golden-{path.stem}.trj")
    return sorted(folder.glob("*.trj"))


def flushed(env: Any, folder: Path, n_episodes: int, n_chunks: int, **options: Any) -> None:
    """Record episodes, with a flush after some of them."""
    recorder = trajrec.record(env, folder, **options)
    for k in range(n_chunks):
        run(recorder, n_episodes, seed=0 if k == 0 else None)
        recorder.flush()
    recorder.close()


def make_lake(folder: Path) -> None:
    flushed(gym.make("FrozenLake-v1"), folder, 2, 4)


def make_cartpole(folder: Path) -> None:
    """Episodes that lie in several chunks."""
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    for k in range(3):
        env.reset(seed=k)
        for step in range(25):
            if env.step(step % 2)[2]:
                break
            if step % 8 == 7:
                env.flush()
    env.close()


def make_states(folder: Path) -> None:
    flushed(gym.make("Taxi-v4"), folder, 1, 1, keep_states="all")


def make_dicts(folder: Path) -> None:
    rng = np.random.default_rng(0)

    def result(k: int) -> Any:
        observation = {
            "image": rng.integers(0, 4, (3, 2), np.uint8),
            "place": (np.float32(k), k % 3),
            "text": "é" * (k % 3),
        }
        info = {"n": k, "words": ["a", k]} if k % 3 else ({"odd": (k, None)} if k % 2 else {})
        if k == 4:
            raise TimeoutError("no answer")
        return observation, np.float32(k) / 3, k == 7, False, info

    env = trajrec.record(Scripted(result), folder)
    for _ in range(3):
        env.reset(seed=1)
        for k in range(8):
            try:
                env.step({"move": k, "to": (k, "x")})
            except TimeoutError:
                env.flush()
    env.close()


def make_pixels(folder: Path) -> None:
    rng = np.random.default_rng(0)
    screen = rng.integers(0, 255, (4, 24, 24), np.uint8)

    def result(k: int) -> Any:
        nonlocal screen
        frame = screen[-1].copy()
        frame[rng.integers(0, 24), rng.integers(0, 24)] = k % 250
        screen = np.concatenate([screen[1:], frame[None]])
        return screen.copy(), 1.0, k == 11, False, {}

    flushed(Scripted(result), folder, 2, 2)


def make_players(folder: Path) -> None:
    from pettingzoo.classic.rps import rps

    env = trajrec.record(rps.parallel_env(max_cycles=4), folder)
    for seed in range(2):
        env.reset(seed=seed)
        while env.agents:
            env.step(dict.fromkeys(env.agents, 0))
    env.close()


def make_agent(folder: Path) -> None:
    stock: dict[Any, Any] = {"lamps": 3, 7: ["a"], "log": []}
    text = "a long text that is stored once " * 40

    def search(item: str) -> Any:
        return {"item": item, "n": stock.get(item), "text": text}

    def buy(item: str, n: int) -> Any:
        if n > 2:
            raise ValueError("too many")
        stock[item] = stock.get(item, 0) - n
        stock["log"].append((item, n))
        return stock[item]

    def complete(*, messages: list[Any], model: str) -> Any:
        return {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 3}}

    def stream(*, messages: list[Any], model: str) -> Any:
        yield from ({"choices": [{"delta": part}]} for part in text[:200].split())

    def is_done(state: Any) -> bool:
        return True

    for k in range(3):
        with trajrec.episode(folder, task=f"task {k}", watch=stock, goal="buy lamps") as ep:
            ep.tool(search, name="search", access="read")
            ep.tool(buy, name="buy", access="write")
            messages: list[Any] = [{"role": "system", "content": text}]
            for turn in range(3):
                messages.append({"role": "user", "content": f"turn {turn}"})
                answer = ep.model(complete if turn else stream, messages=messages, model="m")
                messages.append({"role": "assistant", "content": list(answer)})
                ep.call("search", item="lamps")
                for n in (3, 1):
                    with contextlib.suppress(ValueError):
                        ep.call("buy", item="lamps", n=n)
            ep.side_effect("clock", float, "1.5")
            ep.check(is_done)


def make_branches(folder: Path) -> None:
    """Forks, credit and later checks, each in a log of its own."""
    import functools

    from trajrec.corpus.recheck import recheck
    from trajrec.replay import credit, fork_many

    make_lake(folder)
    with trajrec.open(folder) as corpus:
        episode = next(corpus.episodes("n_steps > 3"))
        make = functools.partial(gym.make, "FrozenLake-v1")
        fork_many(episode, at=range(2), policy="random", n_branches=2, seed=1, env=make)
        credit.estimate(episode, "random", n_rollouts=2, steps=[0, 1], env=make)
        list(recheck(corpus, lambda state: True))


def make_live(folder: Path) -> None:
    """Logs that are being written, with journals."""
    folder.mkdir(parents=True)
    env = trajrec.record(gym.make("CartPole-v1"), folder / "cartpole")
    for k in range(3):
        env.reset(seed=k)
        for step in range(12):
            env.step(step % 2)
        if k == 0:
            env.flush()
    _copy_live(env.path, folder / "cartpole.trj")
    env.close()
    stock = {"lamps": 3}
    with trajrec.episode(folder / "agent", watch=stock) as ep:

        def buy(n: int) -> int:
            stock["lamps"] -= n
            return stock["lamps"]

        ep.tool(buy, name="buy", access="write")
        for n in range(5):
            ep.call("buy", n=n)
        (path,) = (folder / "agent").glob("*.trj")
        _copy_live(path, folder / "agent.trj")


def _copy_live(path: Path, copy: Path) -> None:
    # The journal first, as a reader reads it.
    shutil.copy(journal_path(path), journal_path(copy))
    shutil.copy(path, copy)


MAKERS = {
    "lake": make_lake,
    "cartpole": make_cartpole,
    "states": make_states,
    "dicts": make_dicts,
    "pixels": make_pixels,
    "players": make_players,
    "agent": make_agent,
    "branches": make_branches,
    "live": make_live,
}
