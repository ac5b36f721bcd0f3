"""A live environment that an episode is replayed on, with the adapters of its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.envstate.adapters import find_adapter, function_adapter
from trajrec.envstate.pettingzoo import as_gymnasium
from trajrec.log.source_facts import unknown_of
from trajrec.protocols import StateAdapter
from trajrec.replay.execute.tolerance import EXACT, Tolerance
from trajrec.types import AnyEnv, Value


class EnvHandle(NamedTuple):
    """A live environment that an episode is replayed on.

    Attributes:
        env: The environment with its wrappers; of PettingZoo's, the joint view.
        adapter: Captures the state as the recording did; None if states cannot be compared.
        native: Captures and restores the state of the environment's generators, if it has any that
            trajrec knows.
        allow: Prefixes of the modules that may get any reset options that a log holds.
        tolerance: The differences from the recording that are ignored on the way to a step.
    """

    env: AnyEnv
    adapter: StateAdapter | None
    native: StateAdapter | None
    allow: tuple[str, ...] = ()
    tolerance: Tolerance = EXACT


def env_handle(
    env: Any,
    episode: Episode,
    state: Callable[[AnyEnv], Value] | None = None,
    allow: tuple[str, ...] = (),
    tolerance: Tolerance = EXACT,
) -> EnvHandle:
    """Return the handle of an environment for an episode.

    Args:
        env: The environment, Gymnasium's or PettingZoo's.
        episode: The episode.
        state: The function that computed the recorded states, if the recorder was given one.
        allow: Prefixes of the modules that may get any reset options that a log holds.
        tolerance: The differences that are ignored on the way to a step; by default those alone
            that the source of an imported episode does not tell.
    """
    tolerance = tolerance.for_source(unknown_of(episode.header.env.extra_data))
    env = as_gymnasium(env)
    record = episode.header.state
    native = find_adapter(env)
    adapter = native if state is None else function_adapter(env, state)
    if record.keep == "none" or adapter is None:
        return EnvHandle(env, None, native, allow, tolerance)
    if state is None and (adapter.name, adapter.version) != (record.adapter, record.version):
        return EnvHandle(env, None, native, allow, tolerance)
    return EnvHandle(env, adapter, native, allow, tolerance)
