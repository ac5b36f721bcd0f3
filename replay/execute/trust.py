"""What a log may choose: names that are registered here, and arguments that are no paths.

A log is data, and data must not choose the code that runs, nor the files that are opened. Modules
that a log names are imported only if the caller allows them, and so are texts passed on that may be
paths, addresses or commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from trajrec.errors import EnvRefusedError
from trajrec.types import Value
from trajrec.values.diff import is_same

# Names of arguments that are paths, addresses or commands, whatever their text looks like.
_REACHING_NAME = re.compile(
    r"(?:^|_)(?:file|filename|filepath|path|dir|directory|folder|root|url|uri|host|address"
    r"|command|cmd|script|module|entry_point|executable|binary)s?$"
)
# A text with a separator, a home folder, a drive, or a suffix as files have.
_PATH_TEXT = re.compile(r"[/\\]|^~|^[A-Za-z]:|^\.|\.[A-Za-z][A-Za-z0-9]{0,7}$")


def is_allowed(module: str, allow: tuple[str, ...]) -> bool:
    """Return whether a module is one of the allowed ones, or lies in one."""
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
    reaching = {
        name: text
        for name, value in arguments.items()
        for text in texts_in(value)
        if _REACHING_NAME.search(name.lower()) or _PATH_TEXT.search(text)
    }
    own = defaults() if reaching else {}
    for name, text in reaching.items():
        if name in own and is_same(own[name], arguments[name]):
            continue
        remedy = f", or pass {how_to_allow(module)}" if can_allow else ""
        raise EnvRefusedError(
            f"the log's argument {name}={text!r:.100} of {owner} may be a path, an address or a "
            "command: make the environment with a function of yours "
            f"(--env MODULE:FACTORY, or env= in Python){remedy}",
            episode_id=episode_id,
        )


def texts_in(value: Value) -> Iterator[str]:
    """Yield all texts in a value that was decoded from a log, keys of dicts included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (bytes, bytearray)):
        yield bytes(value).decode("utf-8", "replace")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_in(key)
            yield from texts_in(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from texts_in(item)
    elif getattr(getattr(value, "dtype", None), "kind", "") in ("U", "S", "O"):
        yield from texts_in(value.tolist())
