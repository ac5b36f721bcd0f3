"""The tokens of an answer, and their log-probabilities, as its server tells them.

Sources:
    https://platform.openai.com/docs/api-reference/chat
    https://docs.vllm.ai/en/latest/serving/openai_compatible_server
    https://ai.google.dev/api/generate-content
    https://docs.ollama.com/api
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from trajrec.types import JsonObject, Value
from trajrec.wire.json_bodies import as_count, as_dict, as_list, as_text, dicts_in, first_of

# vLLM writes ids in place of texts if it is asked for `return_tokens_as_token_ids`.
_ID_PREFIX = "token_id:"

# Servers give this in place of a log-probability that they do not tell.
_NOT_TOLD = -9999.0

_IDS = "token_ids"
_PROMPT_IDS = "prompt_token_ids"


class SampledTokens(msgspec.Struct, kw_only=True, frozen=True):
    """The tokens of an answer as its server sampled them. None stands for what it did not tell.

    Attributes:
        ids: The ids of the tokens in the model's vocabulary.
        texts: The texts of the tokens. A token that is a part of a letter has no exact text.
        logprobs: The log-probability of each token, in nats; None for one that is not told.
        prompt_ids: The ids of the tokens that the model had read before.
        is_whole: Whether these are as many tokens as the server counts for the answer. OpenAI's API
            leaves out those of tool calls and of reasoning.
    """

    ids: list[int] | None = None
    texts: list[str] | None = None
    logprobs: list[float | None] | None = None
    prompt_ids: list[int] | None = None
    is_whole: bool | None = None


class _Token(NamedTuple):
    """What a server tells of one token."""

    id: int | None
    text: str | None
    logprob: float | None


def sampled_tokens(answer: Value, choice: int, n_output: int | None) -> SampledTokens | None:
    """Return the tokens of one alternative of an answer; None if the server tells none.

    Args:
        answer: The whole answer, as JSON values.
        choice: The number of the alternative.
        n_output: The tokens of all alternatives by the server's count, None if it gives none.

    >>> told = {"content": [{"token": "Hi", "logprob": -0.25}]}
    >>> sampled_tokens({"choices": [{"logprobs": told}]}, 0, 1)
    SampledTokens(ids=None, texts=['Hi'], logprobs=[-0.25], prompt_ids=None, is_whole=True)
    """
    told = _told(as_dict(answer))
    if choice >= len(told) or told[choice] == SampledTokens():
        return None
    found = told[choice]
    counts = [_count(one) for one in told]
    if n_output is None or None in counts:
        return found
    is_whole = n_output == sum(filter(None, counts))
    return msgspec.structs.replace(found, is_whole=is_whole)


def _told(answer: JsonObject) -> list[SampledTokens]:
    """Return what an answer tells of the tokens of each of its alternatives."""
    if "choices" in answer:
        return [_of_choice(choice, answer) for choice in dicts_in(answer["choices"])]
    if "candidates" in answer:
        return [_of_candidate(candidate) for candidate in dicts_in(answer["candidates"])]
    if "output" in answer:
        items = dicts_in(answer["output"])
        parts = [part for item in items for part in dicts_in(item.get("content"))]
        return [_of_tokens([token for part in parts for token in _listed(part.get("logprobs"))])]
    return [_of_tokens(_listed(answer.get("logprobs")))]


def _of_choice(choice: JsonObject, answer: JsonObject) -> SampledTokens:
    """Return the tokens of an alternative of a chat completion, or of one without a chat."""
    message = as_dict(choice.get("message"))
    told = as_dict(choice.get("logprobs"))
    tokens = _listed(first_of(told, "content", "refusal"))
    if "token_logprobs" in told:
        tokens = _of_columns(as_list(told.get("tokens")), as_list(told.get("token_logprobs")))
    found = _of_tokens(tokens)
    prompt_ids = first_of({**answer, **message, **choice}, _PROMPT_IDS)
    found = msgspec.structs.replace(found, prompt_ids=_ids(prompt_ids))
    ids = _ids(first_of({**message, **choice}, _IDS))
    if ids is None:
        return found
    if len(ids) != len(tokens):
        # Which log-probability belongs to which id is not known.
        return SampledTokens(ids=ids, prompt_ids=found.prompt_ids)
    return msgspec.structs.replace(found, ids=ids)


def _of_candidate(candidate: JsonObject) -> SampledTokens:
    """Return the tokens of an alternative of Gemini."""
    result = as_dict(first_of(candidate, "logprobsResult", "logprobs_result"))
    chosen = dicts_in(first_of(result, "chosenCandidates", "chosen_candidates"))
    return _of_tokens(
        [
            _Token(
                as_count(first_of(one, "tokenId", "token_id")),
                as_text(one.get("token")),
                _logprob(first_of(one, "logProbability", "log_probability")),
            )
            for one in chosen
        ]
    )


def _listed(tokens: Value) -> list[_Token]:
    """Return tokens that stand with their log-probability, one by one."""
    return [_token(one.get("token"), one.get("logprob")) for one in dicts_in(tokens)]


def _of_columns(texts: list[Value], logprobs: list[Value]) -> list[_Token]:
    """Return the tokens of a completion without a chat: texts and numbers stand apart."""
    # The first token of a text has none, so the answer repeats its prompt.
    if len(texts) != len(logprobs) or logprobs[:1] == [None]:
        return []
    return [_token(text, number) for text, number in zip(texts, logprobs, strict=True)]


def _token(text: Value, logprob: Value) -> _Token:
    said = as_text(text)
    if said is not None and said.startswith(_ID_PREFIX):
        number = said.removeprefix(_ID_PREFIX)
        if number.isascii() and number.isdigit() and len(number) < 12:
            return _Token(int(number), None, _logprob(logprob))
    return _Token(None, said, _logprob(logprob))


def _of_tokens(tokens: Sequence[_Token]) -> SampledTokens:
    if not tokens:
        return SampledTokens()
    ids = [token.id for token in tokens if token.id is not None]
    texts = [token.text for token in tokens if token.text is not None]
    logprobs = [token.logprob for token in tokens]
    if not ids and not texts:
        # Without their secrets, for instance. Nobody knows what was so likely.
        return SampledTokens()
    return SampledTokens(
        ids=ids if len(ids) == len(tokens) else None,
        texts=texts if len(texts) == len(tokens) else None,
        logprobs=None if set(logprobs) == {None} else logprobs,
    )


def _logprob(value: Value) -> float | None:
    is_told = type(value) in (int, float) and math.isfinite(value) and value != _NOT_TOLD
    return float(value) if is_told else None


def _ids(value: Value) -> list[int] | None:
    numbers = as_list(value)
    found = [number for number in map(as_count, numbers) if number is not None]
    return found if found and len(found) == len(numbers) else None


def _count(tokens: SampledTokens) -> int | None:
    """Return how many tokens are told, None if there are none."""
    columns = [tokens.ids, tokens.texts, tokens.logprobs]
    return next((len(column) for column in columns if column is not None), None)
