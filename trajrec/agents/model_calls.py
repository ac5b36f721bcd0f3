"""Model calls: each request and answer is recorded whole, sync and async, streamed or not."""

from __future__ import annotations

import contextlib
import copy
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Literal

from trajrec.agents.awaitables import of_same_kind
from trajrec.agents.conversation import Conversation
from trajrec.agents.counters import StepCounter
from trajrec.agents.journal import Journal
from trajrec.agents.state_recorder import StateRecorder
from trajrec.agents.streams import Stream, is_stream
from trajrec.log.events import AnswerPart, ModelEnd, ModelStart
from trajrec.log.open_ends import open_data
from trajrec.module_names import module_name
from trajrec.recording.error_text import NO_ERROR
from trajrec.redaction.streams import StreamRedactor, join_pieces
from trajrec.types import JsonObject, Value

# The journal and the number of the model call that runs. Its HTTP exchanges belong to it.
_ENCLOSING: ContextVar[tuple[Journal, int] | None] = ContextVar("trajrec_model", default=None)


def enclosing_model_call(journal: Journal) -> int | None:
    """Return the number of the call by `ep.model` that this task or thread is in, if any."""
    enclosing = _ENCLOSING.get()
    return None if enclosing is None or enclosing[0] is not journal else enclosing[1]


