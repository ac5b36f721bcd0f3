"""Groups of keywords that several functions share: typed dictionaries that editors complete."""

from __future__ import annotations

from collections.abc import Mapping


def check_options(function: str, options: Mapping[str, object], group: type) -> None:
    """Check that every keyword of a call is an option of its group.

    Python itself does not check them: a function that takes `**options: Unpack[Group]` accepts any
    keyword when it runs.

    Args:
        function: Name of the function that was called.
        options: The keywords of the call.
        group: The `TypedDict` that declares the options.

    Raises:
        TypeError: A keyword is not an option.

    >>> from typing import TypedDict
    >>> class Options(TypedDict, total=False):
    ...     seed: int
    >>> check_options("fork", {"sed": 1}, Options)
    Traceback (most recent call last):
    TypeError: fork() got an unexpected keyword argument 'sed'; its options are seed
    """
    names = [*group.__annotations__]
    for name in options:
        if name not in names:
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}; "
                f"its options are {', '.join(names)}"
            )
