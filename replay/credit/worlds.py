"""An agent's world as the ground of rollouts: its tools are called, and its check says at the end whether it was won."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from trajrec import codec
from trajrec.effects import held, seed_of
from trajrec.episodes import Episode
from trajrec.errors import ReplayError, SnapshotError
from trajrec.paths import asked
from trajrec.protocols import Snapshotable, Verifier, World
from trajrec.replay.branches import Level
from trajrec.replay.credit.grounds import Check, Resample, Unreplayable
from trajrec.replay.credit.noise import EnvNoise, Noise
from trajrec.replay.worlds import walk_world
from trajrec.transcript import Transcript
from trajrec.verifiers import as_verdict

Call = tuple[str, dict[str, Any]]
"""A tool and its arguments."""

Told = list[list[Any]]
"""What models, or the outside, said to what: [request, answer, type of error, message, whether it was streamed], the first two
encoded. An empty row where nobody knows."""


class Made(NamedTuple):
    """A call that was made.

    Attributes:
        step: The step that it belongs to.
        tool: The tool.
        arguments: Its arguments.
        result: What it returned; None where it failed.
        error: What it raised, as "type: message"; "" where it did not.
    """

    step: int
    tool: str
    arguments: dict[str, Any]
    result: Any
    error: str


@dataclass(frozen=True)
class Context:
    """What a policy of an agent's world sees: what it was asked, and what it has done.

    Its action is a call, (tool, arguments), or several in a list; None when it is done.

    Attributes:
        goal: What the world's reset returned.
        step: The step that it is at.
        made: The calls that were made, in order.
        history_key: All that a policy can know, hashable: rollouts meet only where it is the same.
        recorded: What else the recording knows of what the agent did.
    """

    goal: Any
    step: int
    made: tuple[Made, ...]
    history_key: bytes = b""
    recorded: Recording | None = field(default=None, repr=False, compare=False)

    def after(self, made: Made) -> Context:
        """Return the context with a call more, in the same step."""
        data = codec.encode([made.step, made.tool, made.arguments, made.result, made.error], opaque=True, canonical=True)
        key = hashlib.blake2b(self.history_key + data).digest()
        return Context(self.goal, self.step, (*self.made, made), key, self.recorded)


class WorldGround:
    """An agent's world.

    Args:
        episode: The agent's episode.
        make: Makes a world.
        noise: What its generators are put to.
        check: Says at the end whether it was won; by default the world's own `task_solved`.
        by_history: Whether the policy goes by all that it has done and seen: rollouts then meet only where that is the same,
            and what state the world is in need not be looked at.
        is_prefix: Whether steps are reached by making all calls again, although the world gives its state.

    Attributes:
        level: "native" where the world gives and takes back its state, else "prefix".
        observation: The context at the step that it was brought to.
    """

    action_space = None

    def __init__(
        self,
        episode: Episode,
        make: Callable[[], World],
        noise: Noise,
        check: Check,
        *,
        by_history: bool,
        is_prefix: bool = False,
    ) -> None:
        self._episode, self._make, self._root = episode, make, noise.root
        self._world = make()
        if isinstance(check, str):
            raise ReplayError(f"an agent's world does not end by {check!r}: give check=, a function", episode_id=episode.id)
        self._check: Verifier = check or _own_check(self._world, episode)
        self._by_history = by_history
        self._has_state = isinstance(self._world, Snapshotable) and not is_prefix
        self.level: Level = "native" if self._has_state else "prefix"
        self._set()
        self._states: dict[int, Any] = {}
        self._recorded = Recording(episode)
        self._start = episode.first_step
        self._universe = 0
        self.observation = self._context = Context(self._recorded.goal, self._start, ())

    def _set(self) -> None:
        self._effects = {tool.name: tool.effect for tool in self._world.tools()}
        self._noise = EnvNoise(self._world, self._root)
        self.n_generators = self._noise.n_generators

    def go(self, step: int) -> None:
        """See `Ground`."""
        self._start = step
        self.observation = self._recorded.context(step)
        self.go_back()
        if self._has_state and _encoded(self._world) != codec.encode(self._states[step], opaque=True, canonical=True):
            raise SnapshotError(f"episode {self._episode.id}: the world does not take back the state that it gives (set_state)")

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

    def at(self, universe: int, step: int) -> None:
        """See `Ground`."""
        self._universe = universe
        self._noise.at(universe, step)

    def key(self) -> Hashable | None:
        """See `Ground`."""
        if self._by_history:
            return ()
        if not self._has_state:
            return self._context.history_key
        return _encoded(self._world)

    def step(self, action: Any) -> tuple[Any, float, bool]:
        """See `Ground`; an action is a call or several, None ends the episode."""
        if action is None:
            return self._context, 0.0, True
        for tool, arguments in calls_of(action):
            self._context = self._context.after(self._call(tool, arguments))
        self._context = replace(self._context, step=self._context.step + 1)
        return self._context, 0.0, False

    def score(self) -> float | None:
        """See `Ground`."""
        verdict = as_verdict(self._check(self._world))
        return verdict.score if verdict.passed is None else float(verdict.passed)

    def close(self) -> None:
        """See `Ground`."""

    def _call(self, tool: str, arguments: dict[str, Any]) -> Made:
        effect, step = self._effects.get(tool), self._context.step
        if effect == "external" or (effect is None and tool in self._recorded.tools):
            known = self._recorded.answer(self._context.made, step, tool, arguments)
            if known is None:
                raise Unreplayable(f"step {step}: {tool} reaches beyond the world, and was not called so when recorded")
            return known
        given = copy.deepcopy(arguments)  # a world may keep or change what it is given; a script is taken many times
        try:
            with self._hold():
                result = self._world.call(tool, given)
                if inspect.isawaitable(result):
                    import asyncio

                    result = asyncio.run(_awaited(result))
        except Exception as exc:
            return Made(step, tool, arguments, None, f"{codec.type_name(exc)}: {exc}")
        return Made(step, tool, arguments, codec.decode(codec.encode(result, opaque=True)), "")

    def _hold(self) -> contextlib.AbstractContextManager[None]:
        seed = self._recorded.held_seed
        if seed is None:
            return contextlib.nullcontext()
        step = self._context.step
        return held(self._recorded.time_ns(step), seed_of(seed, self._root, self._universe, step))


class Recording:
    """What was recorded of an agent, as a policy would see it."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        transcript: Transcript = episode.transcript
        task = transcript.task_start
        self.goal = None if task is None else transcript.value(task.goal_data)
        self.held_seed = None if task is None else task.held_seed
        self.tools = set() if task is None else {row[0] for row in transcript.value(task.tools_data)}
        self._begin = 0 if episode.start is None else episode.start.time_ns
        self.made: list[Made] = []
        self._times: dict[int, int] = {}
        for attempt in transcript.attempts:
            start, end = attempt.start, attempt.end
            if end is None or end.outcome == "cancelled":
                continue
            error = f"{end.error_type}: {end.message}" if end.is_raised else ""
            self.made.append(Made(start.step, start.tool, attempt.arguments, None if error else attempt.result, error))
            self._times.setdefault(start.step, start.time_ns)

    def context(self, step: int) -> Context:
        """Return what the agent knew before a step."""
        found = Context(self.goal, step, (), recorded=self)
        for made in self.made:
            if made.step < step:
                found = found.after(made)
        return found

    def did(self, context: Context, calls: list[Call]) -> bool:
        """Say whether calls at a context are those that were made, after all that was made before them."""
        mine = [made for made in self.made if made.step <= context.step]
        n = len(context.made)
        return list(context.made) == mine[:n] and [(made.tool, made.arguments) for made in mine[n:]] == calls

    def told(self, step: int) -> dict[str, Told]:
        """Return what models and the outside said before a step."""
        return {kind: [row for at, row in rows if at < step] for kind, rows in self._told.items()}

    @property
    def has_told(self) -> bool:
        """Whether they said anything in this episode."""
        return any(self._told.values())

    @functools.cached_property
    def _told(self) -> dict[str, list[tuple[int, list[Any]]]]:
        models, _, effects = asked(self._episode)
        found: dict[str, list[tuple[int, list[Any]]]] = {"model": [], "effect": []}
        for call in models:
            request, end = codec.encode({"messages": call.messages, **call.request}), call.end
            if end is None:
                row = [request, None, "builtins.TimeoutError", "the recorded model call was open when its log ended", False]
            else:
                answer = None if end.answer_data is None else codec.encode(call.answer)
                row = [request, answer, end.error_type, end.message, end.is_streamed]
            found["model"].append((call.start.step, row))
        for event, transcript in effects:
            request = codec.encode({"name": event.name, "arguments": transcript.value(event.arguments_data)})
            answer = None if event.value_data is None else codec.encode(transcript.value(event.value_data))
            found["effect"].append((event.step, [request, answer, event.error_type, event.message, False]))
        return found

    def time_ns(self, step: int) -> int:
        """Return when a step began; beyond the last, when that did."""
        return next((self._times[k] for k in range(step, -1, -1) if k in self._times), self._begin)

    def answer(self, before: Sequence[Made], step: int, tool: str, arguments: dict[str, Any]) -> Made | None:
        """Return what came of a call, if all before it was as recorded; None where it was never made so."""
        n = len(before)
        if n >= len(self.made) or list(before) != self.made[:n]:
            return None
        made = self.made[n]
        return made if (made.step, made.tool, made.arguments) == (step, tool, arguments) else None