class ModelCallRecorder:
    """Records the model calls of one episode.

    Args:
        journal: The episode's journal.
        steps: The episode's counter.
        states: Compares the watched state before each call.

    Attributes:
        n_calls: Number of the calls that have begun.
    """

    def __init__(self, journal: Journal, steps: StepCounter, states: StateRecorder) -> None:
        self._journal = journal
        self._states = states
        self._steps = steps
        self._conversation = Conversation()
        self.n_calls = 0
        self._open: dict[int, _OpenStream] = {}

    def execute(
        self, function: Callable[..., Value], args: tuple[Value, ...], kwargs: JsonObject
    ) -> Value:
        """Call a model, and return its answer or raise its exception."""
        number = self._begin(function, args, kwargs)
        try:
            with self._enclosing(number):
                answer = function(*args, **kwargs)
        except BaseException as exc:
            self._add_exception(number, exc)
            raise
        if inspect.isawaitable(answer):
            return of_same_kind(answer, self._await(number, answer))
        return self._record_answer(number, answer)

    def _begin(
        self, function: Callable[..., Value], args: tuple[Value, ...], kwargs: JsonObject
    ) -> int:
        """Record a request; return the number of the model call."""
        journal = self._journal
        messages = kwargs.get("messages")
        if not isinstance(messages, (list, tuple)):
            messages = ()
        # Argument by argument: the list of tools is large and the same in each call, so it is
        # stored once.
        request = {
            key: journal.refer(value)
            for key, value in kwargs.items()
            if key != "messages" or value is not messages
        }
        # Under the lock, because a request refers to the messages of the call before it.
        with self._steps.lock:
            self._states.prepare_model_call()
            number, attempt, by = self._steps.next_model_call()
            new = self._conversation.compare(number, messages, journal.encode)
            data, was_redacted = journal.encode({"args": list(args), "kwargs": request})
            journal.add(
                ModelStart(
                    episode=journal.number,
                    step=self._steps.step,
                    number=number,
                    time_ns=time.time_ns(),
                    function=_full_name(function),
                    request_data=data,
                    base=new.base,
                    kept=new.n_common,
                    messages=new.encoded,
                    attempt=attempt,
                    retry_by=by,
                    is_redacted=new.is_redacted or was_redacted,
                ),
                len(data) + sum(map(len, new.encoded)),
            )
            # Not before: a later request must not refer to one that an exception has kept out.
            self._conversation.add(new)
            self.n_calls += 1
        return number

    async def _await(self, number: int, answer: Awaitable[Value]) -> Value:
        try:
            with self._enclosing(number):
                value = await answer
        except BaseException as exc:
            self._add_exception(number, exc, is_async=True)
            raise
        return self._record_answer(number, value, is_async=True)

    @contextlib.contextmanager
    def _enclosing(self, number: int) -> Iterator[None]:
        token = _ENCLOSING.set((self._journal, number))
        try:
            yield
        finally:
            # A coroutine that is dropped is closed in another context, which has no such token.
            with contextlib.suppress(ValueError):
                _ENCLOSING.reset(token)

    def _record_answer(self, number: int, answer: Value, *, is_async: bool = False) -> Value:
        """Return an answer, which is recorded at once or, if it is a stream, while it is read."""
        if is_stream(answer):
            return self._record_stream(number, answer, is_async=is_async)
        data, is_redacted = self._journal.encode(answer)
        self._add_end(number, data, is_redacted=is_redacted, is_async=is_async)
        return answer

    def _record_stream(self, number: int, answer: Value, *, is_async: bool) -> Stream:
        """Return a stream whose pieces are recorded as far as no secret can begin in them."""
        journal = self._journal
        redactor = StreamRedactor(journal.redactor)
        stream = self._open[number] = _OpenStream(redactor, is_async=is_async)

        is_broken = False

        def add_piece(piece: Value) -> None:
            nonlocal is_broken
            if is_broken or (stream.was_left and journal.is_closed):
                return
            try:
                pieces = redactor.add(piece)
                if pieces:
                    data = join_pieces(pieces)
                    part = AnswerPart(journal.number, number, time.time_ns(), data)
                    journal.add(part, len(data))
            except BaseException:
                # Pieces are perhaps lost here. An answer with a gap would pass for a whole one, so
                # nothing follows those that are recorded, and the call counts as cancelled.
                is_broken = True
                raise

        def add_end(exc: BaseException | None) -> None:
            self._open.pop(number, None)
            if stream.was_left and journal.is_closed:
                # Its record says that it was open when the episode ended.
                return
            rest = [] if is_broken else redactor.finish()
            self._add_end(
                number,
                journal.store(join_pieces(rest)),
                _BrokenOffError() if is_broken else exc,
                is_redacted=redactor.n_secrets > 0,
                is_streamed=True,
                is_async=is_async,
            )

        return Stream(answer, add_piece, add_end)

    def leave_open(self) -> None:
        """Record of each stream that has no end what came of it, at the end of the episode."""
        own = self._journal.redactor
        for number, stream in list(self._open.items()):
            # A copy: the stream may be read on, and a secret may be cut here.
            redactor = copy.deepcopy(stream.redactor, {id(own): own})
            end = ModelEnd(
                episode=self._journal.number,
                number=number,
                time_ns=time.time_ns(),
                # For readers that do not know of provisional ends.
                outcome="cancelled",
                answer_data=self._journal.store(join_pieces(redactor.finish())),
                is_streamed=True,
                is_redacted=redactor.n_secrets > 0,
                is_async=stream.is_async,
                extra_data=open_data(),
            )
            self._journal.add(end)
            stream.was_left = True

    def _add_end(
        self,
        number: int,
        data: bytes | None,
        exc: BaseException | None = None,
        *,
        is_redacted: bool = False,
        is_streamed: bool = False,
        is_async: bool,
    ) -> None:
        """Add the end of a model call: the encoded answer, or an exception, or both of a stream."""
        error = NO_ERROR if exc is None else self._journal.describe(exc)
        end = ModelEnd(
            episode=self._journal.number,
            number=number,
            time_ns=time.time_ns(),
            outcome=_outcome(exc),
            answer_data=data,
            is_streamed=is_streamed,
            error_type=error.error_type,
            message=error.message,
            traceback=error.traceback,
            is_redacted=is_redacted or error.is_redacted,
            is_async=is_async,
        )
        self._journal.add(end, len(error.traceback) + (0 if data is None else len(data)))

    def _add_exception(self, number: int, exc: BaseException, *, is_async: bool = False) -> None:
        self._add_end(number, None, exc, is_async=is_async)


class _OpenStream:
    """A streamed answer that has not ended.

    Args:
        redactor: Has the pieces that are held back.
        is_async: Whether the answer was awaited.

    Attributes:
        was_left: Whether the episode ended before the stream did.
    """

    def __init__(self, redactor: StreamRedactor, *, is_async: bool) -> None:
        self.redactor = redactor
        self.is_async = is_async
        self.was_left = False


class _BrokenOffError(BaseException):
    """An exception has broken off the record of an answer, so that its later pieces are missing."""

    def __str__(self) -> str:
        return str(self.__doc__)


def _outcome(exc: BaseException | None) -> Literal["ok", "error", "cancelled"]:
    if exc is None:
        return "ok"
    return "error" if isinstance(exc, Exception) else "cancelled"


def _full_name(function: Callable[..., Value]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{module_name(function)}:{name}"
