"""`trajrec.record`: one line around whatever environment there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, overload

import gymnasium
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from trajrec.envstate.pettingzoo import api_of, as_gymnasium
from trajrec.protocols import MultiAgentEnv
from trajrec.recording.recorder import Recorder

A = TypeVar("A", bound=MultiAgentEnv)
V = TypeVar("V", bound=VectorEnv[Any, Any, Any])


@overload
def record(
    env: gymnasium.Env[Any, Any], folder: str | Path, *, audit: float | None = None, **options: Any
) -> Recorder: ...


@overload
def record(env: V, folder: str | Path, *, audit: float | None = None, **options: Any) -> V: ...


@overload
def record(env: A, folder: str | Path, *, audit: float | None = None, **options: Any) -> A: ...


def record(env: Any, folder: str | Path, *, audit: float | None = None, **options: Any) -> Any:
    """Record every episode of an environment; nothing else in the loop changes.

    Args:
        env: A Gymnasium environment, which is wrapped. Or a PettingZoo environment, AEC or parallel (`trajrec[pettingzoo]`),
            which is wrapped in a wrapper of PettingZoo's; see
            `trajrec.envstate.pettingzoo` for what is recorded. Or a SyncVectorEnv,
            whose environments are each wrapped in their places, so that each has a log of its own and any way of resetting is
            recorded as it happens. An AsyncVectorEnv runs its environments in processes that nothing can be put into later:
            let it make them recorded,
            `gym.make_vec(id, 8, vectorization_mode="async", wrappers=[lambda env: trajrec.record(env, "runs/")])`.
        folder: The corpus: a folder, made if it is missing.
        audit: A share of the episodes, in (0, 1], that another process replays meanwhile: what does not hold is a warning and a
            check of the episode. `allow` names module prefixes that it may import.
        options: See `trajrec.Recorder`.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(env, VectorEnv):
        return _record_vector(
            env, folder, options if audit is None else {**options, "audit": audit}
        )
    api = api_of(env)
    if api is not None:
        from trajrec.recording.pettingzoo import (
            AECRecorder,
            ParallelRecorder,
        )  # which import PettingZoo

        recorder = _record_one(as_gymnasium(env), folder, audit, options)
        return AECRecorder(recorder) if api == "aec" else ParallelRecorder(recorder)
    return _record_one(env, folder, audit, options)


def _record_one(
    env: Any, folder: str | Path, audit: float | None, options: dict[str, Any]
) -> Recorder:
    if audit is None:
        return Recorder(env, folder, **options)
    from trajrec.replay.audit import AuditedRecorder

    return AuditedRecorder(env, folder, audit=audit, **options)


def _record_vector(env: Any, folder: str | Path, options: dict[str, Any]) -> Any:
    bare = env.unwrapped
    if isinstance(bare, AsyncVectorEnv):
        raise TypeError(
            "the environments of an AsyncVectorEnv run in other processes: let it make them recorded, gym.make_vec(id, n, "
            'vectorization_mode="async", wrappers=[lambda env: trajrec.record(env, folder)])'
        )
    if not isinstance(bare, SyncVectorEnv):
        raise TypeError(
            f"{type(bare).__name__} does not have its environments one by one: it cannot be recorded; make it with "
            'vectorization_mode="sync" or "async"'
        )
    if "log_id" in options:
        raise ValueError("log_id names one log, and each of the environments has its own")
    bare.envs = [record(inner, folder, **options) for inner in bare.envs]
    return env
