"""Many episodes replayed: one after the other, or by several processes; the same reports in the same order either way."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Literal

import gymnasium

from trajrec.corpus.episode import Episode
from trajrec.envstate.pettingzoo import api_of
from trajrec.protocols import World
from trajrec.replay.execute.report import ReplayReport
from trajrec.replay.processes.refs import EpisodeLoader, EpisodeRef, refs_with_ancestors
from trajrec.replay.processes.workers import WorkerDied, map_ordered
from trajrec.replay.replayer import WALL_CLOCK, EnvOrFactory, Replayer

CHUNK = 128
"""Episodes that an environment is kept for: the same whatever the number of processes, so that reports are too."""


def replay_episodes(
    episodes: Iterable[Episode],
    *,
    env: EnvOrFactory = None,
    world: Callable[[], World] | None = None,
    allow: Iterable[str] = (),
    state: Callable[[Any], Any] | None = None,
    ignore: Collection[str] = WALL_CLOCK,
    ulps: int = 0,
    resync: bool = False,
    first: int = 0,
    explain: bool = True,
    jobs: int = 1,
    backend: Literal["local", "ray"] = "local",
) -> Iterator[ReplayReport]:
    """Replay many episodes, on as few environments as their specifications allow.

    An episode whose environment may not be imported or is missing is reported as "refused", with the reason in its notes; so is
    one that ended the process that replayed it, twice.

    Args:
        episodes: From `Corpus.episodes`; taken as they are needed.
        env: An environment to replay on, or what makes one; by default those that the logs name are made.
        world: Makes the world of agents' episodes; by default those that the logs name are made.
        allow: Module prefixes that may be imported because a log names them.
        state: The function that states were captured with, where the recorder was given one.
        ignore: See `replay_episode`.
        ulps: See `replay_episode`.
        resync: See `replay_episode`, and of agents' episodes `replay_world`.
        first: See `replay_episode`.
        explain: Run diverged episodes again, to find the likely cause.
        jobs: Processes; with 1 everything happens in this one.
        backend: Where they run: "local", or "ray": tasks of a Ray cluster (`trajrec[ray]`), which must see the logs' paths.

    Raises:
        TypeError: An environment object was given with several processes: give what makes one.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs!r}")
    options: dict[str, Any] = {
        "world": world,
        "allow": tuple(allow),
        "state": state,
        "ignore": frozenset(ignore),
        "ulps": ulps,
        "resync": resync,
        "first": first,
        "explain": explain,
    }
    if jobs == 1 and backend == "local":
        for chunk in _chunks(episodes):
            yield from _replay(chunk, env, options)
        return
    if isinstance(env, gymnasium.Env) or api_of(env) is not None:
        raise TypeError(
            "an environment object cannot be sent to other processes: give a function that makes one as env="
        )
    work = functools.partial(_replay_places, EpisodeLoader(), env, options)
    places = ([refs_with_ancestors(episode) for episode in chunk] for chunk in _chunks(episodes))
    sent, kept = itertools.tee(places)
    if backend == "ray":
        from trajrec.replay.processes.ray import map_on_ray

        results = map_on_ray(work, sent, jobs)
    else:
        results = map_ordered(work, sent, jobs)
    for chunk_of_places, found in zip(kept, results, strict=True):
        yield from (
            _one_by_one(chunk_of_places, work, jobs, found.why)
            if isinstance(found, WorkerDied)
            else found
        )


def _one_by_one(
    places: list[tuple[EpisodeRef, ...]],
    work: Callable[[list[tuple[EpisodeRef, ...]]], list[ReplayReport]],
    jobs: int,
    why: str,
) -> Iterator[ReplayReport]:
    """Replay what ended a process, each episode in one of its own: so only those that end it are refused."""
    for place, found in zip(
        places, map_ordered(work, ([place] for place in places), jobs), strict=True
    ):
        yield (
            ReplayReport(place[0].id, "refused", 0, notes=(found.why,))
            if isinstance(found, WorkerDied)
            else found[0]
        )


def _replay_places(
    places: EpisodeLoader,
    env: EnvOrFactory,
    options: dict[str, Any],
    chunk: list[tuple[EpisodeRef, ...]],
) -> list[ReplayReport]:
    return list(_replay((places.read(place) for place in chunk), env, options))


def _replay(
    chunk: Iterable[Episode], env: EnvOrFactory, options: dict[str, Any]
) -> Iterator[ReplayReport]:
    with Replayer(env=env, **options) as replayer:
        yield from replayer.replay_all(chunk)


def _chunks(episodes: Iterable[Episode]) -> Iterator[Iterator[Episode]]:
    """Yield runs of episodes, each read when it is asked for: an episode of frames may be large."""
    for _, numbered in itertools.groupby(enumerate(episodes), lambda pair: pair[0] // CHUNK):
        yield (episode for _, episode in numbered)
