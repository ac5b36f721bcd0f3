"""Public names that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for a package with lazy exports.

    Args:
        package: The package's `__name__`.
        homes: Public name -> its home: "module:attribute", or "module" for a module itself.
    """

    def resolve(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        value: Any = importlib.import_module(module)
        if attribute:
            value = getattr(value, attribute)
        # The next look-up finds the value in the package itself and does not come here.
        vars(sys.modules[package])[name] = value
        return value

    names = sorted(homes)
    return resolve, lambda: names, names
