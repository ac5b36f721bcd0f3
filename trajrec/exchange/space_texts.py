"""Reads the text of a Gymnasium space, which a log holds, and guesses a space from values.

A space is written as Minari's `metadata.json` has it.
"""

from __future__ import annotations

import ast
import math
import re

import numpy as np

from trajrec.exchange.minari_columns import Composed, Node, NotHeldError
from trajrec.types import Array, JsonObject

# Between two numbers of an array that NumPy prints, or between two of its rows.
_GAP = re.compile(r"(?<=[\w.\]])\s+(?=[-\w.\[])")

# More characters than those of one number that NumPy prints in 8 digits.
_ROUNDED = re.compile(r"\.\d{7,}")


class SpaceText:
    """The space that a text shows.

    Args:
        text: The text.

    Attributes:
        space: The space; None if the text does not show it whole.
        is_rounded: Whether bounds have more digits than the text may show.
    """

    def __init__(self, text: str) -> None:
        self.is_rounded = False
        self.space: JsonObject | None = None
        try:
            self.space = self._space(text)
        except (ValueError, SyntaxError, TypeError, KeyError, IndexError, RecursionError):
            # A space of another package, or one whose text is cut off.
            self.space = None

    def _space(self, text: str) -> JsonObject:
        name, _, rest = text.strip().partition("(")
        if not rest.endswith(")"):
            raise ValueError(text)
        arguments = _split(rest[:-1])
        if name == "Dict":
            pairs = [argument.partition(": ") for argument in arguments]
            parts = {ast.literal_eval(key): self._space(value) for key, _, value in pairs}
            return {"type": name, "subspaces": parts}
        if name == "Tuple":
            return {"type": name, "subspaces": [self._space(item) for item in arguments]}
        options = dict(item.split("=", 1) for item in arguments if "=" in item)
        values = [item for item in arguments if "=" not in item]
        return self._leaf(name, values, options)

    def _leaf(self, name: str, values: list[str], options: dict[str, str]) -> JsonObject:
        if name == "Discrete":
            start = int(options.get("start", "0"))
            return {"type": name, "dtype": "int64", "start": start, "n": int(values[0])}
        if name == "MultiBinary":
            n = ast.literal_eval(values[0])
            return {"type": name, "n": list(n) if type(n) is tuple else int(n)}
        if name == "MultiDiscrete":
            sizes = self._array(values[0])
            starts = self._array(options["start"]) if "start" in options else np.zeros_like(sizes)
            return {
                "type": name,
                "dtype": options.get("dtype", "int64"),
                "nvec": sizes.tolist(),
                "start": starts.tolist(),
            }
        if name == "Text" and options["charset"].isalnum():
            lengths = {"min_length": int(values[0]), "max_length": int(values[1])}
            return {"type": name, **lengths, "charset": options["charset"]}
        if name != "Box":
            raise ValueError(name)
        low, high, shape_text, dtype = values
        shape = ast.literal_eval(shape_text)
        bounds = {
            key: np.broadcast_to(self._array(item).astype(dtype), shape).tolist()
            for key, item in (("low", low), ("high", high))
        }
        return {"type": name, "dtype": dtype, "shape": list(shape), **bounds}

    def _array(self, text: str) -> Array:
        """Return an array that NumPy has printed."""
        if "..." in text:
            raise ValueError(text)
        if text.startswith("[") and _ROUNDED.search(text):
            self.is_rounded = True
        commas = _GAP.sub(",", text.strip()).replace("inf", "1e999")
        return np.array(ast.literal_eval(commas))


def _split(text: str) -> list[str]:
    """Return the arguments in a text: what stands between commas outside of brackets and quotes."""
    items: list[str] = []
    depth = 0
    quote = ""
    start = 0
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and not depth:
            items.append(text[start:index].strip())
            start = index + 1
    last = text[start:].strip()
    return [*items, last] if last else items


def fits(space: JsonObject, node: Node) -> bool:
    """Return whether columns have the structure and the shapes of a space."""
    kind = space.get("type")
    if isinstance(node, Composed):
        parts = space.get("subspaces")
        if kind == "Tuple" and type(parts) is list:
            parts = {str(number): part for number, part in enumerate(parts)}
        return (
            kind == node.kind
            and type(parts) is dict
            and parts.keys() == node.parts.keys()
            and all(fits(parts[name], part) for name, part in node.parts.items())
        )
    if isinstance(node.values, list):
        return kind == "Text"
    shape = node.values.shape[1:]
    if kind == "Discrete":
        return shape == () and node.values.dtype.kind in "iu"
    if kind == "Box":
        return tuple(space["shape"]) == shape and not _is_image_of_others(space, node.values)
    if kind == "MultiDiscrete":
        return bool(shape == np.shape(space["nvec"]))
    n = space.get("n")
    return kind == "MultiBinary" and shape == (tuple(n) if type(n) is list else (n,))


def _is_image_of_others(space: JsonObject, values: Array) -> bool:
    return str(space.get("dtype")) == "uint8" and values.dtype != np.uint8


def guessed_space(node: Node, path: str) -> JsonObject:
    """Return the space of columns whose own space is unknown: its bounds are those of the dtype.

    Raises:
        NotHeldError: No space has values of this dtype.
    """
    if isinstance(node, Composed):
        parts = {name: guessed_space(part, f"{path}/{name}") for name, part in node.parts.items()}
        return {
            "type": node.kind,
            "subspaces": parts if node.kind == "Dict" else list(parts.values()),
        }
    values = node.values
    if isinstance(values, list):
        space: JsonObject = {"type": "Text", "min_length": 0, "max_length": 1, "charset": ""}
        return widened(space, node)
    shape = values.shape[1:]
    dtype = values.dtype
    if dtype.kind == "b":
        return {"type": "MultiBinary", "n": list(shape)}
    if dtype.kind == "c":
        raise NotHeldError(path, f"values of type {dtype}")
    low, high = -math.inf, math.inf
    if dtype.kind in "iu":
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    bounds = {"low": np.full(shape, low, object), "high": np.full(shape, high, object)}
    return {
        "type": "Box",
        "dtype": str(dtype),
        "shape": list(shape),
        **{name: array.tolist() for name, array in bounds.items()},
    }


def widened(space: JsonObject, node: Node) -> JsonObject:
    """Return a guessed space that has the texts of further columns too."""
    if isinstance(node, Composed):
        parts = space["subspaces"]
        if node.kind == "Tuple":
            items = zip(parts, node.parts.values(), strict=True)
            return {**space, "subspaces": [widened(part, inner) for part, inner in items]}
        wider = {name: widened(parts[name], inner) for name, inner in node.parts.items()}
        return {**space, "subspaces": wider}
    if not isinstance(node.values, list):
        return space
    return {
        **space,
        "max_length": max([space["max_length"], *map(len, node.values)]),
        "charset": "".join(sorted({*space["charset"], *"".join(node.values)})),
    }
