"""Tokens of texts of models: beside a text without its secret, they would still spell the secret.

A server may tell the tokens of an answer, and of the messages before it: their ids, texts and bytes.
Where a secret was taken out of the text, these go too; the log-probabilities stay.
"""

from __future__ import annotations

import re

from trajrec.types import Value
from trajrec.values.codec import Plain

_PROMPT_IDS = "prompt_token_ids"

# Lists of ids.
_IDS = frozenset(
    (_PROMPT_IDS, "token_ids", "completion_token_ids", "generation_token_ids", "response_token_ids")
)

# A dict with one of these tells one token, or lists of them.
_NUMBERS = frozenset(("logprob", "logProbability", "log_probability", "token_logprobs"))

# What such a dict tells of the token beside its number.
_NAMES = frozenset(
    ("token", "tokens", "tokenId", "token_id", "bytes", "top_logprobs", "text_offset")
)

_HINT = re.compile(rb'"(?:logprobs|logprobsResult|[a-z_]*token_ids)"')

_LIST = rb"\[[\s0-9,]*\]"
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_IN_JSON = re.compile(
    rb'"(?P<name>[a-z_]*token_ids|bytes)"\s*:\s*' + _LIST + rb"|"
    rb'"(?P<id>tokenId|token_id)"\s*:\s*[0-9]+|'
    rb'"(?P<text>token)"\s*:\s*' + _TEXT + rb"|"
    rb'"(?P<texts>tokens)"\s*:\s*\[(?:' + _TEXT + rb"[\s,]*)*\]",
    re.DOTALL,
)
_PROMPT_IN_JSON = re.compile(rb'"(?P<name>prompt_token_ids)"\s*:\s*' + _LIST)


def without_tokens(value: Value) -> Value:
    """Return decoded plain data without tokens.

    >>> without_tokens({"logprobs": [{"token": "sk", "logprob": -0.5}], "token_ids": [7]})
    {'logprobs': [{'token': None, 'logprob': -0.5}], 'token_ids': None}
    """
    if isinstance(value, Plain):
        return Plain(value.type_name, value.kind, without_tokens(value.fields))
    if type(value) is dict:
        hidden = _NAMES if not _NUMBERS.isdisjoint(filter(_is_text, value)) else frozenset()
        return {
            key: None
            if key in hidden or (key in _IDS and isinstance(item, (list, tuple)))
            else without_tokens(item)
            for key, item in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(map(without_tokens, value))
    return value


def _is_text(key: Value) -> bool:
    return type(key) is str


def without_tokens_in_json(data: bytes, *, only_prompt: bool = False) -> bytes:
    """Return JSON, or lines of it, without tokens. All other bytes stay.

    Args:
        data: The bytes.
        only_prompt: Whether only those of the messages before the answer go.

    >>> without_tokens_in_json(b'{"token_ids": [7, 8], "logprobs": null}')
    b'{"token_ids": null, "logprobs": null}'
    """
    if _HINT.search(data) is None:
        return data
    pattern = _PROMPT_IN_JSON if only_prompt else _IN_JSON
    return pattern.sub(lambda found: b'"%b": null' % found[found.lastgroup or 0], data)
