"""`trajrec.episode`: records an agent's loop while it runs, and changes none of its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from trajrec.agents.arguments import check_call
from trajrec.agents.async_block import AsyncBlock
from trajrec.agents.context import EpisodeToken, calling_episode, enter_episode, leave_episode
from trajrec.agents.counters import ForkOrigin, StepCounter
from trajrec.agents.exchange_memory import ExchangeMemory
from trajrec.agents.journal import Journal
from trajrec.agents.opening import EpisodeSpec, begin_episode, checked_watch
from trajrec.agents.outcomes import AgentEnding, record_check, record_end, record_side_effect
from trajrec.agents.recorders import Recorders
from trajrec.agents.retries import AttemptLoop, Exceptions, RetryPlan
from trajrec.agents.routing import connect_taps
from trajrec.agents.stand_ins import folder_of_episodes, stand_in_for
from trajrec.agents.tool_calls import IsError, OpenToolCall, find_error
from trajrec.agents.tool_wrappers import ToolDecorator, ToolFunction, ToolStream
from trajrec.agents.toolbox import Toolbox
from trajrec.log.schema import episode_id
from trajrec.log.writer import Durability, OnFull
from trajrec.protocols import Access, Tool, Verdict, Verifier, World
from trajrec.recording.event_log import open_event_log
from trajrec.recording.faults import Fault, causes_of, fault_of
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.task_options import check_metadata, primary_check
from trajrec.types import JsonObject, Value
from trajrec.verifiers import identify
from trajrec.wire.exchange import Exchange, HttpRequest


class AgentEpisode(AsyncBlock, ToolDecorator):
    """One episode of an agent that calls tools: a context manager, sync and async.

        with trajrec.episode("runs/", task="refund-17", world=Shop(seed=7)) as ep:
            order = ep.call("get_order", order="O1001")

    Args:
        folder: The corpus. All agents of a process write into one log there.
        task: Id of the task, the same in every episode that tries it.
        goal: The agent's instructions, as plain data. Default: the value that the world's reset
            returns.
        world: The world in which the tools act (see `World`). It is reset, and `call` calls its
            tools.
        tools: Descriptions of tools, beyond those of the world and of `tool`. False leaves the tool
            calls of frameworks to what the model calls tell of them, without times and changes.
        watch: The state to watch: an object, a function that returns one, a SQLite connection, the
            Path of a SQLite database or of a folder, or several of these by name. Default: the
            world's own; False watches nothing.
        seed: Seed of the world's reset. Default: the world's attribute `seed`, else a random one.
        options: Options of the world's reset.
        checks: Verifiers to run on the world at the end of an episode that did not raise.
        primary: The check, or its id, whose verdict is the outcome. By default the first one.
        interface: The conditions of the run (verifier, base, lineage, optimizer, scaffold, budget),
            as plain data.
        task_revision: Version of the task.
        metadata: Any further plain data. The keys run, group, trial, family, split, privacy and
            probe have a meaning of their own; see `trajrec.task_options`.
        deterministic: Whether to freeze the clock at the time of each call and to seed unseeded
            randomness, so that a replay can do the same; see `trajrec.agents.freeze.frozen`.
        redact: Whether to keep secrets out of the log, or the `Redactor` that does so.
        wire: Whether to record the model calls of every client, by their HTTP requests.
        is_error: Returns why a tool's result is an error, None if it is none. By default
            `{"error": ...}` and objects with a true `isError` are errors.
        on_full: "stop-recording" or "raise", if the log cannot be written.
        durability: See `trajrec.record`.

    Attributes:
        world: The given world, reset.
        goal: The agent's instructions.

    Raises:
        TypeError: The world lacks a method of `World`.
    """

    def __new__(cls, folder: str | Path, **options: Any) -> Self:
        """Return a new episode; in an experiment, the one that stands in for it."""
        stand_in = stand_in_for(folder, options) if cls is AgentEpisode else None
        return super().__new__(cls) if stand_in is None else cast("Self", stand_in)

    def __init__(
        self,
        folder: str | Path,
        *,
        task: str = "",
        goal: Value = None,
        world: World | None = None,
        tools: Sequence[Tool] | Literal[False] = (),
        watch: Value = None,
        seed: int | None = None,
        options: JsonObject | None = None,
        checks: Sequence[Verifier] = (),
        primary: Verifier | str | None = None,
        task_revision: str = "",
        interface: Value = None,
        metadata: Mapping[str, Value] | None = None,
        deterministic: bool = False,
        redact: bool | Redactor = True,
        wire: bool = True,
        is_error: IsError = find_error,
        on_full: OnFull = "stop-recording",
        durability: Durability = "process",
    ) -> None:
        check_metadata(metadata)
        self.world = world
        self.goal = goal
        self._spec = EpisodeSpec(
            task=task,
            task_revision=task_revision,
            goal=goal,
            world=world,
            watch=checked_watch(world, watch),
            seed=seed,
            options=options,
            checks=tuple(checks),
            interface=interface,
            metadata=metadata,
            deterministic=deterministic,
            is_error=is_error,
        )
        self._log_options = (folder_of_episodes(folder), on_full, durability)
        self._redactor = as_redactor(redact)
        self._toolbox = Toolbox(tools or ())
        self._holds_tools = tools is not False
        self._primary = primary_check(checks, primary)
        self._origin: ForkOrigin | None = None
        self._steps = StepCounter()
        self._recording: Recorders | None = None
        self._token: EpisodeToken | None = None
        self._stop_reason = ""
        self._claimed_done: bool | None = None
        self._ending: AgentEnding = "terminated"
        self._has_ended = False
        self._wire = wire
        self._disconnect: Callable[[], object] = bool

    def __enter__(self) -> Self:
        if self._recording is not None:
            raise ValueError("an episode is recorded once; make another by trajrec.episode(...)")
        log = open_event_log(*self._log_options)
        log.writer.raise_error()
        tools = self._toolbox.tools
        self._recording = recording = Recorders.of_episode(
            Journal(log, self._redactor), self._steps, tools=tools, is_error=self._spec.is_error
        )
        caller = calling_episode()
        self._token = enter_episode(self)
        if self._wire:
            self._disconnect = connect_taps(self)
        try:
            self.goal = begin_episode(
                self._spec, recording.journal, recording.calls, origin=self._origin, caller=caller
            )
        except BaseException as exc:
            recording.journal.fail(-1, "reset", "env", exc)
            self._end("error", fault_of(exc, is_of_env=True))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        recording = self._running()
        if exc is not None:
            recording.journal.fail(self._steps.step, "loop", "agent", exc)
            is_of_env = any(cause is recording.calls.last_raised for cause in causes_of(exc))
            self._end("error", fault_of(exc, is_of_env=is_of_env))
            return
        ending: AgentEnding = "error"
        try:
            for verifier in self._spec.checks:
                self.check(verifier)
            ending = self._ending
        finally:
            # Also after Ctrl-C in a verifier: without an end, it would stay the current episode.
            self._end(ending)

    @property
    def id(self) -> str:
        """The episode's id."""
        journal = self._begun().journal
        return episode_id(journal.log.log_id, journal.number)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can be recorded in it."""
        return self._has_ended

    @property
    def holds_tools(self) -> bool:
        """Whether hooks in frameworks record their tool calls in it."""
        return self._holds_tools

    @property
    def path(self) -> Path:
        """The log file."""
        return self._begun().journal.log.path

    @property
    def n_steps(self) -> int:
        """Number of its own steps so far; without the steps before a fork."""
        return self._steps.step + 1 - (self._origin.fork.step if self._origin else 0)

    @property
    def last_step(self) -> int:
        """Number of the last step; -1 before the first."""
        return self._steps.step

    @property
    def state_digest(self) -> str | None:
        """Digest of all watched parts; None if nothing is watched, or a part was not captured."""
        return None if self._recording is None else self._recording.calls.states.digest()

    def _add_tool(
        self, function: ToolFunction, *, name: str, schema: JsonObject | None, access: Access
    ) -> None:
        self._toolbox.add_function(function, name, schema, access)

    def open_stream(self, tool: str, arguments: JsonObject, call_id: str = "") -> ToolStream:
        """Begin the call of a tool that is a generator; its wrapper notes the items."""
        return self._running().calls.open_stream(tool, arguments, call_id)

    def open_call(self, tool: str, arguments: JsonObject, invalid: str = "") -> OpenToolCall:
        """Begin a call that runs in another process, whose end is told to the returned object."""
        return self._running().calls.open_call(tool, arguments, invalid=invalid)

    def call(self, tool: str, /, **arguments: Value) -> Value:
        """Call a tool, and return its result, to be awaited if it is async, or raise its exception."""
        return self.execute(tool, arguments)

    def register_tool(self, tool: Tool) -> None:
        """Describe a tool that is called in another way than by the world or by `tool`."""
        self._toolbox.tools[tool.name] = tool

    def execute(
        self,
        tool: str,
        arguments: JsonObject,
        *,
        call_id: str = "",
        run: Callable[[], Value] | None = None,
        invalid: str = "",
    ) -> Value:
        """Call a tool with its arguments as a dict.

        Args:
            tool: Name of the tool.
            arguments: Its arguments.
            call_id: Id that the model gave the call.
            run: Executes the call, if neither the world nor a function does.
            invalid: Why the call cannot be meant, if the caller knows that.

        Returns:
            The result of the tool.

        Raises:
            UnknownToolError: The tool does not exist; the call is recorded as invalid.
            TypeError: `tool` is no text, or `arguments` no mapping; nothing is recorded.
        """
        check_call(tool, arguments)
        generators = self._toolbox.generators
        if run is None and (begun := generators.begun(self, tool, arguments, call_id)):
            return begun
        run = run or self._toolbox.find(tool, arguments, self.world)
        if run is None:
            run = partial(self._toolbox.refuse, tool)
            invalid = "unknown tool"
        execute = self._running().calls.execute
        return execute(tool, arguments, run, call_id=call_id, invalid=invalid)

    def model(self, function: Callable[..., Value], /, *args: Value, **kwargs: Value) -> Value:
        """Call a model and record its request and answer whole.

        The call begins a step, to which the tool calls after it belong.

        Returns:
            The result of `function(*args, **kwargs)`. Async functions and streamed answers are
            recorded while the caller awaits or reads them.
        """
        return self._running().models.execute(function, args, kwargs)

    def begin_exchange(self, request: HttpRequest) -> Exchange | None:
        """Record an HTTP request that a tap has seen; None after the end of the episode."""
        return None if self._has_ended else self._begun().exchanges.begin(request)

    @property
    def exchange_memory(self) -> ExchangeMemory:
        """The last HTTP exchanges, by which a request finds its episode."""
        return self._begun().exchanges.memory

    def step(self) -> AbstractContextManager[int]:
        """Make the calls of a block one step: one decision that takes several calls."""
        return self._steps.grouped()

    def attempts(
        self, plan: RetryPlan = 3, *, wait: float = 0.0, on: Exceptions = Exception
    ) -> AttemptLoop:
        """Retry a block; its calls and model calls are recorded as attempts of the same calls.

            for attempt in ep.attempts(3, wait=0.5, on=TimeoutError):  # or async for
                with attempt:
                    result = ep.call("search", query="lamp")

        Args:
            plan: Number of tries, or tenacity's Retrying or AsyncRetrying, which then decides.
            wait: Seconds between two tries.
            on: Exceptions that are retried. The last try raises them.
        """
        return AttemptLoop(plan, wait, on)

    def side_effect(self, name: str, function: Callable[..., Value], /, *args: Value) -> Value:
        """Return `function(*args)`, recorded as a value from outside the program.

        `trajrec.rerun` returns the recorded value instead of calling the function.
        """
        journal = self._running().journal
        step = self._steps.step
        return record_side_effect(journal, step, name=name, function=function, args=args)

    def check(self, verifier: Callable[..., Value], *args: Value) -> Verdict:
        """Run a verifier and record its verdict. The first one decides the outcome by default.

        Args:
            verifier: If it raises, the check has the status "error": the agent has no fault.
            args: Its arguments. Default: the world, or without a world the watched object.

        Returns:
            The verdict.
        """
        journal = self._running().journal
        if not args:
            args = (self._spec.watch if self.world is None else self.world,)
        self._primary = self._primary or identify(verifier).id
        return record_check(
            journal,
            self._steps.step,
            verifier=verifier,
            args=args,
            state_digest=self.state_digest,
            primary=self._primary,
        )

    def stop(
        self, reason: str, *, claimed_done: bool | None = None, truncated: bool = False
    ) -> None:
        """Record why the loop ends.

        Args:
            reason: "done", "max_steps", "budget", ...
            claimed_done: Whether the agent claims to be done. Only checks decide on success.
            truncated: Whether a limit ends the episode. It is then truncated, not failed.
        """
        self._stop_reason = self._redactor.text(reason)
        # A log holds neither NumPy's truth values nor numbers there.
        self._claimed_done = None if claimed_done is None else bool(claimed_done)
        self._ending = "truncated" if truncated else "terminated"

    def continue_from(self, origin: ForkOrigin) -> None:
        """Continue another episode, before this one begins; `trajrec.rerun` calls it."""
        self._origin = origin
        self._steps = origin.steps

    def _end(self, ending: AgentEnding, fault: Fault = "") -> None:
        recording = self._begun()
        try:
            recording.end()
        finally:
            self._has_ended = True
            if self._token is not None:
                leave_episode(self._token)
            self._disconnect()
            record_end(
                recording.journal,
                self._steps.step,
                ending=ending,
                stop_reason=self._stop_reason,
                claimed_done=self._claimed_done,
                fault=fault,
                unseen=recording.unseen_ways() if self._wire else (),
            )

    def _begun(self) -> Recorders:
        if self._recording is None:
            raise ValueError("the episode has not begun: use `with trajrec.episode(...) as ep:`")
        return self._recording

    def _running(self) -> Recorders:
        if self._recording is None or self._has_ended:
            raise ValueError(f"episode {self.id} has ended: nothing more can be recorded in it")
        return self._recording
