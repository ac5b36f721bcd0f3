"""Model calls that go past the taps, as far as a process shows them.

Some signs tell: the address of a server of models was looked up, and no tap reported a model call to
that server; or no model call was reported at all, and a library is loaded that sends requests past
the taps. A channel of gRPC, and a request by `putrequest` of http.client, to a server of models are
told of themselves. What such requests said is not known.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from trajrec.taps import hub
from trajrec.taps.patching import Replacement, copies_of_libraries

LIBRARIES = ("curl_cffi", "dspy._vendor.lm15", "primp", "pycurl", "tls_client", "vertexai")
"""Libraries that open their connections in code of C, Go or Rust, or write HTTP to sockets themselves."""

_HOSTS = frozenset(
    [
        "api.anthropic.com",
        "api.cerebras.ai",
        "api.cohere.com",
        "api.deepseek.com",
        "api.fireworks.ai",
        "api.groq.com",
        "api.mistral.ai",
        "api.openai.com",
        "api.perplexity.ai",
        "api.together.xyz",
        "api.x.ai",
        "generativelanguage.googleapis.com",
        "openrouter.ai",
        "router.huggingface.co",
    ]
)
_ENDS = (".openai.azure.com", ".cognitiveservices.azure.com", "aiplatform.googleapis.com")

# Their values name servers, of this machine perhaps.
_VARIABLES = (
    "ANTHROPIC_API_BASE",
    "ANTHROPIC_BASE_URL",
    "GEMINI_API_BASE",
    "GOOGLE_GEMINI_BASE_URL",
    "OLLAMA_HOST",
    "OPENAI_API_BASE",
    "OPENAI_BASE_URL",
)

_asked_for: set[str] = set()
# Ways that were taken to such a server, whatever a tap saw of others to it.
_taken: set[str] = set()
_has_warned = False
# The number of loaded modules, and the ways that they are: a look at all of them takes a while.
_loaded: tuple[int, list[str]] = (0, [])


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the functions to replace in the module `socket`, or in a module of gRPC."""
    if module.__name__ == "socket":
        return [Replacement(module, "getaddrinfo", _make_getaddrinfo)]
    return [
        Replacement(module, f"{kind}_channel", _make_channel) for kind in ("secure", "insecure")
    ]


def ways(n_model_calls: int) -> list[str]:
    """Return the ways by which model calls may have gone past the taps.

    Args:
        n_model_calls: The number of the model calls that were recorded.
    """
    hosts = sorted(_asked_for - hub.seen_hosts)
    taken = [*hosts, *sorted(_taken)]
    return taken if n_model_calls else [*taken, *_loaded_ways()]


def note_way(way: str, host: str, port: object) -> None:
    """Note a way past the taps, if it leads to a server of models."""
    if _serves_models(host, port):
        _taken.add(way)


def warn_of(found: Sequence[str]) -> None:
    """Warn of such ways, once in a process."""
    global _has_warned
    if not found or _has_warned:
        return
    _has_warned = True
    # Where warnings are errors, this one must not reach the program either.
    with contextlib.suppress(Warning):
        warnings.warn(
            f"model calls may be missing in the record: no tap sees requests by "
            f"{', '.join(found)}; record such calls with ep.model(function, ...)",
            RuntimeWarning,
            stacklevel=2,
        )


def _loaded_ways() -> list[str]:
    global _loaded
    n_modules = len(sys.modules)
    if _loaded[0] != n_modules:
        names = [name for name in LIBRARIES if name in sys.modules]
        _loaded = (n_modules, [*names, *copies_of_libraries()])
    return _loaded[1]


def _make_getaddrinfo(original: Any) -> Any:
    @functools.wraps(original)
    def getaddrinfo(host: Any, port: Any, *args: Any, **kw: Any) -> Any:
        with contextlib.suppress(Exception):
            _note(host, port)
        return original(host, port, *args, **kw)

    return getaddrinfo


def _make_channel(original: Any) -> Any:
    @functools.wraps(original)
    def channel(target: Any, *args: Any, **kw: Any) -> Any:
        with contextlib.suppress(Exception):
            # "dns:///host:443": gRPC looks it up by itself, and asks no other library.
            place = str(target).rpartition("/")[2]
            host, _, port = place.rpartition(":")
            note_way("grpc", host or place, port)
        return original(target, *args, **kw)

    return channel


def _note(host: Any, port: Any) -> None:
    """Note the host if it serves models."""
    name = host.decode() if isinstance(host, bytes) else host or ""
    if _serves_models(name, port):
        _asked_for.add(_key(name, port))


def _serves_models(host: str, port: object) -> bool:
    name = host.lower().rstrip(".")
    is_bedrock = name.startswith("bedrock-runtime") and name.endswith(".amazonaws.com")
    return name in _HOSTS or name.endswith(_ENDS) or is_bedrock or _key(name, port) in _configured()


def _key(host: str, port: object) -> str:
    return hub.host_key(host.lower().rstrip("."), port)


def _configured() -> set[str]:
    """Return the servers that variables of the environment name."""
    return {
        hub.host_of(value if "://" in value else f"http://{value}")
        for name in _VARIABLES
        if (value := os.environ.get(name))
    }
