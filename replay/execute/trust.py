"""What a log may choose: names that are registered here, and arguments that are no paths.

A log is data, and data must not choose the code that runs, nor the files that are opened. Modules
that a log names are imported only if the caller allows them, and so are texts passed on that may be
paths, addresses or commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from trajrec.errors import EnvRefusedError
from trajrec.module_names import script_name
from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.values.diff import is_same

# Names of arguments that are paths, addresses or commands, whatever their text looks like.
_REACHING_NAME = re.compile(
    r"(?:^|_)(?:file|filename|filepath|path|dir|directory|folder|root|url|uri|host|address"
    r"|command|cmd|script|module|entry_point|executable|binary)s?$"
)
# Names of arguments for which a number may be an open file of this process, and of counts of them.
_OPEN_FILE_NAME = re.compile(
    r"(?:^|_)(?:file|filename|filepath|path|dir|directory|folder|fd|fileno|descriptor|socket|sock"
    r"|pipe|stream|stdin|stdout|stderr)s?$"
)
_COUNT_NAME = re.compile(r"^(?:n|num|max|min|number_of|count_of)_")
# A text with a separator, a home folder, a drive, or a suffix as files have.
_PATH_TEXT = re.compile(r"[/\\]|^~|^[A-Za-z]:|^\.|\.[A-Za-z][A-Za-z0-9]{0,7}$")


def module_prefixes(allow: Iterable[str]) -> tuple[str, ...]:
    """Return the allowed module prefixes.

    Raises:
        TypeError: They are one text, whose letters would be the prefixes.
    """
    if isinstance(allow, str):
        raise TypeError(f"allow must be a list of module prefixes, got {allow!r}")
    return tuple(allow)


def is_allowed(module: str, allow: tuple[str, ...]) -> bool:
    """Return whether a module is one of the allowed ones, or lies in one."""
    module = script_name(module)
    return any(module == prefix or module.startswith(prefix + ".") for prefix in allow)


def not_allowed(subject: str, module: str, episode_id: str) -> EnvRefusedError:
    """Return the error of a module that a log names and nobody has allowed."""
    return EnvRefusedError(
        f"{subject} is not imported unless you allow it: pass {how_to_allow(module)}",
        episode_id=episode_id,
    )


def how_to_allow(module: str) -> str:
    """Return the option that allows a module, on the command line and in Python."""
    package = module.partition(".")[0] or "MODULE"
    return f"--allow {package}, or allow=({package!r},) in Python"


def check_arguments(
    arguments: Mapping[str, Value],
    owner: str,
    module: str,
    *,
    allow: tuple[str, ...],
    episode_id: str,
    defaults: Callable[[], Mapping[str, Value]] = dict,
    can_allow: bool = True,
) -> None:
    """Refuse arguments from a log that may be paths, addresses or commands.

    Args:
        arguments: The arguments.
        owner: The class or id that takes them.
        module: The module to allow.
        allow: The allowed modules.
        episode_id: The episode, for error messages.
        defaults: Returns the owner's own values, which are not taken from the log.
        can_allow: Whether the caller takes modules to allow, for the message.

    Raises:
        EnvRefusedError: One of them may be such a text, and the module is not allowed.
    """
    if is_allowed(module, allow):
        return
    reaching = _first_reaching(arguments)
    own = defaults() if reaching else {}
    for name, (value, kind) in reaching.items():
        if name in own and is_same(own[name], arguments[name]):
            continue
        remedy = f", or pass {how_to_allow(module)}" if can_allow else ""
        raise EnvRefusedError(
            f"the log's argument {name}={value!r:.100} of {owner} may be {kind}: make the "
            "environment with a function of yours (--env MODULE:FACTORY, or env= in Python)"
            f"{remedy}",
            episode_id=episode_id,
        )


def check_options(
    options: Value, receiver: object, *, allow: tuple[str, ...], episode_id: str
) -> None:
    """Refuse options of a recorded reset that may be paths, addresses or commands.

    They come from the log also if the caller has made the environment or world.

    Args:
        options: The options.
        receiver: The environment or world that would get them.
        allow: The allowed modules.
        episode_id: The episode, for error messages.

    Raises:
        EnvRefusedError: One of them may be such a text, and the receiver's module is not allowed.
    """
    cls = type(receiver)
    if options is None or is_allowed(cls.__module__, allow):
        return
    is_named = isinstance(options, Mapping) and all(isinstance(name, str) for name in options)
    for name, (value, kind) in _first_reaching(options if is_named else {"": options}).items():
        raise EnvRefusedError(
            f"the log's reset option {name}={value!r:.100} for {cls.__module__}:"
            f"{cls.__qualname__} may be {kind}: pass {how_to_allow(cls.__module__)}",
            episode_id=episode_id,
        )


def _first_reaching(arguments: Mapping[str, Value]) -> dict[str, tuple[Value, str]]:
    """Return, by argument, the first value in it that may reach beyond the process, and its kind."""
    reaching = ((name, next(_reaching(name, value), None)) for name, value in arguments.items())
    return {name: found for name, found in reaching if found is not None}


def _reaching(name: str, value: Value) -> Iterator[tuple[Value, str]]:
    """Yield the values under a name that may be paths or open files, each with its kind.

    The keys of a dict are names of their own.
    """
    if isinstance(value, (bool, int, np.bool_, np.integer)):
        lower = name.lower()
        if _OPEN_FILE_NAME.search(lower) and not _COUNT_NAME.search(lower):
            yield value, "an open file"
    elif isinstance(value, Plain):
        yield from _reaching(name, value.fields)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _reaching(name, key)
            yield from _reaching(key if isinstance(key, str) else name, item)
            # Also what lies below a name: {"file": {"name": 3}}.
            yield from _reaching(name, item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _reaching(name, item)
    elif getattr(getattr(value, "dtype", None), "kind", "") in ("U", "S", "O", "T", "b", "i", "u"):
        items = value.tolist()
        yield from _reaching(name, items)
    else:
        text = _text(value)
        if text is not None and (_REACHING_NAME.search(name.lower()) or _PATH_TEXT.search(text)):
            yield text, "a path, an address or a command"


def _text(value: Value) -> str | None:
    """Return a text, or bytes as a text; None for any other value."""
    if isinstance(value, str):
        return value
    return (
        bytes(value).decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else None
    )
