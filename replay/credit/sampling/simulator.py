"""Grounds: what rollouts run on. An environment, or an agent's world, that is brought to a step of an episode, goes on from
there under the noise of a scenario, and is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, Protocol

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between
from trajrec.envstate.attributes import (
    CONSTRUCTION_ATTRIBUTES,
    constants_digest,
    layers_with_attributes,
)
from trajrec.errors import ReplayError
from trajrec.protocols import SandboxedEnv, Verifier
from trajrec.replay.credit.sampling.noise import EnvNoise, Noise
from trajrec.replay.execute.reach import EnvHandle, check_step
from trajrec.replay.forks.options import RestoreChoice, RestoreMethod
from trajrec.replay.forks.walker import Walker
from trajrec.values import codec
from trajrec.verifiers import as_verdict

_COMPLETE = frozenset(("toy_text", "blackjack", "classic_control", "minigrid", "get_state"))
"""Adapters that see all that an environment of their kind goes on by, but its generators."""

Success = Verifier | Literal["terminated", "truncated"] | None
"""What says at the end whether a rollout was won."""

Resample = Callable[[Any, np.random.Generator], None]
"""Draws anew in an environment, or world, what the agent has not seen."""

_ATOMS = frozenset((int, float, bool, str, bytes, type(None)))
_UNCHANGING = CONSTRUCTION_ATTRIBUTES | {"env"}
"""Attributes of an environment and its wrappers that never change."""


class UnreplayableError(Exception):
    """A branch came to what cannot be done again: it is counted, and never taken for a failure."""


class Simulator(Protocol):
    """What rollouts run on.

    Attributes:
        restore_method: How it is put back.
        observation: What the policy sees at the step that it was brought to.
        n_generators: Generators that can be put to a scenario.
    """

    restore_method: RestoreMethod
    observation: Any
    n_generators: int

    def go(self, step: int, /) -> None:
        """Bring it to the recorded state before a step, verified.

        Raises:
            DivergenceError: It does not come there.
        """
        ...

    def go_back(self) -> None:
        """Bring it back there."""
        ...

    def resample(self, how: Resample, rng: np.random.Generator, /) -> None:
        """Draw anew what the agent has not seen."""
        ...

    def at(self, scenario: int, step: int, /) -> None:
        """Put its noise to a step of a scenario."""
        ...

    def key(self) -> Hashable | None:
        """Return all that what follows depends on, but noise, step and policy; None where that is not known."""
        ...

    def step(self, action: Any, /) -> tuple[Any, float, bool]:
        """Return observation, reward and whether the episode is over.

        Raises:
            Unreplayable: What is to be done cannot be done again.
        """
        ...

    def score(self) -> float | None:
        """Return what the check says of where it is: 1 passed, 0 not; None where it does not say."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class OneShotSimulator:
    """An environment that stands at a step, and is not put back: for one rollout, in a process of its own.

    Args:
        episode: The episode.
        stage: The environment.
        noise: What its generators are put to.
        success: Says at the end whether it was won.
        recorded: States of the generators before each recorded step, for recorded noise.
        observation: The last observation before the step.
        restore: How the step was reached.

    Attributes:
        action_space: What a random policy draws from.
    """

    def __init__(
        self,
        episode: Episode,
        stage: EnvHandle,
        noise: Noise,
        success: Success,
        recorded: RecordedNoise,
        observation: Any = None,
        restore: RestoreMethod = "reexecute",
    ) -> None:
        self._episode, self._seed, self._success, self._recorded = (
            episode,
            noise.seed,
            success,
            recorded,
        )
        self._flags = {"terminated": False, "truncated": False}
        self.observation, self.restore_method = observation, restore
        self._set(stage)

    def _set(self, stage: EnvHandle) -> None:
        self._stage, self._env, self.action_space = stage, stage.env, stage.env.action_space
        self._noise = EnvNoise(stage.env, self._seed)
        self.n_generators = self._noise.n_generators
        self._key = _StateKey(stage, self._noise.ids())

    def go(self, step: int) -> None:
        """See `Ground`: it is there."""

    def go_back(self) -> None:
        """Refuse.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("this environment cannot be put back")

    def resample(self, how: Resample, rng: np.random.Generator) -> None:
        """See `Ground`."""
        how(self._env, rng)

    def at(self, scenario: int, step: int) -> None:
        """See `Ground`."""
        states = self._recorded.get(step)
        if states is not None:
            self._noise.put(states)
        else:
            self._noise.at(scenario, step)

    def key(self) -> Hashable | None:
        """See `Ground`."""
        return self._key()

    def step(self, action: Any) -> tuple[Any, float, bool]:
        """See `Ground`."""
        observation, reward, terminated, truncated, _ = self._env.step(action)
        self._flags = {"terminated": bool(terminated), "truncated": bool(truncated)}
        # Where each of several agents has a reward of its own, only what the check says counts.
        return (
            observation,
            0.0 if isinstance(reward, dict) else float(reward),
            bool(terminated or truncated),
        )

    def score(self) -> float | None:
        """See `Ground`."""
        if self._success is None:
            return None
        if isinstance(self._success, str):
            return float(self._flags[self._success])
        verdict = as_verdict(self._success(self._env))
        return verdict.score if verdict.passed is None else float(verdict.passed)

    def close(self) -> None:
        """See `Ground`."""
        self._env.close()


class EnvSimulator(OneShotSimulator):
    """An environment that is put back as often as is asked.

    Args:
        episode: The episode.
        make: Makes a stage.
        restore: How it is put back.
        noise: What its generators are put to.
        success: Says at the end whether it was won.
        recorded: See `StandingGround`.
    """

    def __init__(
        self,
        episode: Episode,
        make: Callable[[], EnvHandle],
        restore: RestoreChoice,
        noise: Noise,
        success: Success,
        recorded: RecordedNoise,
    ) -> None:
        self._walker, self._is_resampled = Walker(episode, make, restore), False
        super().__init__(episode, self._walker.stage, noise, success, recorded)

    def go(self, step: int) -> None:
        """See `Ground`."""
        self._walker.go(step)
        self._moved()

    def go_back(self) -> None:
        """See `Ground`."""
        self._walker.go_back()
        self._moved()

    def resample(self, how: Resample, rng: np.random.Generator) -> None:
        """See `Ground`.

        Raises:
            ReplayError: It changes what is not put back between rollouts.
        """
        before = None if self._is_resampled else constants_digest(self._env)
        super().resample(how, rng)
        if before is not None and constants_digest(self._env) != before:
            raise ReplayError(
                "resample_hidden changes the environment's tables or MuJoCo's model, which are not put back between rollouts "
                "of one process: take restore='os_fork'",
                episode_id=self._episode.id,
            )
        self._is_resampled = True

    def close(self) -> None:
        """See `Ground`."""
        self._walker.close()

    def _moved(self) -> None:
        self.restore_method, self.observation = (
            self._walker.restore_method,
            self._walker.observation,
        )
        # A reset makes generators anew; a snapshot keeps those that are there.
        if (
            self._walker.stage is not self._stage
            or self.restore_method != "snapshot"
            or not self.n_generators
        ):
            self._set(self._walker.stage)


RecordedNoise = dict[int, list[Any]]
"""States of an environment's generators, by step."""


