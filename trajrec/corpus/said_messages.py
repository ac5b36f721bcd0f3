"""The messages of an episode's conversations, each once, though each request repeats all before it.

Messages are compared by their texts, calls and results: clients write a repeated message in another
form, and move marks of caches from one message to the next.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from operator import is_
from typing import Literal, NamedTuple

from trajrec.corpus.call_contents import CONVERSATION, CallContent, alternatives_of, content_of
from trajrec.corpus.model_calls import ModelCall
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.json import to_canonical_json
from trajrec.wire.contents import AnswerContent, Message, ToolCall

REMEMBERED = 64
"""Requests that a new one is compared with: so many conversations may take turns."""

# Requests that a new one is searched for message by message, if it begins like none.
_SEARCHED = 4

Origin = Literal["request", "answer"]


class SaidMessage(NamedTuple):
    """A message of a conversation with a model, said once.

    Attributes:
        number: Its number among the messages of the episode, from 0.
        model_call: The number of the first model call that has it; None if it is behind the last.
        step: The step of that call; of no call, the step that would be next.
        role: "system", "user", "assistant" or "tool"; another one stands as it is.
        origin: "answer" if the model said it in this episode, else "request".
        tool: Of a result, the name of the tool; None if it is unknown.
        call_ids: The ids of the tool calls that it asks for; of a result, the one that it answers.
        digest: BLAKE2b-128 of `value` as JSON with sorted keys, 32 hex digits.
        text: Its whole text, without images, reasoning and tool calls.
        value: The message as the dialect writes it.
    """

    number: int
    model_call: int | None
    step: int
    role: str
    origin: Origin
    tool: str | None
    call_ids: list[str]
    digest: str
    text: str
    value: Value


def said_messages(
    calls: Sequence[ModelCall], rest: Sequence[Value] = (), end_step: int = 0
) -> list[SaidMessage]:
    """Return the messages of some model calls, each at the first call that has it.

    A system prompt counts once for each text. Inputs of embeddings are no messages.

    Args:
        calls: The model calls of an episode, in order.
        rest: The messages behind the last call, which an imported record may have.
        end_step: The number behind the last step, for these.
    """
    reader = _Reader()
    for call in calls:
        reader.add(call)
    reader.add_rest(rest, end_step)
    return reader.said


class _Read(NamedTuple):
    """A message that was read.

    Attributes:
        key: A number: equal for messages that say the same.
    """

    key: int
    message: Message
    value: Value


class _Request(NamedTuple):
    """A request that later ones are compared with.

    Attributes:
        keys: The keys of its messages, without the system prompts at its beginning.
        continues: The earlier answer that it continues.
        is_answered: Whether a whole answer came.
    """

    keys: list[int]
    continues: str | None
    is_answered: bool


class _Reader:
    """Takes in model calls one by one."""

    def __init__(self) -> None:
        self.said: list[SaidMessage] = []
        self._keys: dict[object, int] = {}
        # By the id of the value, which is kept alive: requests share the objects of their messages.
        self._read: dict[int, tuple[Value, _Read]] = {}
        # The messages of the request before, and what was read of them.
        self._before: tuple[Sequence[Value], list[_Read]] = ((), [])
        self._last: list[_Request] = []
        self._systems: set[str] = set()
        self._asked: set[object] = set()
        self._answers: set[str] = set()
        self._tools: dict[str, str] = {}
        # Where messages are said.
        self._model_call: int | None = None
        self._step = 0

    def add(self, call: ModelCall) -> None:
        """Add the messages of a call that no earlier one has."""
        self._model_call = call.start.number
        self._step = call.start.step
        content = content_of(call)
        if content.dialect == "embeddings":
            return
        if content.system is not None and content.system not in self._systems:
            self._systems.add(content.system)
            self._say("request", Message("system", content.system), content.system)
        messages = self._messages(content)
        n_systems = sum(1 for _ in takewhile(lambda m: m.message.role == "system", messages))
        for read in messages[:n_systems]:
            if read.message.text not in self._systems:
                self._systems.add(read.message.text)
                self._say("request", read.message, read.value)
        rest = messages[n_systems:]
        for index in self._new(rest, content):
            if not self._is_answer(rest[index].message):
                self._add_new(rest[index])
        if content.answer is not None:
            self._add_answer(call, content)

    def add_rest(self, messages: Sequence[Value], end_step: int) -> None:
        """Add messages behind the last call, but those that repeat an answer."""
        self._model_call = None
        self._step = end_step
        content = CallContent("", messages, None, None, None)
        for message in messages:
            read = self._message(content, message)
            if not self._is_answer(read.message):
                self._add_new(read)

    def _messages(self, content: CallContent) -> list[_Read]:
        """Return the messages of a request, those of the request before without another look."""
        values = content.messages
        before, known = self._before
        # Compared in C: of 1,000 requests that repeat each other, a look at each message of each
        # takes half a second.
        is_longer = len(before) <= len(values) and all(map(is_, before, values))
        new = values[len(before) :] if is_longer else values
        read = [*known] if is_longer else []
        # Prompts may be numbers of tokens.
        read += [self._message(content, v) for v in new if isinstance(v, (str, dict, Plain))]
        self._before = (values, read)
        return read

    def _message(self, content: CallContent, value: Value) -> _Read:
        known = self._read.get(id(value))
        if known is not None:
            return known[1]
        message, as_json = content.message(value)
        key: object = (
            message.role,
            message.text,
            tuple(map(_key_of_call, message.calls)),
            tuple((result.call_id, result.name, result.said) for result in message.results),
        )
        if not (message.text or message.calls or message.results):
            # Images, or reasoning: only the bytes tell them apart.
            key = (message.role, to_canonical_json(as_json))
        read = _Read(self._keys.setdefault(key, len(self._keys)), message, as_json)
        self._read[id(value)] = (value, read)
        return read

    def _new(self, messages: list[_Read], content: CallContent) -> Iterator[int]:
        """Return the places of the messages that earlier requests do not have, and remember these."""
        keys = [read.key for read in messages]
        is_answered = _is_whole(content.answer)
        best: _Request | None = None
        n_same = 0
        for earlier in reversed(self._last):
            if _may_repeat(earlier, content):
                n = _n_common(earlier.keys, keys)
                if n > n_same:
                    best = earlier
                    n_same = n
        is_longer = best is not None and n_same == len(best.keys)
        if is_longer:
            self._last = [earlier for earlier in self._last if earlier is not best]
        elif content.continues is None:
            return self._search(messages, best, n_same, is_answered=is_answered)
        self._remember(_Request(keys, content.continues, is_answered))
        return iter(range(n_same, len(keys)))

    def _search(
        self, messages: list[_Read], best: _Request | None, n_same: int, *, is_answered: bool
    ) -> Iterator[int]:
        """Return the same for a request that leaves out messages of those before it."""
        keys = [read.key for read in messages]
        candidates = [best] if best is not None else self._last[-_SEARCHED:]
        known: set[int] = set()
        for earlier in candidates:
            found = _in_order(keys, earlier.keys, n_same)
            # Behind an answer that the earlier request has not, all is of another branch: samples
            # of one prompt may be told the same.
            answers = (i for i in range(n_same, len(keys)) if self._is_answer(messages[i].message))
            branch = next((index for index in answers if index not in found), len(keys))
            found = {index for index in found if index < branch}
            # A few equal messages may be chance, if not even the first one is the same.
            if len(found) > len(known) and (best is not None or 2 * len(found) >= len(keys)):
                known = found
        self._remember(_Request(keys, None, is_answered))
        return (index for index in range(n_same, len(keys)) if index not in known)

    def _remember(self, request: _Request) -> None:
        self._last = [*self._last[1 - REMEMBERED :], request]

    def _is_answer(self, message: Message) -> bool:
        """Return whether a message of a request repeats an answer, in whole or in part."""
        if message.role != "assistant":
            return False
        if message.calls:
            return self._asked.issuperset(map(_key_of_call, message.calls))
        return not message.text.strip() or message.text.strip() in self._answers

    def _add_new(self, read: _Read) -> None:
        message = read.message
        results = message.results
        for result in results:
            value = read.value if len(results) == 1 and message.role == "tool" else result.content
            self._say(
                "request",
                Message("tool", result.text),
                value,
                tool=result.name or self._tools.get(result.call_id or ""),
                answers=result.call_id,
            )
        if message.role == "tool" and results:
            return
        if message.text or message.calls or not results:
            self._say("request", message, read.value)

    def _add_answer(self, call: ModelCall, content: CallContent) -> None:
        answer = content.answer
        assert answer is not None
        others = alternatives_of(content)
        calls = tuple(asked for asked in answer.calls if not asked.choice)
        if answer.text is None and not calls and not others:
            return
        said = [(Message("assistant", answer.text or "", calls), content.answered())]
        if others:
            said = [others[number][:2] for number in call.taken or (0,)]
        for message, value in said:
            self._asked.update(map(_key_of_call, message.calls))
            self._answers.add(message.text.strip())
            # A client may repeat the items of an answer one by one.
            items = value if type(value) is list else []
            texts = (content.message(item)[0].text.strip() for item in items if type(item) is dict)
            self._answers.update(texts)
            self._say("answer", message, value)

    def _say(
        self,
        origin: Origin,
        message: Message,
        value: Value,
        *,
        tool: str | None = None,
        answers: str | None = None,
    ) -> None:
        ids = [asked.call_id for asked in message.calls if asked.call_id]
        for asked in message.calls:
            if asked.call_id and asked.name:
                self._tools[asked.call_id] = asked.name
        self.said.append(
            SaidMessage(
                number=len(self.said),
                model_call=self._model_call,
                step=self._step,
                role=message.role,
                origin=origin,
                tool=tool,
                call_ids=ids if answers is None else [answers],
                digest=codec.digest_bytes(to_canonical_json(value).encode()),
                text=message.text,
                value=value,
            )
        )


def _is_whole(answer: AnswerContent | None) -> bool:
    return answer is not None and answer.error is None and answer.is_complete is not False


def _key_of_call(call: ToolCall) -> object:
    return call.call_id or (call.name, to_canonical_json(call.arguments))


def _may_repeat(earlier: _Request, content: CallContent) -> bool:
    """Return whether a request may have the messages of an earlier one.

    One that names the answer that it continues has only new messages, unless another one that
    continues the same answer has them. In a conversation that the server keeps, only a retry has.
    """
    if earlier.continues != content.continues:
        return False
    return content.continues != CONVERSATION or not earlier.is_answered


def _n_common(a: list[int], b: list[int]) -> int:
    """Return the number of items that two lists have in common at the start."""
    n = min(len(a), len(b))
    # Nearly always one continues the other: compared in C.
    if a[:n] == b[:n]:
        return n
    return next(index for index in range(n) if a[index] != b[index])


def _in_order(keys: list[int], earlier: list[int], first: int) -> set[int]:
    """Return the places of keys, from a first one on, that stand in an earlier list in this order."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, key in enumerate(earlier[first:]):
        places[key].append(place)
    found = set()
    after = 0
    for index in range(first, len(keys)):
        options = places.get(keys[index], [])
        option = bisect_left(options, after)
        if option < len(options):
            found.add(index)
            after = options[option] + 1
    return found
