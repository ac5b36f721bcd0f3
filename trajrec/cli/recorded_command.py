"""Command lines as recordings tell them."""

from __future__ import annotations

from collections.abc import Sequence


def told_command(command: Sequence[str]) -> list[str]:
    """Return a command as it is recorded: without the secrets in words such as --api-key=KEY.

    >>> told_command(["node", "agent.js", "--retries=3"])
    ['node', 'agent.js', '--retries=3']
    """
    from trajrec.redaction.redactor import Redactor

    redactor = Redactor()
    told = []
    for word in command:
        option, sign, value = word.partition("=")
        if sign:
            # As a name and its value, which the redactor knows better than one word.
            (value,) = redactor.plain({option.lstrip("-"): value}).values()
        told.append(f"{option}{sign}{value}")
    plain: list[str] = redactor.plain(told)
    return plain
