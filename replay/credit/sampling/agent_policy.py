"""An agent's own loop as a policy: the recorded function, run again against its history so far."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np

from trajrec.agents.context import EpisodeSession, enter_episode, leave_episode
from trajrec.agents.routing import connect_taps
from trajrec.module_names import module_name
from trajrec.replay.credit.sampling.answers import Answers, answers_key, copy_answers, no_answers
from trajrec.replay.credit.sampling.context import Call, Context, as_calls
from trajrec.replay.credit.sampling.playback import PlaybackEpisode
from trajrec.types import Action

Agent = Callable[[EpisodeSession], object]
"""A function of an episode: the loop of an agent."""

_REPLACED = (
    "another call was made instead of the one that it asked for, so the answer given with it is "
    "unknown; trajrec.replay.what_if with changes.Arguments puts the other call into the model's "
    "answer"
)


class AgentPolicy:
    """Acts as an agent's loop does: a function of an episode, as `trajrec.episode` records it.

    To choose an action, the policy runs the function from its beginning. Everything that the loop
    did before gets its earlier answer: calls their results; models and side effects their answers
    in the recording or, beyond the step at which rollouts start, in this rollout. A model is thus
    asked once for each answer that a rollout needs, and never for a recorded answer.

    An action is one step, counted as in a recording: a model call begins a step, and all calls up
    to the next model call belong to it. The function runs once more after each call of the step.
    The steps of rollouts therefore have the numbers of recorded steps.

    The loop must do the same whenever it gets the same answers. It continues only from actions that
    it would have taken itself, so an alternative action that its model did not ask for raises an
    `AgentDivergedError`. If the loop raises, the rollout ends with an error and counts as invalid.

    Args:
        agent: A sync function of an episode, which has `goal`, `call`, `execute`, `tool`, `model`,
            `side_effect`, `step`, `attempts`, `stop` and `check`. The clients of `trajrec.openai`
            and `trajrec.mcp` find the episode by themselves.
        id: The name in the corpus; by default the name of the function.
        is_seeded: Whether the models give the same answer each time. If not, the noise is fresh and
            labelled so. None: True exactly if the recorded agent asked no model and nothing
            outside. A model that only seems to be seeded may be noticed by its answers.

    Raises:
        TypeError: The agent is an async function.
    """

    def __init__(self, agent: Agent, id: str = "", *, is_seeded: bool | None = None) -> None:
        if inspect.iscoroutinefunction(agent):
            raise TypeError(
                f"agent must be a sync function, got the async function {agent!r}: "
                "give a function that runs it"
            )
        name = getattr(agent, "__qualname__", type(agent).__qualname__)
        self.id = id or f"{module_name(agent)}:{name}"
        self.is_seeded = is_seeded
        self._agent = agent
        # None while the answers are those of the recording.
        self._answers: Answers | None = None

    def reset(self) -> None:
        """Return to the answers of the recording."""
        self._answers = None

    def snapshot(self) -> Answers | None:
        """Return the answers so far; None if they are those of the recording."""
        return None if self._answers is None else copy_answers(self._answers)

    def restore(self, answers: Answers | None) -> None:
        """Return to answers that `snapshot` returned."""
        self._answers = None if answers is None else copy_answers(answers)

    def memory_key(self, context: Context) -> bytes:
        """Return a digest of the answers up to a context."""
        return answers_key(self._answers_at(context))

    def observe(self, context: Context, action: Action) -> None:
        """Note a step that this policy did not choose.

        The answers given with it are known if it is the recorded step, or a step of another agent.
        """
        if isinstance(action, AgentStep):
            self._answers = action.hand_over()
            return
        if action is None:
            return  # the episode is over: nothing more is asked
        answers = self._answers_at(context)
        recording = context.recording
        if recording is not None:
            recorded_answers = recording.answers_before(context.step)
            has_recorded_answers = answers_key(answers) == answers_key(recorded_answers)
            if has_recorded_answers and recording.matches_recording(context, as_calls(action)):
                self._answers = recording.answers_before(context.step + 1)
                return
        if any(answers.values()) or (recording is not None and recording.has_answers):
            self._answers = {kind: [*rows, _REPLACED] for kind, rows in answers.items()}

    def act(self, context: Context, rng: np.random.Generator) -> AgentStep | None:
        """Return the agent's next step; None if the agent is done.

        Raises:
            AgentDivergedError: The agent does not repeat its history.
        """
        step = AgentStep(self._agent, self._answers_at(context))
        self._answers = step.answers
        return step if step.advance(context) else None

    def _answers_at(self, context: Context) -> Answers:
        """Return the answers up to a context."""
        if self._answers is not None:
            return self._answers
        if context.recording is None:
            return no_answers()
        return context.recording.answers_before(context.step)


class AgentStep(list[Call]):
    """The calls of one step of an agent, known up to the next one; see `WorldSimulator.step`.

    Args:
        agent: The agent's function.
        answers: The answers before the step.

    Attributes:
        answers: The answers up to here; they grow with the step.
        outside: Names of the tools that are functions of the agent, not of the world.
    """

    # Slots, because the attributes of a list with a `__dict__` would be stored with the action.
    __slots__ = (
        "_agent",
        "_error",
        "_is_handed_over",
        "_is_over",
        "_n_before",
        "_number",
        "answers",
        "outside",
    )

    def __init__(self, agent: Agent, answers: Answers) -> None:
        super().__init__()
        self.answers = copy_answers(answers)
        self.outside: frozenset[str] = frozenset()
        self._agent = agent
        self._n_before = {kind: len(rows) for kind, rows in answers.items()}
        self._number: int | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._is_handed_over = False

    def more(self, context: Context) -> list[Call]:
        """Return the next call of the step, given the results so far; none if the step is over.

        Raises:
            Exception: The exception of the agent's loop.
        """
        n_calls = len(self)
        if not self._is_over:
            self.advance(context)
        if self._error is not None:
            raise self._error
        return self[n_calls:]

    def advance(self, context: Context) -> bool:
        """Run the agent up to its next call; return whether anything of it belongs to this step.

        Raises:
            AgentDivergedError: The agent does not repeat its history.
            TypeError: The agent's function returned a coroutine or a generator, and has not run.
        """
        episode = PlaybackEpisode(
            context,
            self.answers,
            step_number=self._number,
            # The requests before this step were compared when the step began.
            n_compared={} if self._number is None else self._n_before,
        )
        token = enter_episode(episode)
        disconnect = connect_taps(episode)
        returned: object = None
        try:
            try:
                returned = self._agent(episode)
            finally:
                episode.close()
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            # An agent that was stopped may turn that into any exception of its own.
            if not episode.is_stopped:
                self._error = _as_loop_error(exc)
        finally:
            disconnect()
            leave_episode(token)
            # In place: the policy's own answers are this object and grow with the step.
            for kind, rows in episode.answers.items():
                self.answers[kind][:] = rows
        _check_has_run(returned)
        if episode.divergence is not None:
            raise episode.divergence
        self._number = episode.step_number
        self.outside = frozenset(episode.outside)
        self._is_over = episode.next_call is None
        if episode.next_call is not None:
            self.append(episode.next_call)
        if self._is_handed_over:
            self.hand_over()
        return self._number is not None or self._error is not None

    def hand_over(self) -> Answers:
        """Let another agent continue after this step; return the answers.

        The other agent may ask differently in this step, so its requests are not compared with the
        ones that these answers belong to.
        """
        self._is_handed_over = True
        for kind, rows in self.answers.items():
            n_before = self._n_before[kind]
            rows[n_before:] = [
                row if isinstance(row, str) else row._replace(request_digest=b"")
                for row in rows[n_before:]
            ]
        return self.answers


def _check_has_run(returned: object) -> None:
    """Refuse what an agent's function returned, if nothing of the function has run.

    An async `__call__`, and a function that returns a coroutine, cannot be told before.

    Raises:
        TypeError: It is a coroutine or a generator.
    """
    if inspect.iscoroutine(returned) or inspect.isgenerator(returned):
        returned.close()
    elif not inspect.isasyncgen(returned):
        return
    raise TypeError(
        f"agent must be a sync function that runs its loop, and it returned a "
        f"{type(returned).__name__}: give a function that runs it"
    )


def _as_loop_error(exc: BaseException) -> Exception:
    """Return the exception of an agent's loop; raise one that is meant for the whole process."""
    if isinstance(exc, Exception):
        return exc
    if isinstance(exc, SystemExit):
        return RuntimeError(f"the agent's loop left by {exc!r}")
    raise exc