def recorded_noise(episode: Episode, make: Callable[[], EnvHandle]) -> RecordedNoise:
    """Re-execute an episode; return the states that its environment's generators had before each step.

    Raises:
        ReplayError: The log has lost some of the steps.
    """
    check_step(episode, episode.n_steps)
    walker = Walker(episode, make, "reexecute")
    first, last = episode.first_step, episode.n_steps
    found: RecordedNoise = {}
    try:
        walker.walk(first)
        env = walker.stage.env
        noise = EnvNoise(env, 0)
        for step, (action, has_raised) in enumerate(path_between(episode, first, last), first):
            found[step] = noise.states()
            try:
                env.step(action)
            except Exception:
                if not has_raised:
                    raise
    finally:
        walker.close()
    return found


class _StateKey:
    """Returns all that an environment with its wrappers goes on by, hashable; None once something cannot be looked at.

    Args:
        stage: The environment.
        generators: Ids of its generators, which are put to a scenario at each step and so tell nothing.
    """

    def __init__(self, stage: EnvHandle, generators: set[int]) -> None:
        *self._layers, self._bare = layers_with_attributes(stage.env)
        # The layers are looked at one by one, wherever they are held.
        self._without = generators | set(map(id, [*self._layers, self._bare]))
        adapter = stage.native
        self._capture = (
            adapter.capture if adapter is not None and adapter.name in _COMPLETE else None
        )
        # What Python holds of an environment that lies elsewhere says nothing of its state.
        self._is_known = self._capture is not None or not isinstance(self._bare, SandboxedEnv)
        self._is_aside: dict[
            type, bool
        ] = {}  # functions and spaces, by their class: it is looked at at each step

    def __call__(self) -> Hashable | None:
        if not self._is_known:
            return None
        try:
            found = [self._values(layer) for layer in self._layers]
            found.append(self._bare_key())
            return tuple(found)
        except (TypeError, ValueError):
            self._is_known = False
            return None

    def _bare_key(self) -> Hashable:
        if self._capture is None:
            return self._values(self._bare)
        held = self._bare.__dict__
        # A fickle passenger is drawn at the reset, and is no part of Taxi's state number.
        return (
            _hashable(self._capture()),
            held.get("fickle_step"),
            held.get("steps_beyond_terminated"),
        )

    def _values(self, layer: Any) -> Hashable:
        found: list[Any] = []
        for name, value in layer.__dict__.items():
            kind = type(value)
            if kind in _ATOMS:
                found.append(value)
            elif name not in _UNCHANGING and id(value) not in self._without:
                is_aside = self._is_aside.get(kind)
                if is_aside is None:
                    is_aside = callable(value) or (
                        hasattr(value, "sample") and hasattr(value, "contains")
                    )
                    self._is_aside[kind] = is_aside
                if not is_aside:
                    found.append(_hashable(value))
        return tuple(found)


def _hashable(value: Any) -> Hashable:
    """Return a value as something hashable that equals that of another only where the values are the same.

    Raises:
        ValueError: It is of a class that cannot be looked into.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value  # type: ignore[no-any-return]
    if kind is tuple and all(type(item) in _ATOMS for item in value):
        return value  # type: ignore[no-any-return]
    if kind is np.ndarray and value.dtype.kind != "O":
        return value.dtype.str, value.shape, value.tobytes()
    try:
        return codec.encode(value, canonical=True)
    except Exception as exc:
        raise ValueError(str(exc)) from exc
