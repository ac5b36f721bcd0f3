"""One run of a what-if experiment: the agent's program, answered up to a step and live from there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import TracebackType

from trajrec.agents.context import leave_episode
from trajrec.agents.tool_wrappers import AnsweredStream, ToolFunction, ToolStream
from trajrec.corpus.attempts import Attempt
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.corpus.model_calls import ModelCall
from trajrec.errors import AgentDivergedError, ReplayError
from trajrec.protocols import Access, Verdict
from trajrec.replay.agents.recorded_answers import (
    asked_call,
    call_items,
    call_request,
    call_result,
    model_answer,
)
from trajrec.replay.agents.wire_answers import AnsweredExchange, answer_of
from trajrec.replay.whatif.changes import Result, ToolError
from trajrec.replay.whatif.complete import why_incomplete
from trajrec.replay.whatif.going_live import GoingLive
from trajrec.replay.whatif.rewriting import call_with, with_arguments, with_arguments_in, with_edit
from trajrec.replay.whatif.unwatched import access_of, without_leave
from trajrec.types import JsonObject, Value
from trajrec.values.recorded import RecordedStream, deliver, deliver_error
from trajrec.values.recorded_errors import as_exception
from trajrec.wire.dialects.choose import is_model_request
from trajrec.wire.edits import EditError, edit_request
from trajrec.wire.exchange import Exchange, HttpRequest


class WhatIfRun(GoingLive):
    """An episode that answers from its recording up to a step, and goes on live from there.

    All runs of an experiment go live at the same place. Before it, a request that is not the
    recorded one ends the run. After it, the arm "changed" has the change, and the arm "control"
    does as recorded: its tools run, and its models are answered; see `Control`.

    Args:
        episode: The recorded episode.
        plan: The run.
        folder: The corpus that records the live part, as a fork.
        world: The world; None makes the one that the log names.
        watch: The watched objects, as `trajrec.episode` takes them.
        options: Further arguments of `trajrec.episode`, for the live part.
        allow: See `trajrec.rerun`, as for the next three.
        held_tools: The tools whose calls come here, None for all; others run again by themselves.

    Attributes:
        plan: The run.
        attempt: The recorded call that the experiment changes; None if it changes none.
        branch: The live part; None before the place.
        raised: The exception that left the episode; None if none did.
        notes: Facts that a reader of the result must know.
    """

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        self.raised = exc
        if self._branch_token is not None:
            leave_episode(self._branch_token)
        if self._control is not None:
            if exc is None:
                self._control.compare_last_state()
            self._control.live.__exit__(kind, exc, tb)
        if exc is None and self.error is None:
            self.error = self._why_incomplete()
        return super().__exit__(kind, exc, tb)

    def _why_incomplete(self) -> ReplayError | None:
        """Return why a run that has ended says nothing about the change; None if it does."""
        if self.branch is None:
            reason = f"the agent ended before step {self.plan.at}"
            return AgentDivergedError(reason, episode_id=self.episode.id)
        is_made = self.plan.change.start != "after" or self._has_changed_result
        is_made = is_made and (self.plan.change.edit is None or self._has_edited)
        is_made = is_made and not self._has_pending_arguments
        reason = why_incomplete(self.plan, self._requests, n_asked=self._n_asked, is_made=is_made)
        return ReplayError(reason, episode_id=self.episode.id) if reason else None

    # Model calls.

    def begin_exchange(self, request: HttpRequest) -> Exchange | None:
        """Answer an HTTP request from the recording, or send it, with the change if it has one."""
        with self._steps.lock:
            if self.branch is None:
                found = self._answers.find(request)
                if self._is_next(found) and is_model_request(request):
                    self._begin_branch_on_wire()
        if self.live is None:
            return super().begin_exchange(request)
        self._n_asked += is_model_request(request)
        if self.plan.edit is None or not is_model_request(request):
            return self.live.begin_exchange(request)
        try:
            edited = edit_request(request, self.plan.edit)
        except EditError as exc:
            raise self._stopped(str(exc)) from exc
        self._has_edited = True
        exchange = self.live.begin_exchange(edited)
        if exchange is not None:
            exchange.sent_body = edited.body
            exchange.sent_url = edited.url if edited.url != request.url else None
        return exchange

    def _is_next(self, found: HttpExchange | None) -> bool:
        """Return whether a request is the first that must be live.

        Args:
            found: The recorded exchange that would answer it. Behind a changed result there is
                none: the request tells that result.
        """
        if found is None:
            return self._has_changed_result
        return found.start.model_call >= 0 and self._begins_at_request(found.start.step)

    def _begin_branch_on_wire(self) -> None:
        try:
            self._begin_branch()
        except Exception as exc:  # a client would take it for a failure of the network
            raise self._stopped(f"step {self.plan.at} cannot be reached: {exc}") from exc

    def _answer(self, exchange: HttpExchange) -> Exchange:
        """Return the recorded answer; at the step, with the changed arguments, and go live."""
        answer = answer_of(exchange)
        is_at = exchange.start.step == self.plan.at and exchange.start.model_call >= 0
        if self.branch is not None or self.plan.change.start != "call" or not is_at:
            return AnsweredExchange(answer)
        if answer.status != 200:
            # The client tries again.
            return AnsweredExchange(answer)
        if self._has_pending_arguments:
            assert self.attempt is not None
            arguments = self.plan.changed(self.attempt.arguments)
            try:
                changed = with_arguments(exchange, answer, self.attempt, arguments)
            except EditError as exc:
                raise self._stopped(str(exc)) from exc
            if changed is not None:
                self._has_pending_arguments = False
                answer = changed
        self._begin_branch_on_wire()
        return AnsweredExchange(answer)

    def _refuse_unheld(self, exchange: HttpExchange) -> None:
        # A tool that nothing holds runs by itself: from the place on, it may.
        is_at = exchange.start.step >= self.plan.at and self.plan.change.start != "after"
        if self.branch is None and not is_at:
            super()._refuse_unheld(exchange)

    def model(self, function: Callable[..., Value], /, *args: Value, **kwargs: Value) -> Value:
        """Return the recorded answer, or ask the model, with the change if there is one."""
        with self._steps.lock:
            call = self._next_model_call()
            if call is not None and self._begins_at_request(call.start.step):
                self._begin_branch()
        if self.live is not None:
            self._n_asked += 1
            return self.live.model(function, *args, **self._edited(kwargs))
        answer = super().model(function, *args, **kwargs)
        is_at = call is not None and call.start.step == self.plan.at
        if self.branch is not None or self.plan.change.start != "call" or not is_at:
            return answer
        if self._has_pending_arguments and call is not None and self.attempt is not None:
            arguments = self.plan.changed(self.attempt.arguments)
            changed = with_arguments_in(call.answer, self.attempt, arguments)
            if changed is not None:
                self._has_pending_arguments = False
                answer = model_answer(dataclasses.replace(call, answer=changed))
        self._begin_branch()
        return answer

    def _edited(self, kwargs: dict[str, Value]) -> dict[str, Value]:
        """Return the arguments of a client's function with the change, if there is one."""
        if self.plan.edit is None:
            return kwargs
        try:
            kwargs = with_edit(kwargs, self.plan.edit)
        except EditError as exc:
            raise self._stopped(str(exc)) from exc
        self._has_edited = True
        return kwargs

    def _next_model_call(self) -> ModelCall | None:
        """Return the recorded model call that comes next."""
        if self.branch is not None:
            return None
        mark = self._steps.mark()
        number = self._steps.next_model_call()[0]
        self._steps.rewind(mark)
        calls = self._requests.model_calls
        return calls[number] if number < len(calls) else None

    # Tool calls.

    def execute(
        self,
        tool: str,
        arguments: JsonObject,
        *,
        call_id: str = "",
        run: Callable[[], Value] | None = None,
    ) -> Value:
        """Return the recorded result of a call, or make the call, with the change if it has one."""
        if run is None and (begun := self._generators.begun(self, tool, arguments, call_id)):
            return begun
        with self._steps.lock:
            if self._begins_at_call(self._next_step(call_id)):
                self._begin_branch()
        if self.live is not None:
            if self._has_pending_arguments and self._is_changed_call(tool, arguments):
                arguments, run = self._with_pending(tool, arguments, run)
            run = self._allowed(tool, arguments, run)
            return self.live.execute(tool, arguments, call_id=call_id, run=run)
        mark = self._steps.mark()
        found = self._take_attempt(tool, arguments, call_id, has_code=run is not None)
        assert isinstance(found, Attempt)
        if self._control is not None:
            if found.start.access == "external" and not self.plan.runs_external:
                self.notes |= self._control.leave_out(found)
                return call_result(found)
            self._control.steps.rewind(mark)
            return self._control.execute(found, tool, arguments, call_id=call_id, run=run)
        if self.plan.is_changed and self.attempt is not None and found.key == self.attempt.key:
            return self._changed_result(found)
        return call_result(found) if run is None or not self._runs(found) else run()

    def open_stream(self, tool: str, arguments: JsonObject, call_id: str = "") -> ToolStream:
        """Return the recorded items of a generator's call, or make the call; see `execute`."""
        with self._steps.lock:
            if self._begins_at_call(self._next_step(call_id)):
                self._begin_branch()
        if self.live is not None:
            return self._open_live(tool, arguments, call_id)
        mark = self._steps.mark()
        found = self._take_attempt(tool, arguments, call_id, has_code=True)
        assert isinstance(found, Attempt)
        if self._control is not None:
            if found.start.access == "external" and not self.plan.runs_external:
                self.notes |= self._control.leave_out(found)
                return AnsweredStream(call_items(found))
            self._control.steps.rewind(mark)
            return self._control.open_stream(found, tool, arguments, call_id=call_id)
        if self.plan.is_changed and self.attempt is not None and found.key == self.attempt.key:
            return AnsweredStream(self._changed_items(found))
        return AnsweredStream(None if self._runs(found) else call_items(found))

    def _open_live(self, tool: str, arguments: JsonObject, call_id: str) -> ToolStream:
        """Begin the live call of a generator, which the agent's program runs itself."""
        assert self.live is not None
        if self._has_pending_arguments and self._is_changed_call(tool, arguments):
            raise self._stopped(
                f"the arguments of {tool}, a generator, cannot be changed: no answer of a model "
                "asks for the call"
            )
        stub = self._allowed(tool, arguments, None)
        if stub is None:
            return self.live.open_stream(tool, arguments, call_id)
        # At once, as one call: the program reads its items.
        items = self.live.execute(
            tool, arguments, call_id=call_id, run=lambda: _items_of(tool, stub())
        )
        return AnsweredStream(RecordedStream(items, None))

    def _changed_items(self, attempt: Attempt) -> RecordedStream:
        """Return the changed items of a generator's call, or one that raises."""
        self._has_changed_result = True
        change = self.plan.change
        if isinstance(change, ToolError):
            self._withheld = frozenset((attempt.key,))
            return RecordedStream([], as_exception(change.error_type, change.message))
        assert isinstance(change, Result)
        if not isinstance(change.result, list):
            raise self._stopped(
                f"{attempt.tool} is a generator: give the list of its items as its result"
            )
        return RecordedStream(change.result, None)

    def _next_step(self, call_id: str) -> int:
        """Return the step of the next call, by the model's id if that tells it."""
        for attempt in self._tools.unused:
            if call_id and attempt.start.call_id == call_id:
                return attempt.start.step
        mark = self._steps.mark()
        position = self._steps.next_call()
        self._steps.rewind(mark)
        return position.step

    def _is_changed_call(self, tool: str, arguments: JsonObject) -> bool:
        """Return whether a live call is the one to change. Calls of a step come in any order."""
        if self.attempt is None:
            return False
        actual = asked_call(tool, arguments)
        return self._tools.is_recorded(call_request(self.attempt), actual)

    def _with_pending(
        self, tool: str, arguments: JsonObject, run: Callable[[], Value] | None
    ) -> tuple[JsonObject, Callable[[], Value] | None]:
        """Put the changed arguments into a call as it is made: no answer of a model asked for it."""
        self._has_pending_arguments = False
        arguments = self.plan.changed(arguments)
        try:
            run = call_with(tool, arguments, run, self._functions)
        except EditError as exc:
            raise self._stopped(str(exc)) from exc
        self.notes["the arguments were changed in the call itself, not in a model's answer"] = None
        return arguments, run

    def _changed_result(self, attempt: Attempt) -> Value:
        """Return the changed result of a call that was made, or raise that of one that was not."""
        self._has_changed_result = True
        change = self.plan.change
        is_async = attempt.end is not None and attempt.end.is_async
        if isinstance(change, ToolError):
            self._withheld = frozenset((attempt.key,))
            return deliver_error(as_exception(change.error_type, change.message), is_async)
        assert isinstance(change, Result)
        return deliver(change.result, is_async)

    def _allowed(
        self, tool: str, arguments: JsonObject, run: Callable[[], Value] | None
    ) -> Callable[[], Value] | None:
        """Return the function to run for a live call of a tool; refuse one that must not run."""
        stub = self.plan.stubs.get(tool)
        if stub is not None:
            self.notes[f"a stub stood in for {tool}"] = None
            return functools.partial(stub, **arguments)
        access = access_of(tool, self._functions, self.world, self.episode)
        if access == "external" and not self.plan.runs_external:
            raise self._stopped(without_leave(tool))
        return run

    def _add_tool(
        self, function: ToolFunction, *, name: str, schema: JsonObject | None, access: Access
    ) -> None:
        super()._add_tool(function, name=name, schema=schema, access=access)
        if self._control is not None:
            self._control.live.tool(function, name=name, schema=schema, access=access)

    def check(self, verifier: Callable[..., Value], *args: Value) -> Verdict:
        """Run a verifier on the live state; a control's verdict must be the recorded one."""
        verdict = super().check(verifier, *args)
        return verdict if self._control is None else self._control.check(verdict, verifier, *args)


def _items_of(tool: str, result: Value) -> list[Value]:
    """Return the items that the stub of a generator gives.

    Raises:
        TypeError: It gives none.
    """
    if isinstance(result, (str, bytes, dict)) or not hasattr(result, "__iter__"):
        raise TypeError(
            f"{tool} is a generator, so its stub must give a list or a sync generator of items, "
            f"got {type(result).__name__}"
        )
    return list(result)
