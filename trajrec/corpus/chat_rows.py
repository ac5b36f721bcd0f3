"""The messages of one conversation, as rows in the form of the API of chats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trajrec.corpus.untold_parts import has_untold, has_untold_result
from trajrec.types import JsonObject, Value
from trajrec.values.json import to_canonical_json, to_json
from trajrec.wire.contents import Message, OfferedTool, ToolCall
from trajrec.wire.sampled_tokens import SampledTokens


class Talk:
    """The messages of a conversation.

    Attributes:
        unfinished: The numbers of the answers that the model did not end.
        sampled: The tokens of each answer, None if they are not known.
        keys: A key of each message of the request.
        answer_key: The key of the answer: a request that goes on from it has it next.
    """

    def __init__(self) -> None:
        self.messages: list[JsonObject] = []
        self.answers: list[int] = []
        self.omitted: list[int] = []
        self.unfinished: list[int] = []
        self.sampled: list[SampledTokens | None] = []
        self.tools: list[JsonObject] = []
        self.keys: list[str] = []
        self.answer_key = ""

    def add(
        self,
        message: Message,
        *,
        is_partial: bool,
        is_answer: bool = False,
        is_unfinished: bool = False,
        sampled: SampledTokens | None = None,
    ) -> None:
        """Add a message, as several if it has results of tools.

        Args:
            message: The message.
            is_partial: Whether it has images, files or reasoning too.
            is_answer: Whether the model said it in this episode.
            is_unfinished: Whether it is an answer that the model did not end.
            sampled: The tokens of an answer, None if they are not known.
        """
        self._add(message, is_answer=is_answer)
        if len(self.answers) > len(self.sampled):
            self.sampled.append(sampled)
        if is_unfinished:
            self.unfinished.append(self.answers[-1])
        last = len(self.messages) - 1
        # One of a tool is nothing but its results.
        if is_partial and message.role != "tool" and self.omitted[-1:] != [last]:
            self.omitted.append(last)

    def _add(self, message: Message, *, is_answer: bool) -> None:
        for result in message.results:
            if has_untold_result(result):
                self.omitted.append(len(self.messages))
            self.messages.append(
                {
                    "role": "tool",
                    "content": result.text,
                    "tool_call_id": result.call_id,
                    "name": result.name or self._tool_of(result.call_id),
                }
            )
        if message.results and not (message.text and message.role != "tool"):
            return
        if is_answer:
            self.answers.append(len(self.messages))
        row: JsonObject = {"role": message.role or "user", "content": message.text}
        if message.calls:
            row["tool_calls"] = [_call(call) for call in message.calls]
        self.messages.append(row)

    def _tool_of(self, call_id: str | None) -> str | None:
        """Return the tool of an earlier call by its id."""
        for message in reversed(self.messages):
            for call in message.get("tool_calls", ()):
                if call_id is not None and call["id"] == call_id:
                    return str(call["function"]["name"])
        return None


def _call(call: ToolCall) -> JsonObject:
    """Return a call as the chat API writes it, with arguments as JSON text.

    A text stands as it was written: other spaces are other tokens, which the model did not say.
    """
    arguments = call.text
    if arguments is None or not arguments.strip():
        arguments = call.arguments if call.is_malformed else to_json(call.arguments)
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def tool_row(tool: OfferedTool) -> JsonObject:
    """Return a tool on offer as the chat API writes it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": tool.schema or {},
        },
    }


def key_of(message: Message) -> str:
    """Return a text that is equal for messages that say the same."""
    calls = [[call.call_id, call.name, call.arguments] for call in message.calls]
    results = [[result.call_id, result.said] for result in message.results]
    return to_canonical_json([message.role, message.text, calls, results])


def turns_of(read: Sequence[tuple[Message, Value]]) -> Iterator[tuple[Message, bool]]:
    """Yield messages, each with whether it has images, files or reasoning too.

    Those of an assistant that follow each other are one: some dialects write the text, the calls and
    the reasoning of an answer as items of their own.
    """
    turn: list[tuple[Message, bool]] = []
    for message, value in read:
        is_partial = has_untold(value)
        if message.role == "assistant":
            turn.append((message, is_partial))
            continue
        if turn:
            yield _joined(turn)
        turn = []
        yield message, is_partial
    if turn:
        yield _joined(turn)


def _joined(turn: Sequence[tuple[Message, bool]]) -> tuple[Message, bool]:
    if len(turn) == 1:
        return turn[0]
    text = "".join(message.text for message, _ in turn)
    calls = tuple(call for message, _ in turn for call in message.calls)
    return Message("assistant", text, calls), any(is_partial for _, is_partial in turn)
