"""The MCP servers that a command's configuration names, in a temporary copy of it.

The copy names the recorder in place of each server. The user's own configuration is only read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from trajrec.log.locks import is_running
from trajrec.proxies.mcp_shim import VARIABLE, shim_command
from trajrec.proxies.mcp_sse import SSE_TYPE
from trajrec.types import JsonObject, Value
from trajrec.wire.json_bodies import as_dict, read_json
from trajrec.wire.mcp_names import server_label

SERVERS = "mcpServers"
"""The key of the servers, in the form of configuration that most clients share."""

MAX_CONFIG_BYTES = 1 << 24

_PREFIX = "trajrec-mcp-"

_STRICT = "--strict-mcp-config"

HTTP_TYPES = ("http", "streamable-http", "streamableHttp", "streamable_http")
"""The types of servers over streamable HTTP."""

# What only an entry with an address has.
_OF_STREAMS = ("url", "type", "headers")

Replace: TypeAlias = "Callable[[str, JsonObject], JsonObject | None]"
"""Takes the name and the entry of a server; returns the entry of its recorder, None if it cannot be
recorded."""


class Wrapped(NamedTuple):
    """A command whose MCP servers are recorded.

    Attributes:
        command: The program and its arguments.
        variables: Environment variables that are changed.
        servers: The names of the servers, in order.
        left: The names of those that are not recorded, because of how they are reached.
    """

    command: list[str]
    variables: dict[str, str]
    servers: list[str]
    left: list[str]


def recorders(
    address: str,
    mode: str,
    add_server: Callable[[str, str], str],
    add_stream_server: Callable[[str, str], str],
) -> Replace:
    """Return a function that puts a recorder in place of a server.

    Args:
        address: The proxy's address, with its token.
        mode: "record" or "rerun".
        add_server: Takes the name and the address of a server over HTTP; returns the address of its
            recorder. See `trajrec.proxies.server.ProxyServer.add_server`.
        add_stream_server: The same for a server of the older transport.
    """

    def process(name: str, entry: JsonObject, command: list[str]) -> JsonObject:
        """Return an entry by which the client starts a recorder, or what answers."""
        shim = shim_command(name, command)
        own = {VARIABLE: address, f"{VARIABLE}_MODE": mode}
        # In the variables of the one process, because other people see the words of a command.
        variables = {**as_dict(entry.get("env")), **own}
        return {**entry, "command": shim[0], "args": shim[1:], "env": variables}

    def replace(name: str, entry: JsonObject) -> JsonObject | None:
        url = entry.get("url")
        if isinstance(url, str) and entry.get("type", "http") in HTTP_TYPES:
            try:
                return {**entry, "url": add_server(name, url)}
            except ValueError:
                return None
        if isinstance(url, str) and entry.get("type") == SSE_TYPE:
            if mode != "record":
                # The recording answers a client of any transport; a stream is the hardest to make.
                rest = {key: value for key, value in entry.items() if key not in _OF_STREAMS}
                return process(name, rest, [])
            try:
                return {**entry, "url": add_stream_server(name, url)}
            except ValueError:
                return None
        command = entry.get("command")
        arguments = entry.get("args", [])
        is_list = isinstance(arguments, list) and all(isinstance(word, str) for word in arguments)
        if not isinstance(command, str) or not is_list:
            return None
        return process(name, entry, [command, *arguments])

    return replace


@contextlib.contextmanager
def wrapped_servers(
    command: Sequence[str], environ: Mapping[str, str], replace: Replace
) -> Iterator[Wrapped]:
    """Give a command copies of the configurations that it names; they exist within the block.

    A configuration is a word of the command, or the value of an option or of an environment
    variable, that is a JSON file with `mcpServers`, or such JSON itself; of `claude`, also that of
    its user.

    Args:
        command: The program and its arguments.
        environ: Its environment.
        replace: Replaces each server.

    Raises:
        ValueError: The command names no configuration, or one that cannot be read.
    """
    _remove_left_copies()
    # Readable only by this user: a configuration may hold keys.
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        copies = _Copies(folder, replace)
        words = [copies.word(word) for word in command[1:]]
        if Path(command[0]).name == "claude" and _STRICT not in command:
            words = [*copies.claude_words(environ, Path.cwd()), *words]
        variables = {}
        for name, value in environ.items():
            # Few of them are files; those of a configuration are named so.
            copied = copies.file(value) if value.endswith(".json") else None
            if copied is not None:
                variables[name] = copied
        if not copies.n_files:
            raise ValueError(
                "--mcp: the command names no MCP configuration; name a JSON file with "
                f'"{SERVERS}" in it, as in: trajrec capture runs --mcp -- my_agent --config '
                "servers.json"
            )
        if not copies.servers:
            raise ValueError(
                f"--mcp: none of the servers can be recorded: {', '.join(copies.left) or 'none'}; "
                'each needs a "command" with "args", or a "url" with the type "http" or "sse"'
            )
        yield Wrapped([command[0], *words], variables, copies.servers, copies.left)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def claude_servers(environ: Mapping[str, str], folder: Path) -> JsonObject:
    """Return the servers that a user of Claude Code has added, in all folders and in one.

    Args:
        environ: The environment of the program.
        folder: The folder that it runs in.
    """
    home = Path(environ.get("CLAUDE_CONFIG_DIR") or environ.get("HOME") or Path.home())
    config = _read_object(home / ".claude.json")
    project = as_dict(as_dict(config.get("projects")).get(str(folder)))
    disabled = project.get("disabledMcpServers")
    off = disabled if isinstance(disabled, list) else []
    servers = {**as_dict(config.get(SERVERS)), **as_dict(project.get(SERVERS))}
    return {name: entry for name, entry in servers.items() if name not in off}


def _read_object(path: Path) -> JsonObject:
    try:
        return as_dict(read_json(path.read_bytes()))
    except OSError:
        return {}


def _remove_left_copies() -> None:
    """Remove the copies of processes that were killed before they could."""
    if os.name != "posix":
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}[0-9]*-*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_own = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            if is_own and not is_running(number):
                shutil.rmtree(folder, ignore_errors=True)


class _Copies:
    """Makes the copies.

    Args:
        folder: Where they are written.
        replace: Replaces each server.

    Attributes:
        n_files: The configurations so far.
        servers: The servers that are recorded.
        left: Those that are not.
    """

    def __init__(self, folder: Path, replace: Replace) -> None:
        self.n_files = 0
        self.servers: list[str] = []
        self.left: list[str] = []
        self._folder = folder
        self._replace = replace

    def claude_words(self, environ: Mapping[str, str], folder: Path) -> list[str]:
        """Return the words that put recorders before the servers of a user of Claude Code.

        The program takes the servers of its command line before others of the same names. The
        servers of a project's .mcp.json are left out: whether its user trusts them is for the
        program to ask.
        """
        named = {*self.servers, *self.left}
        own = {
            name: entry
            for name, entry in claude_servers(environ, folder).items()
            if name not in named
        }
        copied = self.text(json.dumps({SERVERS: own})) if own else None
        for place in (folder, *folder.parents):
            names = as_dict(_read_object(place / ".mcp.json").get(SERVERS))
            self.left += [name for name in names if name not in {*self.servers, *self.left}]
        # As one word: of two, the option would take the words after it as well.
        return [] if copied is None else [f"--mcp-config={copied}"]

    def word(self, word: str) -> str:
        """Return a word of a command, or the same with a copy in place of a configuration."""
        copied = self.file(word) or self.text(word)
        if copied is None and word.startswith("-") and "=" in word:
            option, _, value = word.partition("=")
            value_copy = self.file(value) or self.text(value)
            copied = None if value_copy is None else f"{option}={value_copy}"
        return word if copied is None else copied

    def file(self, path: str) -> str | None:
        """Return the path of a copy; None if this is no path of a configuration.

        Raises:
            ValueError: It is one that cannot be read.
        """
        try:
            is_file = bool(path) and "\0" not in path and os.path.isfile(path)
            if not is_file or os.path.getsize(path) > MAX_CONFIG_BYTES:
                return None
            data = Path(path).read_bytes()
        except OSError:
            return None
        if SERVERS.encode() not in data:
            return None
        config = read_json(data)
        if not isinstance(config, dict):
            if path.endswith(".json"):
                raise ValueError(f"--mcp: {path}: must be JSON, without comments")
            # A source of a program may hold the word as well.
            return None
        copied = self._copy(config)
        if copied is None:
            return None
        return self._write(Path(path).name, copied)

    def text(self, text: str) -> str | None:
        """Return the path of a copy of JSON; None if this is no configuration."""
        if not text.lstrip().startswith("{") or SERVERS not in text:
            return None
        config = read_json(text.encode(errors="surrogateescape"))
        copied = self._copy(config) if isinstance(config, dict) else None
        if copied is None:
            return None
        # As a file: it holds the proxy's address, and other people see the words of a command.
        return self._write("servers.json", copied)

    def _write(self, name: str, config: JsonObject) -> str:
        """Write a copy that its owner alone can read, and return its path."""
        target = self._folder / f"{self.n_files}-{name}"
        target.touch(mode=0o600)
        target.write_text(json.dumps(config))
        return str(target)

    def _copy(self, config: JsonObject) -> JsonObject | None:
        """Return a configuration with other servers, None if it is none."""
        servers = config.get(SERVERS)
        if not isinstance(servers, dict):
            return None
        self.n_files += 1
        return {**config, SERVERS: {name: self._entry(name, servers[name]) for name in servers}}

    def _entry(self, name: str, entry: Value) -> Value:
        replaced = self._replace(name, entry) if isinstance(entry, dict) else None
        if replaced is None:
            self.left.append(name)
            return entry
        labels = [server_label(other) for other in self.servers]
        if server_label(name) in labels and name not in self.servers:
            raise ValueError(
                f"--mcp: the servers {name!r} and {self.servers[labels.index(server_label(name))]!r} "
                "would be recorded by one name; rename one"
            )
        self.servers.append(name)
        return replaced
