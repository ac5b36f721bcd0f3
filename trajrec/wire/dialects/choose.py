"""The dialect of a request, by the end of its address and the members of its body."""

from __future__ import annotations

import re
from typing import NamedTuple

from trajrec.wire.contents import Dialect
from trajrec.wire.dialects.anthropic import Anthropic
from trajrec.wire.dialects.bedrock import Bedrock
from trajrec.wire.dialects.chat import Chat
from trajrec.wire.dialects.gemini import Gemini
from trajrec.wire.dialects.ollama import Ollama
from trajrec.wire.dialects.plain import Completions, Embeddings, Neutral
from trajrec.wire.dialects.responses import Responses
from trajrec.wire.dialects.urls import path_of
from trajrec.wire.exchange import HttpRequest, is_model_call


class _Rule(NamedTuple):
    """A dialect, the end of its paths, and the members of which its bodies have one."""

    dialect: Dialect
    path: re.Pattern[str]
    members: re.Pattern[bytes]


def _rule(dialect: Dialect, path: str, *members: str) -> _Rule:
    names = "|".join(members).encode()
    return _Rule(dialect, re.compile(rf"(?:{path})\Z"), re.compile(rb'"(?:%b)"\s*:' % names))


_NEUTRAL = Neutral()

_ANTHROPIC = Anthropic()

_CHAT = Chat()

# A path alone may belong to anything, e.g. `messages` to threads and `responses` to surveys.
_RULES = (
    _rule(_CHAT, r"/chat/completions", "messages"),
    _rule(Responses(), r"/responses", "input", "prompt", "previous_response_id", "conversation"),
    _rule(_ANTHROPIC, r"/messages", "messages"),
    _rule(
        _ANTHROPIC,
        r"/invoke|/invoke-with-response-stream|:rawPredict|:streamRawPredict",
        "anthropic_version",
    ),
    # Mistral's models on Vertex.
    _rule(_CHAT, r":rawPredict|:streamRawPredict", "messages"),
    _rule(Gemini(), r":generateContent|:streamGenerateContent", "contents"),
    _rule(Ollama(), r"/api/chat", "messages", "model"),
    _rule(Ollama(), r"/api/generate", "prompt", "model"),
    _rule(Bedrock(), r"/converse|/converse-stream", "messages", "system"),
    _rule(Completions(), r"/completions", "prompt"),
    _rule(Embeddings(), r"/embeddings", "input"),
)

# Paths that only servers of models have, whatever the model and its dialect.
_ALWAYS = re.compile(
    r"/model/[^/]+/invoke(?:-with-response-stream)?\Z|:(?:rawPredict|streamRawPredict)\Z"
)

_BY_NAME: dict[str, Dialect] = {rule.dialect.name: rule.dialect for rule in _RULES} | {
    _NEUTRAL.name: _NEUTRAL
}


def dialect_of(url: str, body: bytes) -> Dialect:
    """Return the dialect of a request; the neutral one, which guesses nothing, if it is unknown.

    Args:
        url: The address, with or without a query.
        body: The body as it was sent.

    >>> dialect_of("https://api.openai.com/v1/chat/completions", b'{"messages": []}').name
    'chat'
    >>> dialect_of("https://api.openai.com/v1/threads/t1/messages", b'{"role": "user"}').name
    'unknown'
    """
    path = path_of(url)
    for rule in _RULES:
        if rule.path.search(path) and rule.members.search(body):
            return rule.dialect
    return _NEUTRAL


def is_model_request(request: HttpRequest) -> bool:
    """Return whether a request is a call of a model, by its address and its body.

    A body that a tap could not read says nothing, so that the address alone decides.

    >>> url = "https://chat.example.org/api/messages"
    >>> is_model_request(HttpRequest("POST", url, [], b'{"channel": "lamps", "text": "hello"}'))
    False
    """
    if not is_model_call(request.method, request.url):
        return False
    if not request.body or _ALWAYS.search(path_of(request.url)):
        return True
    return dialect_of(request.url, request.body) is not _NEUTRAL


def dialect_named(name: str) -> Dialect:
    """Return the dialect of a name; the neutral one if no dialect has it.

    >>> dialect_named("gemini").name, dialect_named("klingon").name
    ('gemini', 'unknown')
    """
    return _BY_NAME.get(name, _NEUTRAL)
