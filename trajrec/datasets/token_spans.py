"""The tokens of a conversation that a model said: the ones that a trainer learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from trajrec.types import JsonObject


class ChatTokenizer(Protocol):
    """A tokenizer with a chat template, as those of transformers."""

    def apply_chat_template(self, conversation: list[JsonObject], **options: Any) -> Any:
        """Return the tokens of messages."""
        ...

    def decode(self, tokens: Any) -> Any:
        """Return the text of tokens."""
        ...


def token_spans(
    messages: Sequence[JsonObject],
    answers: Sequence[int],
    tokenizer: ChatTokenizer,
    *,
    tools: Sequence[JsonObject] = (),
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the tokens of messages, and the half-open span of each answer in them.

    A span begins behind the tokens that prompt the model, and ends with those that end its turn. The
    model did not say these last ones of an answer in `Conversation.unfinished`.

    Args:
        messages: The messages.
        answers: The numbers of those that the model said, ascending.
        tokenizer: Has the chat template.
        tools: The tools on offer, which some templates write into the prompt.

    Raises:
        ValueError: The template changes a message when others follow it, or the tokens of a span do
            not say its text: no span would be right.
    """

    def tokens_of(part: Sequence[JsonObject], *, is_prompt: bool) -> list[int]:
        given = {"tools": list(tools)} if tools else {}
        tokens = tokenizer.apply_chat_template(
            list(part), tokenize=True, add_generation_prompt=is_prompt, return_dict=False, **given
        )
        return [int(token) for token in tokens]

    whole = tokens_of(messages, is_prompt=False)
    spans = []
    for number in answers:
        prompt = tokens_of(messages[:number], is_prompt=True)
        told = tokens_of(messages[: number + 1], is_prompt=False)
        if whole[: len(told)] != told or told[: len(prompt)] != prompt:
            raise ValueError(
                f"message {number}: the chat template writes it otherwise when other messages "
                "follow, so that its tokens in the conversation are not those of the answer"
            )
        text = str(tokenizer.decode(whole[len(prompt) : len(told)]))
        if (messages[number]["content"] or "").strip() not in text:
            raise ValueError(f"message {number}: the tokens of its span do not say its text")
        spans.append((len(prompt), len(told)))
    return whole, spans
