"""The simulator of tool worlds: it executes tool calls, and asks at the end for success."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from trajrec.agents.freeze import derive_seed, frozen
from trajrec.corpus.episode import Episode
from trajrec.envstate.outer_state import OuterState, ProcessGenerators
from trajrec.errors import ReplayError, SnapshotError, UnreplayableError
from trajrec.protocols import RestorableState, Verifier, World
from trajrec.recording.error_text import message_of
from trajrec.replay.agents.world_changes import is_outside_world
from trajrec.replay.agents.world_replay import check_proved, continue_world, walk_world
from trajrec.replay.credit.sampling.context import Context, Recording, ToolCall, as_calls
from trajrec.replay.credit.sampling.noise import EnvNoise, Noise
from trajrec.replay.credit.sampling.simulator import Resample, Success
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.replay.forks.control import CLOSING, Control, last_step_of
from trajrec.replay.forks.options import RestoreMethod
from trajrec.types import Action, JsonObject, Value
from trajrec.values import codec
from trajrec.values.recorded import resolve
from trajrec.verifiers import run_check


class WorldSimulator:
    """Runs rollouts of a tool world.

    Args:
        episode: The agent's episode.
        make_world: Makes the world.
        noise: The randomness of the rollouts.
        success: See `RolloutOptions`; by default the world's own `task_solved`.
        by_history: Whether the policy depends on all calls and results so far. Rollouts are then
            merged only if these are equal, and the state of the world need not be compared.
        reexecutes: Whether steps are reached by executing all calls again, although the world
            returns its state.
        tolerance: The differences from the recording that are ignored on the way to a step.

    Attributes:
        restore_method: "snapshot" if the world returns and accepts its state, else "reexecute".
        observation: The context at the step that the world was brought to.
        n_generators: The generators whose noise a scenario fixes.

    Raises:
        ReplayError: There is no success function.
    """

    action_space = None

    def __init__(
        self,
        episode: Episode,
        make_world: Callable[[], World],
        *,
        noise: Noise,
        success: Success,
        by_history: bool,
        reexecutes: bool = False,
        tolerance: Tolerance | None = None,
    ) -> None:
        if isinstance(success, str):
            raise ReplayError(
                f"success must be a function for a tool world, which never reports {success!r}",
                episode_id=episode.id,
            )
        self._episode = episode
        self._make_world = make_world
        self._tolerance = tolerance
        self._seed = noise.seed
        self._world = make_world()
        self._success: Verifier = success or _own_success(self._world, episode)
        self._by_history = by_history
        # A world that is restored is never replaced, so this stays the same object.
        self._restorable: RestorableState | None = None
        self.restore_method: RestoreMethod = "reexecute"
        if isinstance(self._world, RestorableState) and not reexecutes:
            self._restorable = self._world
            self.restore_method = "snapshot"
        self._inspect_world()
        self._states: dict[int, Value] = {}
        self._outer: dict[int, OuterState] = {}
        self._process_generators = ProcessGenerators()
        self._recording = Recording(episode)
        self._start = episode.first_step
        self._scenario = 0
        self.observation = Context(self._recording.goal, self._start, ())
        self._context = self.observation

    # After each reset: it may add tools and make new generators.
    def _inspect_world(self) -> None:
        self._access = {tool.name: tool.access for tool in self._world.tools()}
        self._noise = EnvNoise(self._world, self._seed)
        self.n_generators = self._noise.n_generators

    def goto(self, step: int) -> None:
        """Bring the world into its state before a step.

        Raises:
            DivergenceError: A recorded call gives another result.
            SnapshotError: The world does not accept the state that it returned.
            ReplayError: The recorded state is unknown.
        """
        attempts = self._episode.transcript.recorded_attempts
        check_proved(self._episode, [a for a in attempts if a.start.step < step])
        self._start = step
        self.observation = self._recording.context(step)
        self.rewind()
        if self._restorable is None:
            return
        expected = codec.encode(self._states[step], opaque=True, canonical=True)
        if _encoded_state(self._restorable) != expected:
            raise SnapshotError(
                f"episode {self._episode.id}: the world's set_state does not restore the state "
                "that its get_state returned"
            )

    def rewind(self) -> None:
        """Bring the world back to the step, after a rollout."""
        self._context = self.observation
        if self._restorable is not None:
            if self._start not in self._states:
                self._collect_states(self._restorable)
            # A copy, here and where states are collected: the world may continue to use the object
            # that it returned or was given.
            self._restorable.set_state(copy.deepcopy(self._states[self._start]))
            return
        self._world = self._make_world()
        for step in walk_world(self._episode, self._world, self._tolerance):
            if step == self._start:
                break
        self._inspect_world()

    def _collect_states(self, restorable: RestorableState) -> None:
        """Execute all recorded calls once; keep the state before each step."""
        for step in walk_world(self._episode, self._world, self._tolerance):
            self._states[step] = copy.deepcopy(restorable.get_state())
            self._outer[step] = OuterState.of_env(self._world)
        self._inspect_world()

    def control(self, n_steps: int) -> Control:
        """Make the recorded calls from the step on; see `Simulator.control`."""
        after_rollouts = self._outer_state()
        self.rewind()
        at_start = self._outer_state()
        leak = ""
        if self._start in self._outer:
            leak = self._outer[self._start].changed(OuterState.of_env(self._world))
        last = last_step_of(self._episode, self._start, n_steps)
        error = continue_world(self._episode, self._world, self._start, last, self._tolerance)
        n_reproduced = last - self._start if error is None else error.step - self._start
        changed = at_start.changed(self._outer_state()) or after_rollouts.changed(at_start)
        self.rewind()
        return Control(
            self._start,
            CLOSING,
            self.restore_method,
            max(0, n_reproduced),
            error,
            leak=leak,
            changed=changed,
        )

    def _outer_state(self) -> OuterState:
        # A scenario sets the generators, so their changes do not matter.
        return OuterState.of_env(self._world, self._noise.ids())

    def resample(self, resample_hidden: Resample, rng: np.random.Generator) -> None:
        """Draw again the facts that the agent has not seen."""
        resample_hidden(self._world, rng)

    def seed(self, scenario: int, step: int) -> None:
        """Set the world's generators to a step of a scenario."""
        self._scenario = scenario
        self._noise.seed(scenario, step)

    def state_key(self) -> Hashable | None:
        """Return a hashable key of the world's state, or of the calls so far."""
        if self._by_history:
            return ()  # the policy's own key already holds the calls
        if self._restorable is None:
            return self._context.history_key
        return _encoded_state(self._restorable)

    def step(self, action: Action) -> tuple[Context, float, bool]:
        """Take a step: execute a call or a list of calls; None ends the episode.

        An agent's own loop decides each call of a step from the results before it. Its action has
        a method `more(context)` that returns the next calls, and `outside`, the names of tools that
        are functions of the agent itself.

        Raises:
            UnreplayableError: A tool reaches beyond the world and was not called so in the
                recording.
        """
        if action is None:
            return self._context, 0.0, True
        outside = getattr(action, "outside", ())
        more = getattr(action, "more", None)
        calls = as_calls(action)
        while True:
            for tool, arguments in calls:
                call = self._call(tool, arguments, is_outside=tool in outside)
                self._context = self._context.after(call)
            calls = [] if more is None else more(self._context)
            if not calls:
                break
        self._context = replace(self._context, step=self._context.step + 1)
        return self._context, 0.0, False

    def noise_seen(self) -> None:
        """Return None: a world's noise is not watched."""

    def score(self) -> float | None:
        """Return the result of the success function: 1 passed, 0 failed, or its score."""
        # An error is raised: a rollout without a verdict must not count as lost.
        return run_check(self._success, self._world).raise_if_error().value

    def close(self) -> None:
        """Put back the generators of the process; a world holds no resources."""
        self._process_generators.put_back(self._noise.ids())

    def _call(self, tool: str, arguments: JsonObject, *, is_outside: bool) -> ToolCall:
        step = self._context.step
        # A name that neither the world nor the recording has is an error of the agent, which the
        # world itself reports to it.
        is_known = tool in self._access or tool in self._recording.tools
        is_external = is_known and is_outside_world(tool, self._access.get(tool, ""), self._access)
        if is_outside or is_external:
            recorded = self._recording.recorded_call(self._context.calls, (tool, arguments))
            if recorded is None:
                raise UnreplayableError(
                    f"step {step}: {tool} reaches beyond the world, and the recording has no such "
                    "call at this place",
                    episode_id=self._episode.id,
                )
            return recorded._replace(step=step)
        # A copy: the world may keep or change its arguments, and forced actions are used again.
        given = copy.deepcopy(arguments)
        is_async = False
        try:
            with self._frozen():
                result = self._world.call(tool, given)
                is_async = inspect.isawaitable(result)
                if is_async:
                    result = resolve(result)
        except Exception as exc:
            return ToolCall(
                step,
                tool,
                arguments,
                result=None,
                error=f"{codec.type_name(exc)}: {message_of(exc)}",
                is_async=is_async,
            )
        return ToolCall(
            step,
            tool,
            arguments,
            # Through the codec, so that the result is as a log gives it back.
            result=codec.decode(codec.encode(result, opaque=True)),
            error="",
            is_async=is_async,
        )

    def _frozen(self) -> contextlib.AbstractContextManager[None]:
        """Freeze the clock and entropy during a call, if they were frozen in the recording."""
        held_seed = self._recording.held_seed
        if held_seed is None:
            return contextlib.nullcontext()
        step = self._context.step
        number = sum(call.step == step for call in self._context.calls)
        position = (self._seed, self._scenario, step, number)
        return frozen(self._recording.time_ns(step), derive_seed(held_seed, *position))


def _encoded_state(world: RestorableState) -> bytes:
    return codec.encode(world.get_state(), opaque=True, canonical=True)


def _own_success(world: World, episode: Episode) -> Verifier:
    if not callable(getattr(world, "task_solved", None)):
        raise ReplayError(
            "the world has no task_solved, so nothing says whether a rollout succeeded: give "
            "success=, a function of the world",
            episode_id=episode.id,
        )
    return lambda finished: finished.task_solved()
