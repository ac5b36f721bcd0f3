"""`trajrec.rerun`: runs an agent's own loop against its recording. Models and tools answer from the log; the first thing that
the agent asks and did not ask then is reported, with what is different in it."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from trajrec.agents.arguments import arguments_of, request_of, tool_name
from trajrec.agents.context import current_episode
from trajrec.agents.counters import Exceptions, Steps, Tries
from trajrec.agents.episode import AgentEpisode
from trajrec.agents.redaction import Redactor, differences
from trajrec.corpus.episode import Episode
from trajrec.corpus.history import recorded_requests
from trajrec.corpus.transcript import Attempt
from trajrec.errors import AgentDivergedError
from trajrec.log.reader import LogReader
from trajrec.log.schema import Check, EpisodeStart
from trajrec.protocols import Tool, Verdict, World
from trajrec.replay.agents.live_fork import continue_live
from trajrec.values.diff import Change
from trajrec.values.json import to_json
from trajrec.values.recorded import (
    RecordedStream,
    as_exception,
    deliver,
    deliver_error,
    rehydrate,
)
from trajrec.verifiers import identify

SHOWN_CHANGES = 8


@dataclass(frozen=True)
class Difference:
    """What an agent did differently.

    Attributes:
        step: The step, from 0.
        what: "model call", "tool call", "side effect" or "end".
        recorded: What was asked then, as plain data; None where nothing more was.
        now: What is asked now, as plain data; None where nothing more is.
        changes: What is different between the two.
    """

    step: int
    what: Literal["model call", "tool call", "side effect", "end"]
    recorded: Any
    now: Any
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        head = f"step {self.step}, {self.what}: "
        if self.recorded is None:
            return f"{head}the recording has no more of them; now {_short(self.now)}"
        if self.now is None:
            return f"{head}the agent ended before {_short(self.recorded)}"
        lines = [line for change in self.changes[:SHOWN_CHANGES] for line in _lines(change)]
        if len(self.changes) > SHOWN_CHANGES:
            lines.append(f"  and {len(self.changes) - SHOWN_CHANGES} more")
        return "\n".join([f"{head}it is not the recorded one", *lines])


class Rerun:
    """An episode that answers from its recording: what `trajrec.episode` gives, without a model, a tool or a network.

        with trajrec.rerun(corpus.episode("3f2a")) as ep:
            my_agent(ep)
        assert ep.difference is None

    Args:
        episode: An agent's episode, or the path of a log that holds only one.
        on_difference: "stop" raises AgentDivergedError at the first request that was not made then. "report" raises as well,
            and keeps it from leaving the `with` block: `difference` has it. "live" goes on from there with the real model,
            tools and world, as an episode of its own that is recorded as a fork: `live` is it.
        folder: For "live": where it is recorded; by default the folder of the recording.
        world: For "live": the world; by default the one that the log names is made. It is brought to where the agent stands.
        allow: For "live": module prefixes that may be imported because the log names them.

    Attributes:
        difference: The first difference; None where there was none, so far.
        live: The episode that goes on; None before the first difference.
        world: The world that goes on; None before, as its tools answer from the log.
        goal: What the agent was asked.
    """

    def __init__(
        self,
        episode: Episode | str | Path,
        *,
        on_difference: Literal["stop", "report", "live"] = "stop",
        folder: str | Path | None = None,
        world: World | None = None,
        allow: Iterable[str] = (),
    ) -> None:
        if not isinstance(episode, Episode):
            episode = _only_episode(Path(episode))
        if not episode.is_agent_episode:
            raise ValueError(
                f"episode {episode.id} is an environment's, not an agent's: replay it with trajrec.replay"
            )
        self.episode, self.difference = episode, None
        self.live: AgentEpisode | None = None
        self.world: Any = None
        self._folder = episode.path.parent if folder is None else Path(folder)
        self._given_world, self._allow = world, tuple(allow)
        self._functions: list[tuple[Callable[..., Any], dict[str, Any]]] = []
        task = episode.transcript.task_start
        self.goal = (
            None
            if task is None or task.goal_data is None
            else rehydrate(episode.transcript.value(task.goal_data))
        )
        self._on_difference, self._redactor = on_difference, Redactor()
        self._steps = Steps()
        self._models, self._calls, self._effects = recorded_requests(episode)
        self._places = {attempt.place for attempt in self._calls}
        self._n_effects = len(self._effects)
        self._n_models = 0

    difference: Difference | None

    def __enter__(self) -> Rerun:
        self._outer = current_episode.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        if self.live is not None:
            self.live.__exit__(kind, exc, tb)
        with contextlib.suppress(ValueError):  # left in another context than it was entered in
            current_episode.reset(self._outer)
        if exc is None and self.live is None:
            with self._suppressed():
                self._check_end()
        return isinstance(exc, AgentDivergedError) and self._on_difference == "report"

    async def __aenter__(self) -> Rerun:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, exc, tb)

    @property
    def id(self) -> str:
        """Id of the recorded episode; of the one that goes on, where one does."""
        return self.episode.id if self.live is None else self.live.id

    @property
    def n_steps(self) -> int:
        """Steps so far."""
        return self._steps.step + 1

    def tool(
        self, function: Callable[..., Any], *, name: str = "", **options: Any
    ) -> Callable[..., Any]:
        """Return a stand-in for a tool, which answers from the log."""
        name = name or tool_name(function)
        self._functions.append((function, {"name": name, **options}))
        if self.live is not None:
            return self.live.tool(function, name=name, **options)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            return self.execute(name, arguments_of(function, args, kwargs))

        return recorded

    def call(self, tool: str, /, **arguments: Any) -> Any:
        """Return what the recorded call returned, or raise what it raised."""
        return self.execute(tool, arguments)

    def register_tool(self, tool: Tool) -> None:
        """Take note of what a tool is, for when the agent goes on live."""
        if self.live is not None:
            self.live.register_tool(tool)

    def execute(
        self,
        tool: str,
        arguments: dict[str, Any],
        *,
        call_id: str = "",
        run: Callable[[], Any] | None = None,
    ) -> Any:
        """Return what the recorded call returned, or raise what it raised.

        Raises:
            AgentDivergedError: No such call was made at this step.
        """
        if self.live is not None:
            return self.live.execute(tool, arguments, call_id=call_id, run=run)
        mark = self._steps.mark()
        place = self._steps.place_call()
        now = {"tool": tool, "arguments": self._redactor.plain(arguments)}
        of_step = [
            a for a in self._calls if (a.start.step, a.start.attempt) == (place.step, place.attempt)
        ]
        found = next((a for a in of_step if not differences(_asked(a), now)), None)
        if found is None:
            # Calls of other steps cannot be meant: an agent that skips one has changed.
            live = self._differ(
                place.step, "tool call", _asked(of_step[0]) if of_step else None, now, mark
            )
            return live.execute(tool, arguments, call_id=call_id, run=run)
        self._calls.remove(found)
        end = found.end
        if end is None:
            raise as_exception(
                "builtins.TimeoutError", "the recorded call was open when its log ended"
            )
        if end.is_raised:
            return deliver_error(as_exception(end.error_type, end.message), end.is_async)
        return deliver(rehydrate(found.result), end.is_async)

    def model(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return the recorded answer; `function` is not called.

        Raises:
            AgentDivergedError: The request is not the recorded one.
        """
        if self.live is not None:
            return self.live.model(function, *args, **kwargs)
        mark = self._steps.mark()
        with self._steps.lock:
            number, _, _ = self._steps.place_model()
        now = self._redactor.plain(request_of(args, kwargs))
        found = self._models[number] if number < len(self._models) else None
        recorded = None if found is None else {"messages": found.messages, **found.request}
        if found is None or differences(recorded, now):
            return self._differ(self._steps.step, "model call", recorded, now, mark).model(
                function, *args, **kwargs
            )
        self._n_models += 1
        end = found.end
        if end is None:
            raise as_exception(
                "builtins.TimeoutError", "the recorded model call was open when its log ended"
            )
        if end.answer_data is None:
            return deliver_error(as_exception(end.error_type, end.message), end.is_async)
        answer = rehydrate(found.answer)
        if end.is_streamed:
            error = as_exception(end.error_type, end.message) if end.error_type else None
            return deliver(RecordedStream(answer, error), end.is_async)
        return deliver(answer, end.is_async)

    def side_effect(self, name: str, function: Callable[..., Any], /, *args: Any) -> Any:
        """Return the value that came from outside when the episode was recorded."""
        if self.live is not None:
            return self.live.side_effect(name, function, *args)
        now = {"name": name, "arguments": self._redactor.plain(list(args))}
        mark = self._steps.mark()
        if not self._effects:
            return self._differ(self._steps.step, "side effect", None, now, mark).side_effect(
                name, function, *args
            )
        event, transcript = self._effects[0]
        recorded = {"name": event.name, "arguments": transcript.value(event.arguments_data)}
        if differences(recorded, now):
            return self._differ(self._steps.step, "side effect", recorded, now, mark).side_effect(
                name, function, *args
            )
        self._effects.pop(0)
        if event.value_data is None:
            raise as_exception(event.error_type, event.message)
        return rehydrate(transcript.value(event.value_data))

    def check(self, verifier: Any, *args: Any) -> Verdict:
        """Return the recorded verdict of this verifier; one without a verdict where none was recorded. Live: run it."""
        if self.live is not None:
            return self.live.check(verifier, *args)
        wanted = identify(verifier)[0]
        found: Check | None = next(
            (check for check in self.episode.checks if check.check_id == wanted), None
        )
        if found is None:
            return Verdict(None)
        evidence = (
            None
            if found.evidence_data is None
            else self.episode.transcript.value(found.evidence_data)
        )
        return Verdict(found.verdict, found.score, evidence)

    def step(self) -> contextlib.AbstractContextManager[int]:
        """Let the calls within be one step."""
        return self._steps.grouped()

    def attempts(self, plan: Any = 3, *, wait: float = 0.0, on: Exceptions = Exception) -> Tries:
        """Try again as the recorded loop did, without waiting."""
        return Tries(plan, 0.0 if self.live is None else wait, on)

    def stop(self, reason: str, **said: Any) -> None:
        """Say why the loop ends, where it goes on live; otherwise the recording has it."""
        if self.live is not None:
            self.live.stop(reason, **said)

    def _check_end(self) -> None:
        """Find what the agent did then and does no more, where nothing was found before."""
        if self.difference is not None:
            return
        for call in self._models[self._n_models :]:
            self._differ(
                call.start.step, "end", {"messages": call.messages[-1:], **call.request}, None, None
            )
        for attempt in self._calls:
            self._differ(attempt.start.step, "end", _asked(attempt), None, None)

    @contextlib.contextmanager
    def _suppressed(self) -> Iterator[None]:
        try:
            yield
        except AgentDivergedError:
            if self._on_difference == "stop":
                raise

    def _differ(self, step: int, what: Any, recorded: Any, now: Any, mark: Any) -> AgentEpisode:
        """Note a difference: raise it, or go on live from the mark before it."""
        changes = (
            tuple(differences(recorded, now)) if recorded is not None and now is not None else ()
        )
        found = Difference(step, what, recorded, now, changes)
        if self.difference is None:
            self.difference = found
        if self._on_difference != "live" or mark is None:
            raise AgentDivergedError(found, episode_id=self.episode.id)
        self._steps.back_to(mark)
        counts = (
            self._places - {attempt.place for attempt in self._calls},
            self._n_models,
            self._n_effects - len(self._effects),
        )
        self.live = continue_live(
            self.episode,
            max(0, step),
            self._steps,
            *counts,
            self._functions,
            goal=self.goal,
            folder=self._folder,
            world=self._given_world,
            allow=self._allow,
        )
        self.world = self.live.world
        return self.live


def _only_episode(path: Path) -> Episode:
    reader = LogReader(path)
    numbers = {
        event.episode
        for chunk in reader.chunks()
        for event in chunk.record.events
        if isinstance(event, EpisodeStart)
    }
    if len(numbers) != 1:
        raise ValueError(
            f"{path} holds {len(numbers)} episodes: give one, as trajrec.open(folder).episode(id)"
        )
    return Episode(reader, numbers.pop())


def _asked(attempt: Attempt) -> dict[str, Any]:
    return {"tool": attempt.tool, "arguments": attempt.arguments}


def _lines(change: Change) -> list[str]:
    """Return a change for people: texts of several lines as their differing lines."""
    a, b = change.before, change.after
    if isinstance(a, str) and isinstance(b, str) and ("\n" in a or "\n" in b):
        found = list(
            difflib.unified_diff(
                a.splitlines(), b.splitlines(), "recorded", "now", lineterm="", n=1
            )
        )
        return [f"  {change.path}:", *(f"    {line}" for line in found)]
    return [f"  {change.path}: recorded {_short(a)}, now {_short(b)}"]


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 200 else text[:199] + "…"
