"""Begins an agent's episode: resets the world, and records the task and the initial state."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from trajrec.agents.context import EpisodeSession
from trajrec.agents.counters import ForkOrigin
from trajrec.agents.freeze import derive_seed, frozen
from trajrec.agents.journal import Journal
from trajrec.agents.tool_calls import ToolCallRecorder
from trajrec.log.events import StateChange, TaskStart
from trajrec.log.schema import EpisodeStart
from trajrec.module_names import module_name
from trajrec.protocols import Verifier, World
from trajrec.tracking.parts import check_watch, find_parts, fixed_paths
from trajrec.types import JsonObject, Value
from trajrec.values import codec

# Bits of the seeds that are drawn: NumPy and most simulators take no more than 32, some signed.
SEED_BITS = 31

# The info of a reset, which a tool world does not return.
_NO_INFO = codec.encode({})


@dataclass(frozen=True, kw_only=True)
class EpisodeSpec:
    """The arguments of `trajrec.episode` that describe the episode itself; see there."""

    task: str
    task_revision: str
    goal: Value
    world: World | None
    watch: Value
    seed: int | None
    options: JsonObject | None
    checks: Sequence[Verifier]
    interface: Value
    metadata: Mapping[str, Value] | None
    deterministic: bool
    is_error: Callable[[Value], str | None]

    def __post_init__(self) -> None:
        for name in ("task", "task_revision"):
            text = getattr(self, name)
            if text is not None and not isinstance(text, str):
                raise TypeError(f"{name} must be a text, got {text!r}")
        if self.seed is not None and not _is_seed(self.seed):
            raise TypeError(f"seed must be a whole number of 64 bits, got {self.seed!r}")


def _is_seed(value: Value) -> bool:
    """Return whether a log can hold a value as a seed."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_whole and -(1 << 63) <= value < 1 << 64


def checked_watch(world: World | None, watch: Value) -> Value:
    """Return what to watch, with paths that stay the same if the working folder changes.

    Raises:
        TypeError: The world lacks a method of `World`, or the value cannot be watched.
    """
    check_watch(watch)
    missing = [name for name in ("reset", "tools", "call") if not hasattr(world, name)]
    if world is not None and missing:
        raise TypeError(
            f"world must have reset, tools and call (trajrec.World), but {type(world).__name__} "
            f"lacks {', '.join(missing)}"
        )
    return fixed_paths(watch)


def begin_episode(
    spec: EpisodeSpec,
    journal: Journal,
    calls: ToolCallRecorder,
    *,
    origin: ForkOrigin | None,
    caller: EpisodeSession | None,
) -> Value:
    """Reset the world, or bring it to the point of a fork, and record how the episode begins.

    Args:
        spec: The episode.
        journal: The journal to record in.
        calls: The recorder of tool calls, which gets the tools and the parts to watch.
        origin: The point at which a fork begins; None for a fresh episode.
        caller: The episode that this one is begun in.

    Returns:
        The goal: the given one, or else the first value of the world's reset.
    """
    time_ns = time.time_ns()
    goal = spec.goal
    calls.frozen_seed = secrets.randbits(SEED_BITS) if spec.deterministic else None
    if origin is None:
        first = _reset(spec, journal, time_ns=time_ns, frozen_seed=calls.frozen_seed)
        goal = first if goal is None else goal
    else:
        replace = msgspec.structs.replace
        journal.add(replace(origin.start, episode=journal.number, time_ns=time_ns))
        journal.add(replace(origin.fork, episode=journal.number))
        origin.prepare(spec.world)
    if spec.world is not None:
        # After the reset, because the tools of a world may depend on its task.
        for tool in spec.world.tools():
            calls.tools.setdefault(tool.name, tool)
    states = calls.states
    states.parts = find_parts(spec.world, spec.watch)
    initial = [(part.name, *part.tracker.begin()) for part in states.parts]
    journal.add(_task_start(spec, journal, calls, goal=goal, caller=caller))
    for name, value, digest in initial:
        states.digests[name] = digest
        journal.add(
            StateChange(
                episode=journal.number,
                step=-1,
                call=0,
                attempt=0,
                part=name,
                digest=digest,
                data=journal.noted(value, "state"),
            )
        )
    return goal


def _task_start(
    spec: EpisodeSpec,
    journal: Journal,
    calls: ToolCallRecorder,
    *,
    goal: Value,
    caller: EpisodeSession | None,
) -> TaskStart:
    world = spec.world
    world_type = type(world)
    # A world with `kwargs` can be made again by a replay.
    kwargs = getattr(world, "kwargs", None)
    metadata = spec.metadata
    tools = [
        [tool.name, tool.schema, tool.access, tool.description] for tool in calls.tools.values()
    ]
    return TaskStart(
        episode=journal.number,
        task=journal.text(spec.task),
        task_revision=journal.text(spec.task_revision),
        goal_data=None if goal is None else journal.noted(goal, "goal"),
        world="" if world is None else f"{module_name(world_type)}:{world_type.__qualname__}",
        world_data=None if kwargs is None else journal.noted(dict(kwargs), "world"),
        tools_data=journal.noted(tools, "tools"),
        parts=[(part.name, part.tracker.name, part.tracker.version) for part in calls.states.parts],
        interface_data=None if spec.interface is None else journal.data(spec.interface),
        metadata_data=None if metadata is None else journal.data(dict(metadata)),
        caller_id=None if caller is None else caller.id,
        caller_step=None if caller is None else caller.last_step,
        held_seed=calls.frozen_seed,
    )


def _reset(spec: EpisodeSpec, journal: Journal, *, time_ns: int, frozen_seed: int | None) -> Value:
    """Record and make the world's reset; return its observation."""
    world = spec.world
    seed = spec.seed
    seed_origin: Literal["caller", "recorder", "none"] = "caller"
    if seed is None and world is not None:
        # Never without a seed: the world of a replay must be the same.
        seed = getattr(world, "seed", None)
        # Of many simulators it is a method.
        if not _is_seed(seed):
            seed = secrets.randbits(SEED_BITS)
            seed_origin = "recorder"
    options, n_secrets = journal.redactor.redacted(spec.options)
    options_data = None if options is None else journal.store(codec.encode(options, opaque=True))
    journal.add(
        EpisodeStart(
            episode=journal.number,
            time_ns=time_ns,
            seed=seed,
            seed_origin="none" if seed is None else seed_origin,
            options_data=options_data,
            rng_data=None,
            info_data=_NO_INFO,
        )
    )
    journal.note("options", -1, n_secrets)
    if world is None:
        return None
    freezing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if frozen_seed is not None:
        freezing = frozen(time_ns, derive_seed(frozen_seed, -1, 0, 0))
    with freezing:
        result = world.reset(seed=seed, options=spec.options)
    # The reset of a Gymnasium environment returns its observation and an info.
    is_pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
    return result[0] if is_pair else result
