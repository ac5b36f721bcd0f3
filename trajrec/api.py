"""`trajrec.record`: record any environment with one line."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack, overload

from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper

from trajrec.envstate.pettingzoo import api_of, as_gymnasium, layers
from trajrec.protocols import MultiAgentEnv
from trajrec.recording.options import RecordOptions
from trajrec.recording.recordable import check_recordable
from trajrec.recording.recorder import Recorder
from trajrec.types import AnyEnv

# Wrappers around a vector that leave actions, observations, rewards and flags as they are.
_PASSIVE_WRAPPERS = ("RecordEpisodeStatistics", "RecordVideo", "HumanRendering", "DictInfoToList")

A = TypeVar("A", bound=MultiAgentEnv)
V = TypeVar("V", bound=VectorEnv[Any, Any, Any])


@overload
def record(
    env: AnyEnv,
    folder: str | Path,
    *,
    audit: float | None = None,
    allow: Sequence[str] = (),
    **options: Unpack[RecordOptions],
) -> Recorder: ...


@overload
def record(
    env: V,
    folder: str | Path,
    *,
    audit: float | None = None,
    allow: Sequence[str] = (),
    **options: Unpack[RecordOptions],
) -> V: ...


@overload
def record(
    env: A,
    folder: str | Path,
    *,
    audit: float | None = None,
    allow: Sequence[str] = (),
    **options: Unpack[RecordOptions],
) -> A: ...


def record(
    env: Any,
    folder: str | Path,
    *,
    audit: float | None = None,
    allow: Sequence[str] = (),
    **options: Unpack[RecordOptions],
) -> Any:
    """Record every episode of an environment.

    The rest of the loop stays as it is: use the returned environment in place of `env`.

    Args:
        env: The environment, of one of these kinds:

            - A Gymnasium environment. A `Recorder`, which is a `gymnasium.Wrapper`, is returned.
            - A PettingZoo environment, AEC or parallel (`trajrec[pettingzoo]`). A PettingZoo
              wrapper is returned; `trajrec.envstate.pettingzoo` says how its steps are recorded.
            - A `SyncVectorEnv`. Each of its environments is wrapped in place and has a log of its
              own, and `env` itself is returned. Wrappers around the vector are not recorded.

            An `AsyncVectorEnv` cannot be recorded from outside, because its environments live in
            other processes. Let it make recorded ones:
            `gym.make_vec(id, 8, vectorization_mode="async",
            wrappers=[lambda env: trajrec.record(env, "runs/")])`.
        folder: The corpus: a folder, made if it is missing.
        audit: The share of episodes, in (0, 1], that a background process replays meanwhile. An
            episode that does not reproduce is reported by a warning, and each result is stored as a
            check of the episode. None replays none.
        allow: Module prefixes that the audit may import if a log names them.
        options: Which states are kept, checks, interface and durability; see `RecordOptions`.

    Returns:
        The recorded environment. Close it: `close` seals the log.

    Raises:
        TypeError: `env` is of no such kind, or has Gymnasium's wrapper `Autoreset`, which belongs
            outside of the recorder: `Autoreset(trajrec.record(env, "runs/"))`.
        ValueError: An option has a value that it cannot have, or `env` is already recorded into
            that folder.
        LogWriteError: The log cannot be created.
    """
    if audit is None and allow:
        raise ValueError(
            f"allow={allow!r} has an effect on audited episodes only: give audit= too, or leave it "
            "out"
        )
    if isinstance(env, VectorEnv):
        return _record_vector(env, folder, audit, allow, options)
    api = api_of(env)
    if api is None:
        return _record_one(env, folder, audit, allow, options)
    # Imports PettingZoo, which is installed if there is such an environment.
    from trajrec.recording.pettingzoo import AECRecorder, ParallelRecorder

    recorder = _record_one(as_gymnasium(env), folder, audit, allow, options)
    return AECRecorder(recorder) if api == "aec" else ParallelRecorder(recorder)


def _record_one(
    env: AnyEnv,
    folder: str | Path,
    audit: float | None,
    allow: Sequence[str],
    options: RecordOptions,
) -> Recorder:
    _check_unrecorded(env, folder)
    if audit is None:
        return Recorder(env, folder, **options)
    # Late: only an audited run needs the replay engine.
    from trajrec.replay.audit import AuditedRecorder

    return AuditedRecorder(env, folder, audit=audit, allow=allow, **options)


def _check_unrecorded(env: AnyEnv, folder: str | Path) -> None:
    """Refuse to record an environment twice into one corpus, where each episode would count twice.

    Raises:
        ValueError: A recorder inside of it records into that folder.
    """
    for layer in layers(env):
        # A recorded environment of PettingZoo holds its recorder.
        recorder = layer if isinstance(layer, Recorder) else getattr(layer, "recorder", None)
        if (
            isinstance(recorder, Recorder)
            and recorder.path.parent.resolve() == Path(folder).resolve()
        ):
            raise ValueError(
                f"env is already recorded into {folder}, and each of its episodes would count twice; "
                "record it once, or into another folder"
            )


def _record_vector(
    env: VectorEnv[Any, Any, Any],
    folder: str | Path,
    audit: float | None,
    allow: Sequence[str],
    options: RecordOptions,
) -> VectorEnv[Any, Any, Any]:
    bare = env.unwrapped
    if isinstance(bare, AsyncVectorEnv):
        raise TypeError(
            "env must not be an AsyncVectorEnv: its environments run in other processes; let it "
            'make recorded ones, gym.make_vec(id, n, vectorization_mode="async", '
            "wrappers=[lambda env: trajrec.record(env, folder)])"
        )
    if not isinstance(bare, SyncVectorEnv):
        raise TypeError(
            f"env must be a SyncVectorEnv to be recorded, got {type(bare).__name__}, which does "
            "not hold its environments one by one; make it with "
            'vectorization_mode="sync" or "async"'
        )
    for inner in bare.envs:
        # Before the first log is opened.
        check_recordable(inner)
        _check_unrecorded(inner, folder)
    bare.envs = [_record_one(inner, folder, audit, allow, options) for inner in bare.envs]
    _warn_of_wrappers(env)
    return env


def _warn_of_wrappers(env: VectorEnv[Any, Any, Any]) -> None:
    """Warn of wrappers around a vector through which a loop gets other values than the log has."""
    names = []
    while isinstance(env, VectorWrapper):
        if type(env).__name__ not in _PASSIVE_WRAPPERS:
            names.append(type(env).__name__)
        env = env.env
    if names:
        warnings.warn(
            "each environment of the vector is recorded as it returns its steps, before "
            f"{' and '.join(names)}, which is around the vector; to record the values of the loop, "
            "wrap each environment, gym.make_vec(id, n, wrappers=[...])",
            stacklevel=4,
        )
