"""Public names of a package that are imported when they are first used.

A process that only records thus never imports DuckDB, and `import trajrec` is fast.
"""

from __future__ import annotations

import importlib
import sys

# As in `trajrec/__init__.py`: `typing` would be most of what `import trajrec` takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def lazy_exports(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for a package with lazy names.

    Args:
        package: The package's `__name__`.
        homes: Public name -> the place of its definition: "module:attribute", or "module" if the
            name stands for a module.

    Returns:
        The three objects, to be assigned in the package's `__init__`.
    """

    def resolve(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        value: object = importlib.import_module(module)
        if attribute:
            value = getattr(value, attribute)
        # The next look-up finds the value in the package itself and does not come here.
        vars(sys.modules[package])[name] = value
        return value

    names = sorted(homes)
    return resolve, lambda: names, names
