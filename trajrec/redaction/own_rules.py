"""The rules of the user's own for all redactors of a command and of its child processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "TRAJREC_REDACTION_RULES"


def rules_of_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the rules in the file that an environment variable names; {} without the variable.

    Raises:
        ValueError: The file cannot be read, or is no JSON object of texts.
    """
    path = variables.get(VARIABLE, "")
    if not path:
        return {}
    try:
        rules = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ValueError(f"the file of rules that {VARIABLE} names cannot be read: {exc}") from exc
    if not isinstance(rules, dict) or not all(isinstance(rule, str) for rule in rules.values()):
        raise ValueError(
            f"{path}, which {VARIABLE} names, must be a JSON object: name of a kind -> regular "
            'expression, as {"card number": "[0-9]{16}"}'
        )
    return rules
