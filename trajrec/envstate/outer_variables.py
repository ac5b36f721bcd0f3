"""The variables outside of an object that its code uses: of modules, classes, closures, functions.

An environment may keep its state in a module global, in an attribute of its class, or in a variable
around a function. No copy of its attributes has them. They are found by reading the bytecode of its
classes, and of the functions and classes that this code names in turn.
"""

from __future__ import annotations

import random
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from trajrec.envstate.code_names import imported_modules, imports_in, names_in
from trajrec.envstate.contents import attributes_of, is_own_library, parts_of
from trajrec.envstate.generators import module_of
from trajrec.envstate.hidden_generators import TABLES
from trajrec.module_names import module_name
from trajrec.types import Value
from trajrec.values.plain import IMMUTABLE_TYPES, PLAIN_TYPES

MAX_OBJECTS = 20_000
"""Objects that are searched for code; then the search ends. It takes 10 ms."""


def process_generators() -> dict[Any, str]:
    """Return the generators that all code of a process shares, with the names of their modules."""
    shared = {random._inst: "random", np.random.mtrand._rand: "numpy.random"}
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "default_generator"):
        shared[torch.default_generator] = "torch"
    return shared


_LIBRARIES = sys.stdlib_module_names | {
    "numpy",
    "scipy",
    "gymnasium",
    "minigrid",
    "ale_py",
    "mujoco",
    "pygame",
    "torch",
    "jax",
    "jaxlib",
    "cloudpickle",
    "pytest",
    "_pytest",
}
"""Packages whose code keeps no state of an episode outside of objects."""

_METHOD_TYPES = (staticmethod, classmethod)

_CODE_TYPES = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, *_METHOD_TYPES)

_NAMING_TYPES = (*_CODE_TYPES, property, type, types.ModuleType)
"""Types whose values are code, and are searched for names."""


class OuterVariable(NamedTuple):
    """A variable.

    Attributes:
        name: Its name with that of its module, class or function, for messages.
        value: Its value.
        put: Sets it.
    """

    name: str
    value: Value
    put: Callable[[Value], None]


def outer_variables(values: Iterable[Value]) -> list[OuterVariable]:
    """Return the variables outside of objects that the code of some objects uses, in a fixed order.

    Args:
        values: The objects, e.g. the layers of an environment, or a function.
    """
    return OuterSearch(values).variables


