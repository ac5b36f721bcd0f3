"""Replay many episodes, one after the other or in several processes, with the same reports."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Unpack

from trajrec.corpus.episode import Episode
from trajrec.corpus.refs import EpisodeLoader, EpisodeRef, refs_with_ancestors
from trajrec.protocols import Verifier
from trajrec.replay.execute.factories import EnvOrFactory, WorldOrFactory, is_world
from trajrec.replay.execute.report import ReplayReport, refusal
from trajrec.replay.executor import is_env_object
from trajrec.replay.options import ReplayConfig, ReplayOptions, replay_config
from trajrec.replay.processes.workers import WorkerDied, map_ordered
from trajrec.replay.replayer import Replayer

# Episodes that an environment is kept for. The number is the same for any number of processes, so
# that reports are the same too: an environment that carries state over diverges at the same places.
CHUNK = 128


def replay_episodes(
    episodes: Iterable[Episode],
    *,
    env: EnvOrFactory = None,
    world: WorldOrFactory = None,
    checks: Sequence[Verifier] = (),
    jobs: int = 1,
    backend: Literal["local", "ray"] = "local",
    **options: Unpack[ReplayOptions],
) -> Iterator[ReplayReport]:
    """Replay many episodes on as few environments as their specifications allow.

    An episode is reported as "refused", with the reason in its notes, if its environment is missing
    or may not be imported, or if it ended the process that replayed it twice.

    Args:
        episodes: From `Corpus.episodes`; read one after the other as they are needed.
        env: See `replay_episode`.
        world: See `replay_episode`.
        checks: See `replay_episode`. Episodes of environments are refused if there are any.
        jobs: The number of processes; 1 replays in this process.
        backend: "local", or "ray" for tasks of a Ray cluster (`trajrec[ray]`) that can read the
            logs under the same paths.
        **options: See `ReplayOptions`.

    Yields:
        One report for each episode, in the order of the episodes.

    Raises:
        TypeError: An environment or world object is given with several processes.
        ValueError: `jobs` is less than 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs!r}")
    config = replay_config(**options)
    if jobs == 1 and backend == "local":
        for chunk in _chunks(episodes):
            yield from _replay(chunk, env, world, checks, config)
        return
    if is_env_object(env) or is_world(world):
        raise TypeError(
            "env and world must be functions that make one if jobs > 1: "
            "an object cannot be sent to other processes"
        )
    work = functools.partial(_replay_refs, EpisodeLoader(), env, world, tuple(checks), config)
    chunks = ([refs_with_ancestors(episode) for episode in chunk] for chunk in _chunks(episodes))
    # A chunk is needed again if its worker ended.
    sent, kept = itertools.tee(chunks)
    if backend == "ray":
        from trajrec.replay.processes.ray import map_on_ray

        results = map_on_ray(work, sent, jobs)
    else:
        results = map_ordered(work, sent, jobs)
    for chunk_refs, result in zip(kept, results, strict=True):
        if isinstance(result, WorkerDied):
            yield from _replay_one_by_one(chunk_refs, work, jobs)
        else:
            yield from result


def _replay_one_by_one(
    chunk: list[tuple[EpisodeRef, ...]],
    work: Callable[[list[tuple[EpisodeRef, ...]]], list[ReplayReport]],
    jobs: int,
) -> Iterator[ReplayReport]:
    """Replay the episodes of a chunk that ended a worker, and refuse those that end another one."""
    results = map_ordered(work, ([refs] for refs in chunk), jobs)
    for refs, result in zip(chunk, results, strict=True):
        if isinstance(result, WorkerDied):
            yield refusal(refs[0].id, result.why)
        else:
            yield from result


def _replay_refs(
    loader: EpisodeLoader,
    env: EnvOrFactory,
    world: WorldOrFactory,
    checks: Sequence[Verifier],
    config: ReplayConfig,
    chunk: list[tuple[EpisodeRef, ...]],
) -> list[ReplayReport]:
    """Replay a chunk: the work of another process."""
    return list(_replay((loader.read(refs) for refs in chunk), env, world, checks, config))


def _replay(
    chunk: Iterable[Episode],
    env: EnvOrFactory,
    world: WorldOrFactory,
    checks: Sequence[Verifier],
    config: ReplayConfig,
) -> Iterator[ReplayReport]:
    with Replayer(env=env, world=world, checks=checks, **config.as_options()) as replayer:
        yield from replayer.replay_all(chunk)


def _chunks(episodes: Iterable[Episode]) -> Iterator[Iterator[Episode]]:
    """Yield chunks of episodes, whose episodes are read when they are asked for.

    A list of episodes of frames would fill the memory.
    """
    for _, numbered in itertools.groupby(enumerate(episodes), lambda pair: pair[0] // CHUNK):
        yield (episode for _, episode in numbered)
