"""The extension types of encoded values, and the classes that stand for objects and references.

docs/reference/log-format.md has the table of the codes.
"""

from __future__ import annotations

import dataclasses

from trajrec.module_names import script_name
from trajrec.types import JsonObject

TUPLE = 1
ARRAY = 2
SCALAR = 3
BIGINT = 4
MAP = 5
TEXT = 6
OBJECT = 7
OPAQUE = 8
SET = 9
COMPLEX = 10
OBJECT_ARRAY = 11
FROZENSET = 12
BYTEARRAY = 13
REF = 14

# Each level costs two or three Python frames of the 1000 that Python allows by default.
# The bound keeps cycles, damaged bytes and hostile bytes from exhausting the stack.
MAX_DEPTH = 100
"""Deepest nesting of values that is encoded or decoded."""

# NumPy's kinds that have a fixed size and no references: numbers, times, texts and records.
ARRAY_KINDS = frozenset("biufcmMSUV")


@dataclasses.dataclass(frozen=True)
class Plain:
    """An object as plain data.

    Attributes:
        type_name: Module and qualified name of its class, e.g. "shop.Order".
        kind: How its class was declared: "enum", "dataclass", "namedtuple", "pydantic", "attrs",
            "struct" (msgspec), "subclass" (of a builtin), "value" (of the standard library) or
            "array" (see `trajrec.values.foreign_arrays`).
        fields: Its fields by name; {"name", "value"} of an enum; {"value"} of a subclass or value.
    """

    type_name: str
    kind: str
    fields: JsonObject

    # An enum's member or a date may be the key of a dict, so what stands for it must have a hash.
    def __hash__(self) -> int:
        # The order of fields does not count, as in the comparison of dicts.
        fields = frozenset((name, _hash(value)) for name, value in self.fields.items())
        return hash((self.type_name, self.kind, fields))


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Stands for a value that could not be stored, so that the loss is visible.

    Attributes:
        type_name: Module and qualified name of its class.
        text: The start of its repr.
    """

    type_name: str
    text: str


@dataclasses.dataclass(frozen=True)
class Ref:
    """Stands for a value that is stored elsewhere in the log.

    Attributes:
        digest: The digest of the value's bytes, 16 bytes.
    """

    digest: bytes


def _hash(value: object) -> int:
    try:
        return hash(value)
    except TypeError:
        return 0


def type_name(value: object) -> str:
    """Return module and qualified name of a value's type.

    >>> type_name(1.5)
    'builtins.float'
    """
    cls = type(value)
    return f"{script_name(cls.__module__)}.{cls.__qualname__}"
