"""An agent's world as the ground of rollouts: its tools are called, and its check says at the end whether it was won."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from trajrec.agents.freeze import derive_seed, frozen
from trajrec.corpus.episode import Episode
from trajrec.errors import ReplayError, SnapshotError
from trajrec.protocols import RestorableState, Verifier, World
from trajrec.replay.agents.world_replay import reaches_beyond, walk_world
from trajrec.replay.credit.sampling.context import Context, Recording, ToolCall, calls_of
from trajrec.replay.credit.sampling.noise import EnvNoise, Noise
from trajrec.replay.credit.sampling.simulator import Resample, Success, UnreplayableError
from trajrec.replay.forks.options import RestoreMethod
from trajrec.values import codec
from trajrec.values.recorded import resolve
from trajrec.verifiers import as_verdict


class WorldSimulator:
    """An agent's world.

    Args:
        episode: The agent's episode.
        make: Makes a world.
        noise: What its generators are put to.
        success: Says at the end whether it was won; by default the world's own `task_solved`.
        by_history: Whether the policy goes by all that it has done and seen: rollouts then meet only where that is the same,
            and what state the world is in need not be looked at.
        is_prefix: Whether steps are reached by making all calls again, although the world gives its state.

    Attributes:
        restore_method: "snapshot" where the world gives and takes back its state, else "reexecute".
        observation: The context at the step that it was brought to.
    """

    action_space = None

    def __init__(
        self,
        episode: Episode,
        make: Callable[[], World],
        noise: Noise,
        success: Success,
        *,
        by_history: bool,
        is_prefix: bool = False,
    ) -> None:
        self._episode, self._make, self._seed = episode, make, noise.seed
        self._world = make()
        if isinstance(success, str):
            raise ReplayError(
                f"an agent's world does not end by {success!r}: give success=, a function",
                episode_id=episode.id,
            )
        self._success: Verifier = success or _own_check(self._world, episode)
        self._by_history = by_history
        self._has_state = isinstance(self._world, RestorableState) and not is_prefix
        self.restore_method: RestoreMethod = "snapshot" if self._has_state else "reexecute"
        self._set()
        self._states: dict[int, Any] = {}
        self._recorded = Recording(episode)
        self._start = episode.first_step
        self._scenario = 0
        self.observation = self._context = Context(self._recorded.goal, self._start, ())

    def _set(self) -> None:
        self._effects = {tool.name: tool.access for tool in self._world.tools()}
        self._noise = EnvNoise(self._world, self._seed)
        self.n_generators = self._noise.n_generators

    def go(self, step: int) -> None:
        """See `Ground`."""
        self._start = step
        self.observation = self._recorded.context(step)
        self.go_back()
        if self._has_state and _encoded(self._world) != codec.encode(
            self._states[step], opaque=True, canonical=True
        ):
            raise SnapshotError(
                f"episode {self._episode.id}: the world does not take back the state that it gives (set_state)"
            )

    def go_back(self) -> None:
        """See `Ground`."""
        self._context = self.observation
        if self._has_state and self._start in self._states:
            self._put_state()
            return
        if self._has_state:
            for step in walk_world(self._episode, self._world):
                self._states[step] = copy.deepcopy(self._world.get_state())  # type: ignore[attr-defined]
            self._set()
            self._put_state()
            return
        self._world = self._make()
        for step in walk_world(self._episode, self._world):
            if step == self._start:
                break
        self._set()

    def _put_state(self) -> None:
        # A copy, there and here: what a world hands out or takes in may be what it goes on with.
        self._world.set_state(copy.deepcopy(self._states[self._start]))  # type: ignore[attr-defined]

    def resample(self, how: Resample, rng: np.random.Generator) -> None:
        """See `Ground`."""
        how(self._world, rng)

    def at(self, scenario: int, step: int) -> None:
        """See `Ground`."""
        self._scenario = scenario
        self._noise.at(scenario, step)

    def key(self) -> Hashable | None:
        """See `Ground`."""
        if self._by_history:
            return ()
        if not self._has_state:
            return self._context.history_key
        return _encoded(self._world)

    def step(self, action: Any) -> tuple[Any, float, bool]:
        """See `Ground`; an action is a call or several, None ends the episode.

        An action with a method `more` is found out as it is taken: it says what follows, given what came of the calls before;
        its `outside` has the names of tools that are functions of the agent's own.
        """
        if action is None:
            return self._context, 0.0, True
        outside = getattr(action, "outside", ())
        calls, more = calls_of(action), getattr(action, "more", None)
        while True:
            for tool, arguments in calls:
                self._context = self._context.after(self._call(tool, arguments, tool in outside))
            calls = [] if more is None else more(self._context)
            if not calls:
                break
        self._context = replace(self._context, step=self._context.step + 1)
        return self._context, 0.0, False

    def score(self) -> float | None:
        """See `Ground`."""
        verdict = as_verdict(self._success(self._world))
        return verdict.score if verdict.passed is None else float(verdict.passed)

    def close(self) -> None:
        """See `Ground`."""

    def _call(self, tool: str, arguments: dict[str, Any], is_outside: bool) -> ToolCall:
        step, is_known = self._context.step, tool in self._effects or tool in self._recorded.tools
        # A name that nobody knows is an error of the agent's, which the world tells it.
        if is_outside or (
            is_known and reaches_beyond(tool, self._effects.get(tool, ""), self._effects)
        ):
            known = self._recorded.answer(self._context.made, tool, arguments)
            if known is None:
                raise UnreplayableError(
                    f"step {step}: {tool} reaches beyond the world, and was not called so when recorded"
                )
            return known._replace(step=step)
        given = copy.deepcopy(
            arguments
        )  # a world may keep or change what it is given; a script is taken many times
        is_async = False
        try:
            with self._hold():
                result = self._world.call(tool, given)
                is_async = inspect.isawaitable(result)
                if is_async:
                    import asyncio

                    result = asyncio.run(resolve(result))
        except Exception as exc:
            return ToolCall(step, tool, arguments, None, f"{codec.type_name(exc)}: {exc}", is_async)
        return ToolCall(
            step, tool, arguments, codec.decode(codec.encode(result, opaque=True)), "", is_async
        )

    def _hold(self) -> contextlib.AbstractContextManager[None]:
        seed = self._recorded.held_seed
        if seed is None:
            return contextlib.nullcontext()
        step = self._context.step
        call = sum(made.step == step for made in self._context.made)
        return frozen(
            self._recorded.time_ns(step), derive_seed(seed, self._seed, self._scenario, step, call)
        )


def _encoded(world: Any) -> bytes:
    return codec.encode(world.get_state(), opaque=True, canonical=True)


def _own_check(world: Any, episode: Episode) -> Verifier:
    if not callable(getattr(world, "task_solved", None)):
        raise ReplayError(
            "nothing says whether a rollout was won: give success=, a function of the world",
            episode_id=episode.id,
        )
    return lambda there: there.task_solved()
