"""`trajrec.episode`: records an agent's loop as it runs. Calls, models and checks go through it; it changes none of them."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from trajrec.agents.arguments import arguments_of, tool_name
from trajrec.agents.context import current_episode
from trajrec.agents.counters import Exceptions, Origin, Steps, Tries
from trajrec.agents.freeze import derive_seed, frozen
from trajrec.agents.journal import Journal
from trajrec.agents.model_calls import Models
from trajrec.agents.redaction import NO_REDACTION, Redactor
from trajrec.agents.tool_calls import Calls, IsError, error_of
from trajrec.errors import UnknownToolError
from trajrec.log.events import EffectValue, StateChange, TaskStart
from trajrec.log.schema import Check, EpisodeEnd, EpisodeStart, episode_id
from trajrec.log.writer import Durability, OnError
from trajrec.protocols import Access, Tool, Verdict, Verifier, World
from trajrec.recording.event_log import open_event_log
from trajrec.tracking.parts import find_parts
from trajrec.values import codec
from trajrec.verifiers import as_verdict, code_digest, identify


class AgentEpisode:
    """One episode of an agent that calls tools: a context manager, sync and async.

        with trajrec.episode("runs/", task="refund-17", world=Shop(seed=7)) as ep:
            order = ep.call("get_order", order="O1001")

    Args:
        folder: The corpus. All agents of a process write into one log there.
        task: The task's id, the same in every episode that tries it.
        goal: What the agent is asked, as plain data; by default what the world's reset returns.
        world: Where the tools act (see `World`): it is reset, and its tools are what `call` calls.
        tools: Descriptions of tools, beyond those of the world and of `tool`.
        watch: What to watch: an object, a function that returns one, a SQLite connection, the Path of a SQLite database or of a
            folder; or several by name. By default the world's own; False watches nothing.
        seed: For the world's reset; the recorder draws and records one where there is none.
        options: For the world's reset.
        checks: Verifiers, run on the world at the end of an episode that did not raise.
        interface: What the agent runs under (verifier, base, lineage, optimizer, scaffold, budget), as plain data.
        metadata: Anything else worth keeping.
        deterministic: Hold the clock at each call's own time, and seed what draws unseeded, so that a replay can do the same:
            see `trajrec.agents.freeze.frozen` for what that covers.
        redact: Whether secrets are kept out of the log, or what does it.
        is_error: Says of a tool's result why it is an error, None where it is none. By default `{"error": ...}` and objects
            with a true `isError` are.
        on_error: What a log that cannot be written does: "raise", or "warn" and go on.
        durability: See `trajrec.record`.
        origin: Where it goes on from; `trajrec.rerun` gives it.

    Attributes:
        world: The world that was given, reset.
        goal: What the agent is asked.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        task: str = "",
        goal: Any = None,
        world: World | None = None,
        tools: Sequence[Tool] = (),
        watch: Any = None,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        checks: Sequence[Verifier] = (),
        interface: Any = None,
        metadata: Mapping[str, Any] | None = None,
        deterministic: bool = False,
        redact: bool | Redactor = True,
        is_error: IsError = error_of,
        on_error: OnError = "raise",
        durability: Durability = "process",
        origin: Origin | None = None,
    ) -> None:
        missing = [
            name
            for name in ("reset", "tools", "call")
            if world is not None and not hasattr(world, name)
        ]
        if missing:
            raise TypeError(
                f"a world has reset, tools and call (trajrec.World); {type(world).__name__} lacks {', '.join(missing)}"
            )
        self.world, self.goal = world, goal
        self._where = folder, on_error, durability
        self._redactor = (
            NO_REDACTION if redact is False else Redactor() if redact is True else redact
        )
        self._task, self._watch, self._seed, self._options = task, watch, seed, options
        self._checks, self._interface, self._metadata = tuple(checks), interface, metadata
        self._tools: dict[str, Tool] = {tool.name: tool for tool in tools}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._is_error, self._is_held = is_error, deterministic
        self._origin = origin
        self._steps = Steps() if origin is None else origin.steps
        self._begun: tuple[Journal, Calls, Models] | None = None
        self._outer: contextvars.Token[Any] | None = None
        self._stop_reason, self._is_truncated, self._has_ended = "", False, False
        self._said_done: bool | None = None

    def __enter__(self) -> AgentEpisode:
        if self._begun is not None:
            raise ValueError(
                "an episode is recorded once; make another one with trajrec.episode(...)"
            )
        sink = open_event_log(*self._where)
        sink.writer.raise_error()
        journal = Journal(sink, self._redactor)
        self._begun = (
            journal,
            Calls(journal, self._steps, self._tools, self._is_error),
            Models(journal, self._steps),
        )
        parent = current_episode.get()
        self._outer = current_episode.set(self)
        try:
            self._begin(journal, parent)
        except BaseException as exc:
            journal.fail(-1, "reset", "env", exc)
            self._end("error")
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is not None:
            self._journal.fail(self._steps.step, "loop", "agent", exc)
        else:
            for verifier in self._checks:
                self.check(verifier)
        self._end(
            "error" if exc is not None else "truncated" if self._is_truncated else "terminated"
        )

    async def __aenter__(self) -> AgentEpisode:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(kind, exc, tb)

    @property
    def id(self) -> str:
        """The episode's id."""
        return episode_id(self._journal.sink.log_id, self._journal.number)

    @property
    def path(self) -> Path:
        """The log file."""
        return self._journal.sink.path

    @property
    def n_steps(self) -> int:
        """Number of its own steps so far; without the steps before a fork."""
        return self._end_step - (0 if self._origin is None else self._origin.fork.step)

    @property
    def _end_step(self) -> int:
        """Number of the last step plus 1."""
        return self._steps.step + 1

    @property
    def state_digest(self) -> str | None:
        """Digest of all parts that are watched; None where nothing is, or where it could not be captured."""
        digests = {} if self._begun is None else self._begun[1].digests
        return codec.digest(sorted(digests.items())) if digests and all(digests.values()) else None

    def tool(
        self,
        function: Callable[..., Any],
        *,
        name: str = "",
        schema: dict[str, Any] | None = None,
        access: Access = "unknown",
    ) -> Callable[..., Any]:
        """Make a function a tool: `call` knows it by its name, and what is returned records each call of it."""
        name = name or tool_name(function)
        self._functions[name] = function
        self._tools[name] = Tool(name, schema, access, inspect.getdoc(function) or "")

        def recorded(*args: Any, **kwargs: Any) -> Any:
            arguments = arguments_of(function, args, kwargs)
            return self._calls.execute(name, arguments, lambda: function(*args, **kwargs), "", "")

        return recorded

    def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a tool: returns what it returns, raises what it raises. An async tool's result is awaited as ever."""
        return self.execute(tool, arguments)

    def register_tool(self, tool: Tool) -> None:
        """Tell what a tool is that is called in another way than by the world or by `tool`."""
        self._tools[tool.name] = tool

    def execute(
        self,
        tool: str,
        arguments: dict[str, Any],
        *,
        call_id: str = "",
        run: Callable[[], Any] | None = None,
    ) -> Any:
        """Call a tool with its arguments as a dict.

        Args:
            tool: Its name.
            arguments: Its arguments.
            call_id: The id that the model gave the call.
            run: What executes the call, where neither the world nor a function does.

        Raises:
            UnknownToolError: There is no such tool; the call is recorded as invalid.
        """
        if run is not None:
            return self._calls.execute(tool, arguments, run, call_id, "")
        function, world = self._functions.get(tool), self.world
        if function is not None:
            return self._calls.execute(tool, arguments, lambda: function(**arguments), call_id, "")
        if world is not None and tool in self._tools:
            return self._calls.execute(
                tool, arguments, lambda: world.call(tool, arguments), call_id, ""
            )

        def refuse() -> Any:
            raise UnknownToolError(
                f"no tool {tool!r}; there are {', '.join(sorted(self._tools)) or 'none'}"
            )

        return self._calls.execute(tool, arguments, refuse, call_id, "unknown tool")

    def model(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a model: `function(*args, **kwargs)`, its request and answer recorded whole. It begins a step, to which the
        calls that follow belong. Async functions and streamed answers come back as they would."""
        return self._models.execute(function, args, kwargs)

    def step(self) -> contextlib.AbstractContextManager[int]:
        """Let the calls within be one step: one decision of the agent that takes several calls."""
        return self._steps.grouped()

    def attempts(self, plan: Any = 3, *, wait: float = 0.0, on: Exceptions = Exception) -> Tries:
        """Try again what raises: calls and model calls within are attempts of the same, by the scaffold.

            for attempt in ep.attempts(3, wait=0.5, on=TimeoutError):  # or async for
                with attempt:
                    result = ep.call("search", query="lamp")

        Args:
            plan: How many tries in all; or tenacity's Retrying or AsyncRetrying, which then decides.
            wait: Seconds between them.
            on: What is tried again; what the last one raises is raised.
        """
        return Tries(plan, wait, on)

    def side_effect(self, name: str, function: Callable[..., Any], /, *args: Any) -> Any:
        """Return `function(*args)`, recorded as a value that came from outside: given back when the agent is run again."""
        journal = self._running()[0]
        step = self._steps.step
        time_ns = time.time_ns()
        arguments = journal.data(list(args))
        try:
            value = function(*args)
        except Exception as exc:
            error_type, message, _ = journal.describe(exc)
            journal.add(
                EffectValue(
                    episode=journal.number,
                    step=step,
                    time_ns=time_ns,
                    name=name,
                    arguments_data=arguments,
                    value_data=None,
                    error_type=error_type,
                    message=message,
                )
            )
            raise
        data, is_redacted = journal.encode(value)
        event = EffectValue(
            episode=journal.number,
            step=step,
            time_ns=time_ns,
            name=name,
            arguments_data=arguments,
            value_data=data,
            is_redacted=is_redacted,
        )
        journal.add(event, len(data))
        return value

    def check(self, verifier: Verifier | Callable[..., Any], *args: Any) -> Verdict:
        """Run a verifier and record its verdict: on the arguments given, else on the world, else on what is watched.

        A verifier that raises gives the status "error" and no verdict: its fault is not the agent's.
        """
        journal = self._running()[0]
        if not args:
            args = (self.world if self.world is not None else self._watch,)
        verdict, status = Verdict(None), "ok"
        try:
            verdict = as_verdict(verifier(*args))
        except Exception as exc:
            journal.fail(self._steps.step, "check", "verifier", exc)
            status = "error"
        if status == "ok" and verdict.passed is None and verdict.score is None:
            status = "not_evaluated"
        evidence = verdict.evidence
        check_id, version, family = identify(verifier)
        journal.add(
            Check(
                episode=journal.number,
                step=self._end_step,
                time_ns=time.time_ns(),
                check_id=check_id,
                version=version,
                family=family,
                phase="terminal",
                status=status,  # type: ignore[arg-type]
                verdict=verdict.passed,
                score=verdict.score,
                evidence_data=None if evidence is None else journal.data(evidence),
                code_digest=code_digest(verifier),
                state_digest=self.state_digest,
            )
        )
        journal.flush()
        return verdict

    def stop(
        self, reason: str, *, claimed_done: bool | None = None, truncated: bool = False
    ) -> None:
        """Say why the loop ends ("done", "max_steps", "budget", ...) and whether the agent said that it was done.

        Done is not succeeded: that is what checks say. An episode that ends by a limit is truncated, not failed.
        """
        self._stop_reason, self._said_done, self._is_truncated = (
            self._redactor.text(reason),
            claimed_done,
            truncated,
        )

    def _begin(self, journal: Journal, parent: AgentEpisode | None) -> None:
        world, now = self.world, time.time_ns()
        held_seed = secrets.randbits(31) if self._is_held else None
        self._calls.held_seed = held_seed
        if self._origin is None:
            self._reset(journal, now, held_seed)
        else:
            journal.add(
                msgspec.structs.replace(self._origin.start, episode=journal.number, time_ns=now)
            )
            journal.add(msgspec.structs.replace(self._origin.fork, episode=journal.number))
            self._origin.prepare(world)
        if world is not None:
            self._tools.update(
                {tool.name: tool for tool in world.tools() if tool.name not in self._tools}
            )
        calls = self._calls
        calls.parts = find_parts(world, self._watch)
        whole = [(part.name, *part.tracker.begin()) for part in calls.parts]
        parts = [(part.name, part.tracker.name, part.tracker.version) for part in calls.parts]
        class_name = ""
        if world is not None:
            class_name = f"{type(world).__module__}:{type(world).__qualname__}"
        kwargs = getattr(world, "kwargs", None)
        metadata = self._metadata
        tools = [
            [tool.name, tool.schema, tool.access, tool.description] for tool in self._tools.values()
        ]
        journal.add(
            TaskStart(
                episode=journal.number,
                task=journal.text(self._task),
                goal_data=None if self.goal is None else journal.data(self.goal),
                world=class_name,
                world_data=None if kwargs is None else journal.data(dict(kwargs)),
                tools_data=journal.data(tools),
                parts=parts,
                interface_data=None if self._interface is None else journal.data(self._interface),
                metadata_data=None if metadata is None else journal.data(dict(metadata)),
                caller_id=None if parent is None else parent.id,
                caller_step=None if parent is None else parent._steps.step,
                held_seed=held_seed,
            )
        )
        for name, value, digest in whole:
            calls.digests[name] = digest
            journal.add(
                StateChange(
                    episode=journal.number,
                    step=-1,
                    call=0,
                    attempt=0,
                    part=name,
                    digest=digest,
                    data=journal.data(value),
                )
            )

    def _reset(self, journal: Journal, now: int, held_seed: int | None) -> None:
        """Record and make the world's reset."""
        world, seed, origin = self.world, self._seed, "caller"
        if world is not None and seed is None:
            seed = getattr(world, "seed", None)
            if seed is None:
                seed, origin = secrets.randbits(31), "recorder"
        options = None if self._options is None else journal.data(self._options)
        origin = "none" if seed is None else origin
        journal.add(
            EpisodeStart(
                episode=journal.number,
                time_ns=now,
                seed=seed,
                seed_origin=origin,  # type: ignore[arg-type]
                options_data=options,
                rng_data=None,
                info_data=_NO_INFO,
            )
        )
        if world is None:
            return
        with (
            contextlib.nullcontext()
            if held_seed is None
            else frozen(now, derive_seed(held_seed, -1, 0, 0))
        ):
            found = world.reset(seed=seed, options=self._options)
        if self.goal is None:
            # An environment's reset returns its observation and an info.
            is_pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)
            self.goal = found[0] if is_pair else found

    def _end(self, ending: Literal["terminated", "truncated", "error"]) -> None:
        self._has_ended = True
        journal = self._journal
        journal.add(
            EpisodeEnd(
                episode=journal.number,
                time_ns=time.time_ns(),
                n_steps=self._end_step,
                ending=ending,
                terminated=ending == "terminated",
                truncated=ending == "truncated",
                stop_reason=self._stop_reason,
                claimed_done=self._said_done,
            )
        )
        if self._outer is not None:
            # A generator or task may leave the episode in another context than it entered.
            with contextlib.suppress(ValueError):
                current_episode.reset(self._outer)
        if ending == "error":
            journal.flush()
        else:
            journal.sink.flush()

    @property
    def _journal(self) -> Journal:
        return self._parts_of_it()[0]

    @property
    def _calls(self) -> Calls:
        return self._running()[1]

    @property
    def _models(self) -> Models:
        return self._running()[2]

    def _parts_of_it(self) -> tuple[Journal, Calls, Models]:
        if self._begun is None:
            raise ValueError("the episode has not begun: use `with trajrec.episode(...) as ep:`")
        return self._begun

    def _running(self) -> tuple[Journal, Calls, Models]:
        if self._has_ended:
            raise ValueError(f"episode {self.id} has ended: nothing more can be recorded in it")
        return self._parts_of_it()


_NO_INFO = codec.encode({})
