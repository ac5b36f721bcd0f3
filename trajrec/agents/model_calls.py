"""Model calls: request and answer whole, sync and async, streamed or not."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

from trajrec.agents.conversation import Conversation
from trajrec.agents.counters import Steps
from trajrec.agents.journal import Journal
from trajrec.agents.streams import record_stream
from trajrec.log.events import ModelEnd, ModelStart


class Models:
    """Records the model calls of one episode."""

    def __init__(self, journal: Journal, steps: Steps) -> None:
        self._journal, self._steps = journal, steps
        self._conversation = Conversation()

    def execute(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a model as it would have been called; return or raise what it does."""
        number = self._begin(function, args, kwargs)
        try:
            answer = function(*args, **kwargs)
        except BaseException as exc:
            self._raised(number, exc)
            raise
        if inspect.isawaitable(answer):
            return self._awaited(number, answer)
        return self._answered(number, answer)

    def _begin(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> int:
        journal = self._journal
        messages = kwargs.get("messages")
        if not isinstance(messages, (list, tuple)):
            messages = ()
        request = {
            key: journal.refer(value)
            for key, value in kwargs.items()
            if key != "messages" or value is not messages
        }
        with self._steps.lock:
            number, attempt, by = self._steps.place_model()
            base, kept, new, is_redacted = self._conversation.add(number, messages, journal.encode)
            data, was_redacted = journal.encode({"args": list(args), "kwargs": request})
            journal.add(
                ModelStart(
                    episode=journal.number,
                    step=self._steps.step,
                    number=number,
                    time_ns=time.time_ns(),
                    function=_name(function),
                    request_data=data,
                    base=base,
                    kept=kept,
                    messages=new,
                    attempt=attempt,
                    retry_by=by,
                    is_redacted=is_redacted or was_redacted,
                ),
                len(data) + sum(map(len, new)),
            )
        return number

    async def _awaited(self, number: int, answer: Any) -> Any:
        try:
            found = await answer
        except BaseException as exc:
            self._raised(number, exc, is_async=True)
            raise
        return self._answered(number, found, is_async=True)

    def _answered(self, number: int, answer: Any, *, is_async: bool = False) -> Any:
        def ended(value: Any, exc: BaseException | None, is_streamed: bool) -> None:
            journal = self._journal
            data, is_redacted = journal.encode(value)
            error_type, message, text = ("", "", "") if exc is None else journal.describe(exc)
            end = ModelEnd(
                episode=journal.number,
                number=number,
                time_ns=time.time_ns(),
                outcome=_outcome(exc),
                answer_data=data,
                is_streamed=is_streamed,
                error_type=error_type,
                message=message,
                traceback=text,
                is_redacted=is_redacted,
                is_async=is_async,
            )
            journal.add(end, len(data))

        return record_stream(answer, ended)

    def _raised(self, number: int, exc: BaseException, *, is_async: bool = False) -> None:
        journal = self._journal
        error_type, message, text = journal.describe(exc)
        journal.add(
            ModelEnd(
                episode=journal.number,
                number=number,
                time_ns=time.time_ns(),
                outcome=_outcome(exc),
                answer_data=None,
                error_type=error_type,
                message=message,
                traceback=text,
                is_async=is_async,
            )
        )
        journal.flush()


def _outcome(exc: BaseException | None) -> Any:
    return "ok" if exc is None else "error" if isinstance(exc, Exception) else "cancelled"


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__qualname__)}"
