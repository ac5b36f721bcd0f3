"""Plain values as attributes of OTLP/JSON."""

from __future__ import annotations

import math

from trajrec.types import JsonObject, Value

_INT64 = 1 << 63


def attribute_list(attributes: JsonObject) -> list[JsonObject]:
    """Return attributes as OTLP lists them; those that are None are left out.

    >>> attribute_list({"n": 1, "name": None})
    [{'key': 'n', 'value': {'intValue': '1'}}]
    """
    return [
        {"key": name, "value": any_value(value)}
        for name, value in attributes.items()
        if value is not None
    ]


def any_value(value: Value) -> JsonObject:
    """Return a JSON value as OTLP writes it: integers as texts, a null as nothing.

    >>> any_value([True, 0.5, None])
    {'arrayValue': {'values': [{'boolValue': True}, {'doubleValue': 0.5}, {}]}}
    """
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return {"intValue": str(value)}
    if isinstance(value, float):
        # As JSON of protobuf writes them: "NaN", "Infinity".
        names = {math.inf: "Infinity", -math.inf: "-Infinity"}
        return {"doubleValue": value if math.isfinite(value) else names.get(value, "NaN")}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": list(map(any_value, value))}}
    if isinstance(value, dict):
        pairs = [{"key": str(key), "value": any_value(item)} for key, item in value.items()]
        return {"kvlistValue": {"values": pairs}}
    return {"stringValue": str(value)}