def recorded_calls(episode: Episode) -> dict[int, Any]:
    """Return what an agent did, by step: its calls as (tool, arguments), every try of them."""
    found: dict[int, Any] = {step: [] for step in range(episode.first_step, episode.n_steps)}
    for made in Recording(episode).made:
        found[made.step].append((made.tool, made.arguments))
    return found


def calls_of(action: Any) -> list[Call]:
    """Return an action as a list of calls.

    Raises:
        TypeError: It is none.
    """
    calls = [action] if isinstance(action, tuple) and len(action) == 2 and isinstance(action[0], str) else list(action)
    for call in calls:
        if not (isinstance(call, (tuple, list)) and len(call) == 2 and isinstance(call[0], str) and isinstance(call[1], dict)):
            raise TypeError(f"an action in a world is (tool, arguments), a list of such, or None, got {action!r}")
    return [(tool, arguments) for tool, arguments in calls]


def _encoded(world: Any) -> bytes:
    return codec.encode(world.get_state(), opaque=True, canonical=True)


def _own_check(world: Any, episode: Episode) -> Verifier:
    if not callable(getattr(world, "task_solved", None)):
        raise ReplayError("nothing says whether a rollout was won: give check=, a function of the world", episode_id=episode.id)
    return lambda there: there.task_solved()


async def _awaited(result: Any) -> Any:
    return await result
