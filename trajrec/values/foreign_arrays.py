"""Arrays that are no plain NumPy arrays: tensors, masked arrays, and dtypes that NumPy lacks.

A log has them as objects of the kind "array": the name of their type, and their items as a NumPy
array. Items of a dtype that NumPy lacks, such as bfloat16, are unsigned integers of the same bits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from trajrec.types import Array, JsonObject, Value
from trajrec.values.extensions import Plain

ARRAY = "array"
"""The kind of these objects."""

_BFLOAT16_SHIFT = 16


def has_own_dtype(value: Array | np.generic) -> bool:
    """Return whether a dtype was added to NumPy by a package: its text does not name it."""
    return value.dtype.isbuiltin == 2


def describe_array(value: Value) -> tuple[str, JsonObject] | None:
    """Return the type name and the fields of such an array; None for any other value.

    A tensor is stored without its device and its gradient.
    """
    cls = type(value)
    package = cls.__module__.partition(".")[0]
    name = f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(value, np.ma.MaskedArray):
        # Not its fill value: reading that changes the array.
        fields = {"value": np.asarray(value), "mask": np.ma.getmaskarray(value)}
        return "numpy.ma.MaskedArray", fields
    if isinstance(value, (np.ndarray, np.generic)):
        if has_own_dtype(value):
            return name, _bits(np.asarray(value))
        # Subclasses of other packages hold more than their items: units, for instance.
        return (name, {"value": np.asarray(value)}) if package == "numpy" else None
    try:
        if package == "torch" and hasattr(value, "detach"):
            return name, _torch_fields(value)
        if package in ("jax", "jaxlib") and hasattr(value, "__array__"):
            return "jax.Array", _fields(np.asarray(value))
        if package == "tensorflow" and hasattr(value, "numpy"):
            return "tensorflow.Tensor", _fields(np.asarray(value.numpy()))
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        # It is sparse, quantised, traced or on no device: it has no items to be read.
        return None
    return None


def as_array(value: Plain) -> Array:
    """Return the items of an object of the kind "array" as a NumPy array, masked if it was.

    The items of a bfloat16 array are float32, of the same values, if the package `ml_dtypes` is not
    imported.

    Raises:
        TypeError: The dtype belongs to a package that is not imported.
    """
    items: Array = np.asarray(value.fields["value"])
    dtype = value.fields.get("dtype")
    if dtype is not None:
        items = _with_dtype(items, str(dtype))
    if "mask" in value.fields:
        return np.ma.MaskedArray(items, value.fields["mask"])
    return items


def as_given(value: Plain) -> Value:
    """Return an object of the kind "array" as a tensor of its library, if that is imported."""
    torch: Any = sys.modules.get("torch")
    jax: Any = sys.modules.get("jax")
    if value.type_name.startswith("torch.") and torch is not None:
        if value.fields.get("dtype") == "bfloat16":
            bits = torch.from_numpy(value.fields["value"].view(np.int16).copy())
            return bits.view(torch.bfloat16)
        return torch.from_numpy(np.array(value.fields["value"]))
    items = as_array(value)
    return jax.numpy.asarray(items) if value.type_name == "jax.Array" and jax is not None else items


def _fields(items: Array) -> JsonObject:
    return _bits(items) if has_own_dtype(items) else {"value": items}


def _bits(items: Array) -> JsonObject:
    """Return items of a dtype that NumPy lacks as integers, with the name of the dtype."""
    bits = np.array(items, order="C").view(f"u{items.dtype.itemsize}")
    return {"value": bits, "dtype": str(items.dtype)}


def _torch_fields(tensor: Any) -> JsonObject:
    items = tensor.detach().cpu().resolve_conj().resolve_neg()
    dtype = str(items.dtype).removeprefix("torch.")
    if dtype == "bfloat16":
        torch = sys.modules["torch"]
        bits = items.contiguous().view(torch.int16).numpy().view(np.uint16)
        return {"value": np.array(bits), "dtype": dtype}
    return {"value": np.array(items.numpy())}


def _with_dtype(bits: Array, name: str) -> Array:
    package: Any = sys.modules.get("ml_dtypes")
    if hasattr(package, name):
        return bits.view(getattr(package, name))
    if name == "bfloat16":
        return (bits.astype(np.uint32) << _BFLOAT16_SHIFT).view(np.float32)
    raise TypeError(f"the dtype {name} needs the package ml_dtypes")
