"""The servers that the proxy passes requests on to, and the variables that name the proxy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import SplitResult, urlsplit

PROXY_VARIABLE = "TRAJREC_PROXY"
"""The address of the proxy, for Python programs below the command."""

MODE_VARIABLE = "TRAJREC_PROXY_MODE"
"""A `Mode`."""

Mode: TypeAlias = Literal["record", "rerun", "live"]
"""Whether a proxy records, answers, or answers as far as it can and then records."""

_DEFAULTS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}

# Variable -> upstream, and the end of the path that clients expect in the variable.
_VARIABLES = {
    "OPENAI_BASE_URL": ("openai", "/v1"),
    "OPENAI_API_BASE": ("openai", "/v1"),
    "ANTHROPIC_BASE_URL": ("anthropic", ""),
    "ANTHROPIC_API_BASE": ("anthropic", ""),
    "GOOGLE_GEMINI_BASE_URL": ("gemini", ""),
    "GEMINI_API_BASE": ("gemini", ""),
}

# Clients refuse to begin without a key, also if nobody will look at it.
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")
_NO_KEY = "not-needed-for-a-rerun"

_LOOPBACK = ("127.0.0.1", "localhost")


class Upstream(NamedTuple):
    """A server that requests are passed on to.

    Attributes:
        scheme: "https" or "http".
        host: The host.
        port: The port.
        path: What the path of each request begins with, without a slash at its end.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """The host, with its port unless that is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == (443 if self.scheme == "https" else 80)
        return host if is_usual else f"{host}:{self.port}"

    def url(self, path: str) -> str:
        """Return the address of a path on this server."""
        return f"{self.scheme}://{self.netloc}{self.path}{path}"


def upstream_of(url: str) -> Upstream:
    """Return the upstream with a base address.

    Raises:
        ValueError: It is no address of http or https, or has credentials or a query.

    >>> upstream_of("http://localhost:8000/v1/").url("/chat/completions")
    'http://localhost:8000/v1/chat/completions'
    """
    parts = urlsplit(url)
    is_plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise ValueError(
            "must be an address such as https://api.example.com/v1, without a user, a password or "
            f"a query, got {_without_secrets(parts)!r}"
        )
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Upstream(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))


def _without_secrets(parts: SplitResult) -> str:
    """Return an address without its password and the values of its query.

    >>> _without_secrets(urlsplit("http://bob:secret@localhost:8000/v1?key=secret"))
    'http://...@localhost:8000/v1?...'
    """
    _, at, host = parts.netloc.rpartition("@")
    shown = parts._replace(netloc=f"...@{host}" if at else host, fragment="")
    return (shown._replace(query="...") if parts.query else shown).geturl()


class Route(NamedTuple):
    """A way from a prefix of the proxy's paths to an upstream.

    Attributes:
        prefix: E.g. "/openai/v1".
        upstream: The server.
    """

    prefix: str
    upstream: Upstream


class Routes(NamedTuple):
    """All routes of a proxy.

    Attributes:
        routes: The routes.
        variables: Variable -> the prefix that it names.
    """

    routes: tuple[Route, ...]
    variables: dict[str, str]

    def find(self, path: str) -> tuple[Upstream, str] | None:
        """Return the upstream of a path and the rest of the path; None if no route has it."""
        for prefix, upstream in self.routes:
            if path == prefix or path.startswith((f"{prefix}/", f"{prefix}?")):
                return upstream, path[len(prefix) :]
        return None


def make_routes(environ: Mapping[str, str], bases: Mapping[str, str]) -> Routes:
    """Return the routes of a command.

    Args:
        environ: The user's environment. A base address that it sets is an upstream.
        bases: Name of an upstream -> its base address, which comes before these.

    Raises:
        ValueError: An address is none.
    """
    routes: list[Route] = []
    variables: dict[str, str] = {}
    for variable, (name, ending) in _VARIABLES.items():
        url = bases.get(name) or environ.get(variable) or _sibling(environ, name)
        try:
            upstream = upstream_of(url or _DEFAULTS[name])
        except ValueError as exc:
            given_by = f"--{name}-base" if bases.get(name) else variable
            raise ValueError(f"{given_by} {exc}") from exc
        taken = {route.prefix: route.upstream for route in routes}
        # Two variables of one client may name different servers.
        prefix = f"/{name}{ending}"
        if taken.get(prefix, upstream) != upstream:
            prefix = f"/{name}-2{ending}"
        if prefix not in taken:
            routes.append(Route(prefix, upstream))
        variables[variable] = prefix
    return Routes(tuple(routes), variables)


def _sibling(environ: Mapping[str, str], name: str) -> str:
    """Return the address that another variable of the same client is set to."""
    same = [variable for variable, (owner, _) in _VARIABLES.items() if owner == name]
    return next((environ[variable] for variable in same if environ.get(variable)), "")


def path_of_children(environ: Mapping[str, str]) -> str:
    """Return the PYTHONPATH by which Python programs below a command turn the taps on."""
    children = str(Path(__file__).parent / "python_children")
    return os.pathsep.join(filter(None, [children, environ.get("PYTHONPATH", "")]))


def command_environment(
    environ: Mapping[str, str], address: str, routes: Routes, *, mode: Mode
) -> dict[str, str]:
    """Return the environment of a command whose model calls go to a proxy.

    Args:
        environ: The user's environment.
        address: The proxy's address, with its token.
        routes: Its routes.
        mode: What the proxy does.
    """
    own = dict(environ)
    for variable, prefix in routes.variables.items():
        own[variable] = address + prefix
    # A system's proxy must not get the requests for this machine.
    for variable in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in own.get(variable, "").split(",") if host]
        own[variable] = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
    own["PYTHONPATH"] = path_of_children(environ)
    own[PROXY_VARIABLE] = address
    own[MODE_VARIABLE] = mode
    if mode == "rerun":
        for key in _KEYS:
            own.setdefault(key, _NO_KEY)
    return own
