"""Goes on live where an agent that is run again does something else: from there it is an episode of its own, a fork."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from trajrec.agents.counters import Origin, Steps
from trajrec.agents.episode import AgentEpisode
from trajrec.corpus.episode import Episode
from trajrec.errors import ReplayError
from trajrec.log.schema import Fork
from trajrec.protocols import World
from trajrec.replay.agents.world_replay import bring_world
from trajrec.replay.execute.environments import make_world
from trajrec.values import codec


def continue_live(
    episode: Episode,
    at: int,
    steps: Steps,
    places: Collection[tuple[int, int, int]],
    n_models: int,
    n_effects: int,
    functions: Iterable[tuple[Callable[..., Any], dict[str, Any]]],
    *,
    folder: Path,
    world: World | None,
    allow: tuple[str, ...],
    goal: Any,
) -> AgentEpisode:
    """Return an episode that goes on from where another one stands, begun.

    Args:
        episode: The other one.
        at: The step at which the agent does something else.
        steps: Its count, which goes on.
        places: (step, call, attempt) of its calls that were made again: the world is brought to where they lead.
        n_models: Its model calls that were answered.
        n_effects: Its side effects that were given back.
        functions: Tools that are functions, with how they were given.
        folder: Where it is recorded.
        world: The world; by default the one that the log names is made.
        allow: Module prefixes that may be imported because the log names them.
        goal: What the agent was asked.

    Raises:
        DivergenceError: The world cannot be brought there: what its calls do is not what they did.
    """
    task, start = episode.transcript.task_start, episode.start
    if task is None or start is None:
        raise ReplayError(
            "the log has lost how this episode began, and nothing goes on from there",
            episode_id=episode.id,
        )
    if world is None and task.world:
        world = make_world(episode, allow)

    def prepare(there: Any) -> None:
        if there is not None:
            bring_world(episode, there, places)

    metadata = codec.encode(
        {"attempts": sorted(map(list, places)), "models": n_models, "effects": n_effects}
    )
    fork = Fork(episode=0, parent_id=episode.id, step=at, kind="agent", metadata_data=metadata)
    value = episode.transcript.value
    live = AgentEpisode(
        folder,
        task=task.task,
        goal=goal,
        world=world,
        interface=value(task.interface_data),
        metadata=value(task.metadata_data),
        deterministic=task.held_seed is not None,
        origin=Origin(fork, start, steps, prepare),
    )
    live.__enter__()
    for function, options in functions:
        live.tool(function, **options)
    return live
