"""The names in bytecode: of global variables, with those behind their dots, and of imports."""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Iterable, Iterator
from typing import NamedTuple


def _operations(shifts: dict[str, int]) -> dict[int, int]:
    return {dis.opmap[name]: shift for name, shift in shifts.items() if name in dis.opmap}


# Operations that name something, with the lowest bits of their arguments that are no part of the
# name's number.
_STARTS = _operations({"LOAD_GLOBAL": 1, "LOAD_NAME": 0, "STORE_GLOBAL": 0, "DELETE_GLOBAL": 0})

_ATTRIBUTES = _operations(
    {"LOAD_ATTR": int(sys.version_info >= (3, 12)), "LOAD_METHOD": 0, "STORE_ATTR": 0}
)

_SILENT = frozenset((dis.EXTENDED_ARG, dis.opmap["CACHE"]))
"""Operations that only belong to the one after or before them."""

# Id of a code object -> the object, which keeps its id, and the names in it.
_NAMES: dict[int, tuple[types.CodeType, tuple[tuple[str, ...], ...]]] = {}


class Imports(NamedTuple):
    """The modules that some code imports, as it names them, and all names in the code."""

    modules: tuple[str, ...]
    names: tuple[str, ...]


# Id of a code object -> the object, and its imports.
_IMPORTS: dict[int, tuple[types.CodeType, Imports]] = {}


def imports_in(code: types.CodeType) -> Imports:
    """Return the imports in code, and in the functions in it."""
    known = _IMPORTS.get(id(code))
    if known is None:
        modules: dict[str, None] = {}
        names: dict[str, None] = {}
        waiting = [code]
        while waiting:
            one = waiting.pop()
            names |= dict.fromkeys(one.co_names)
            modules |= dict.fromkeys(_named_by(one, dis.opmap["IMPORT_NAME"]))
            waiting += [item for item in one.co_consts if isinstance(item, types.CodeType)]
        known = _IMPORTS[id(code)] = code, Imports(tuple(modules), tuple(names))
    return known[1]


def _named_by(code: types.CodeType, wanted: int) -> Iterator[str]:
    """Yield the names in code that an operation has as its argument."""
    extension = 0
    for operation, low in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        argument = extension | low
        extension = argument << 8 if operation == dis.EXTENDED_ARG else 0
        if operation == wanted:
            yield code.co_names[argument]


def imported_modules(names: Iterable[str], importer: str) -> Iterator[types.ModuleType]:
    """Yield the imported modules of some names, which may be relative to the importing module."""
    packages = [""]
    while importer:
        packages.append(f"{importer}.")
        importer = importer.rpartition(".")[0]
    for name in names:
        for package in packages:
            module = sys.modules.get(f"{package}{name}".rstrip("."))
            if isinstance(module, types.ModuleType):
                yield module


def names_in(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """Return the chains of names that begin with a global one, in code and the functions in it."""
    known = _NAMES.get(id(code))
    if known is None:
        chains = dict.fromkeys(chains_in(code))
        known = _NAMES[id(code)] = code, tuple(chains)
    return known[1]


def chains_in(code: types.CodeType) -> Iterator[tuple[str, ...]]:
    # Not by `dis`, which takes a second for the code of large packages.
    names = code.co_names
    chain: tuple[str, ...] = ()
    data = code.co_code
    extension = 0
    for operation, low in zip(data[::2], data[1::2], strict=True):
        argument = extension | low
        extension = argument << 8 if operation == dis.EXTENDED_ARG else 0
        if operation in _STARTS:
            if chain:
                yield chain
            chain = (names[argument >> _STARTS[operation]],)
        elif operation in _ATTRIBUTES and chain:
            chain = (*chain, names[argument >> _ATTRIBUTES[operation]])
        elif chain and operation not in _SILENT:
            yield chain
            chain = ()
    if chain:
        yield chain
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from chains_in(constant)