class OuterSearch:
    """Searches objects for code, and code for variables.

    Args:
        values: The objects to begin with.

    Attributes:
        variables: The variables.
        process_generators: The generators of `process_generators` that the code uses.
    """

    def __init__(self, values: Iterable[Value]) -> None:
        self._waiting: deque[Value] = deque(values)
        # Tables of the objects themselves hold no code, and are large.
        self._roots = {
            id(value): [item for name, item in attributes_of(value) if not _is_table(name, item)]
            for value in self._waiting
            if not isinstance(value, (*_CODE_TYPES, type))
        }
        self._seen: set[int] = set()
        self._variables_seen: set[tuple[int, str]] = set()
        self._n_left = MAX_OBJECTS
        # Functions that import modules by themselves. They are searched last, so that the order of
        # the other variables, and the seeds of their generators, stay as they were.
        self._importing: deque[types.FunctionType] = deque()
        # Keeps the ids in `_seen` from being given to other objects.
        self._held: list[Value] = []
        self.variables = list(self._search())
        self.process_generators = [one for one in process_generators() if id(one) in self._seen]

    def _search(self) -> Iterator[OuterVariable]:
        """Yield the variables; the values of those that are found are searched too."""
        waiting = self._waiting
        seen = self._seen
        hold = self._held.append
        while (waiting or self._importing) and self._n_left:
            if not waiting:
                for variable in self._of_imports(self._importing.popleft()):
                    yield variable
                    waiting.append(variable.value)
                continue
            value = waiting.popleft()
            kind = type(value)
            if kind in PLAIN_TYPES or id(value) in seen:
                continue
            seen.add(id(value))
            hold(value)
            self._n_left -= 1
            if issubclass(kind, _NAMING_TYPES):
                for variable in self._of(value):
                    yield variable
                    waiting.append(variable.value)
                continue
            if not _is_library_class(kind):
                waiting.append(kind)
            parts = self._roots.get(id(value))
            if parts is None:
                parts = parts_of(value)
            waiting.extend([item for item in parts if type(item) not in _WITHOUT_CODE])

    def _of(self, value: Value) -> Iterator[OuterVariable]:
        if isinstance(value, types.FunctionType):
            if not _is_library(module_of(value)):
                yield from self._of_function(value)
            self._note_torch(module_of(value))
        elif isinstance(value, types.MethodType):
            self._waiting += (value.__func__, value.__self__)
        elif isinstance(value, types.BuiltinFunctionType):
            if not isinstance(value.__self__, types.ModuleType):
                self._waiting.append(value.__self__)
            self._note_torch(module_of(value))
        elif isinstance(value, _METHOD_TYPES):
            self._waiting.append(value.__func__)
        elif isinstance(value, property):
            self._waiting += (value.fget, value.fset)
        elif isinstance(value, type):
            yield from self._of_class(value)
        elif isinstance(value, types.ModuleType):
            # An object may hold `random` itself where others hold a generator.
            self._seen |= {
                id(g) for g, name in process_generators().items() if name == value.__name__
            }

    def _note_torch(self, module: str) -> None:
        """Count the generator of PyTorch as used if a function of PyTorch is: it draws unseen."""
        if module.partition(".")[0] == "torch" and "torch" in sys.modules:
            self._seen.add(id(getattr(sys.modules["torch"], "default_generator", None)))

    def _of_class(self, cls: type) -> Iterator[OuterVariable]:
        if _is_library_class(cls):
            return
        for base in cls.__mro__:
            if _is_library(module_of(base)):
                continue
            self._seen.add(id(base))
            for name, item in sorted(vars(base).items()):
                if isinstance(item, (*_CODE_TYPES, property, type)):
                    self._waiting.append(item)
                elif hasattr(item, "__wrapped__"):
                    self._waiting.append(item.__wrapped__)  # a cache around a function
                elif not name.startswith("__") and not _is_descriptor(item):
                    yield from self._variable(base, name, item)

    def _of_function(self, function: types.FunctionType) -> Iterator[OuterVariable]:
        for names in names_in(function.__code__):
            yield from self._at(function, names)
        if imports_in(function.__code__).modules:
            self._importing.append(function)
        free = function.__code__.co_freevars
        for name, cell in zip(free, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                continue  # it is not set yet
            if name != "__class__":
                yield from self._cell(function, name, cell, value)
        if any(type(item) not in PLAIN_TYPES for item in function.__defaults__ or ()):
            yield from self._variable(function, "__defaults__", function.__defaults__)
        for name, value in sorted(vars(function).items()):
            if name == "__wrapped__":
                self._waiting.append(value)
            else:
                yield from self._variable(function, name, value)

    def _at(self, function: types.FunctionType, names: tuple[str, ...]) -> Iterator[OuterVariable]:
        """Yield the variable that a chain of names leads to, e.g. `np.random.rand`."""
        owner: Value = function.__globals__.get(names[0], _MISSING)
        space: Value = sys.modules.get(module_of(function))
        name = names[0]
        for following in names[1:]:
            if not isinstance(owner, types.ModuleType):
                break
            space, name, owner = owner, following, vars(owner).get(following, _MISSING)
        yield from self._in_space(function, space, name, owner)

    def _of_imports(self, function: types.FunctionType) -> Iterator[OuterVariable]:
        """Yield the variables of modules that a function imports: those that it has a name of."""
        imports = imports_in(function.__code__)
        modules = deque(imported_modules(imports.modules, module_of(function)))
        seen: set[int] = set()
        while modules:
            module = modules.popleft()
            seen.add(id(module))
            for name in imports.names:
                value = vars(module).get(name, _MISSING)
                if isinstance(value, types.ModuleType) and id(value) not in seen:
                    modules.append(value)
                yield from self._in_space(function, module, name, value)

    def _in_space(
        self, function: types.FunctionType, space: Value, name: str, owner: Value
    ) -> Iterator[OuterVariable]:
        """Yield the variable of a name in a module, unless it is a function, class or module."""
        if owner is _MISSING or isinstance(owner, types.ModuleType):
            return
        if isinstance(space, types.ModuleType) and _is_library(space.__name__):
            # A function of a library: its owner may be the generator of the process.
            self._waiting.append(owner)
            self._note_torch(space.__name__)
        elif isinstance(owner, (*_CODE_TYPES, type)):
            self._waiting.append(owner)
        elif space is None or vars(space).get(name, _MISSING) is not owner:
            # The function's module is not imported under its name.
            yield from self._global(function, name, owner)
        else:
            yield from self._variable(space, name, owner)

    def _global(
        self, function: types.FunctionType, name: str, value: Value
    ) -> Iterator[OuterVariable]:
        variables = function.__globals__
        if self._is_new(variables, name):
            put = _item_putter(variables, name)
            yield OuterVariable(f"{module_name(function)}.{name}", value, put)

    def _variable(self, owner: Value, name: str, value: Value) -> Iterator[OuterVariable]:
        if self._is_new(owner, name):
            yield OuterVariable(f"{_name_of(owner)}.{name}", value, _attribute_putter(owner, name))

    def _cell(
        self, function: types.FunctionType, name: str, cell: Any, value: Value
    ) -> Iterator[OuterVariable]:
        if isinstance(value, (*_CODE_TYPES, type)):
            self._waiting.append(value)
        elif self._is_new(cell, name):
            put = _attribute_putter(cell, "cell_contents")
            yield OuterVariable(f"{name} around {_name_of(function)}", value, put)

    def _is_new(self, owner: Value, name: str) -> bool:
        key = id(owner), name
        is_new = key not in self._variables_seen
        self._variables_seen.add(key)
        self._held.append(owner)
        return is_new


_MISSING = object()


_WITHOUT_CODE = IMMUTABLE_TYPES | {np.random.Generator}

# Id of a class -> the class, and whether it and all its bases come from libraries.
_LIBRARY_CLASSES: dict[int, tuple[weakref.ref[type], bool]] = {}


def _is_library_class(cls: type) -> bool:
    known = _LIBRARY_CLASSES.get(id(cls))
    if known is None or known[0]() is not cls:
        is_library = all(_is_library(module_of(base)) for base in cls.__mro__)
        known = _LIBRARY_CLASSES[id(cls)] = weakref.ref(cls), is_library
    return known[1]


def _is_library(module: str) -> bool:
    return is_own_library(module) or module.partition(".")[0] in _LIBRARIES


def _is_table(name: str, value: Value) -> bool:
    """Return whether an attribute of a layer is a table or a native object of a library."""
    return name in TABLES and _is_library(module_of(type(value)))


def _is_descriptor(item: Value) -> bool:
    kind = type(item)
    return isinstance(item, types.MemberDescriptorType) or (
        hasattr(kind, "__get__") and kind.__module__ in ("functools", "builtins", "abc", "_abc")
    )


def _name_of(owner: Value) -> str:
    if isinstance(owner, types.ModuleType):
        return owner.__name__
    return f"{module_of(owner)}.{owner.__qualname__}"


def _attribute_putter(owner: Value, name: str) -> Callable[[Value], None]:
    return lambda value: setattr(owner, name, value)


def _item_putter(items: dict[str, Value], name: str) -> Callable[[Value], None]:
    return lambda value: items.__setitem__(name, value)
