"""The parts of an address that belong to a model call: its kind, and the model if it is there."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

# The model in the paths of Azure and Bedrock, and in those of Gemini.
_MODEL = re.compile(
    r"/(?:deployments|engines|model)/([^/]+)/|/(?:models|tunedModels)/([^/]+):\w+\Z"
)

# The end of a path from the model on, or else from the kind of call on.
_ENDPOINT = re.compile(
    r"/((?:deployments|engines|models|tunedModels|model)/.+"
    r"|(?:api/)?chat(?:/completions)?|api/generate|completions|responses|messages|embeddings)\Z"
)


def path_of(url: str) -> str:
    """Return the path of an address, without its query and the slash at its end.

    >>> path_of("https://example.org/v1/responses/?a=1")
    '/v1/responses'
    """
    rest = url.partition("?")[0].partition("#")[0]
    host = rest.partition("://")[2] or rest
    return f"/{host.partition('/')[2]}".rstrip("/")


def model_in(url: str) -> str | None:
    """Return the model that an address names, None if it names none.

    >>> model_in("https://example.org/v1beta/models/gemini-2.5-flash:generateContent")
    'gemini-2.5-flash'
    >>> model_in("https://example.org/model/anthropic.claude-v2%3A1/converse")
    'anthropic.claude-v2:1'
    """
    match = _MODEL.search(path_of(url))
    return unquote(match[1] or match[2]) if match else None


def with_model(url: str, model: str) -> str:
    """Return an address that names another model.

    Args:
        url: An address in which `model_in` finds a model.
        model: The other one.

    >>> with_model("https://example.org/v1beta/models/gemini-2.5-flash:generateContent?k=1", "g-3")
    'https://example.org/v1beta/models/g-3:generateContent?k=1'
    >>> with_model("https://example.org/model/a.b-v2%3A1/converse", "c.d-v1:0")
    'https://example.org/model/c.d-v1%3A0/converse'
    """
    path = path_of(url)
    match = _MODEL.search(path)
    assert match is not None
    start, end = match.span(1 if match[1] else 2)
    origin, _, rest = url.partition(path)
    return f"{origin}{path[:start]}{quote(model, safe='')}{path[end:]}{rest}"


def endpoint_of(url: str) -> str:
    """Return the part of an address that does not depend on the server: the kind of call, the model.

    >>> endpoint_of("http://127.0.0.1:9/e/openai/v1/chat/completions?api-version=1")
    'chat/completions'
    >>> endpoint_of("https://example.org/v1beta/models/gemini-2.5-flash:generateContent")
    'models/gemini-2.5-flash:generateContent'
    """
    path = path_of(url)
    match = _ENDPOINT.search(path)
    return unquote(match[1]) if match else unquote(path)
