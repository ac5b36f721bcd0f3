"""Batches as record batches of Arrow. This module imports pyarrow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from trajrec.datasets.transitions import Transitions
from trajrec.errors import CorpusError
from trajrec.log.record_encoder import storable
from trajrec.types import Array

EPISODE_ID = "episode_id"
"""The column that stands for `episode`: the id itself."""


def to_reader(transitions: Transitions) -> pa.RecordBatchReader:
    """Return the batches of transitions as a reader, which decodes them one by one.

    An array of several numbers is a list of fixed size, and the metadata of its field have its
    shape as JSON under "shape". Texts and ids of episodes are dictionaries; lone surrogates, which
    UTF-8 lacks, are escapes in them.

    Raises:
        CorpusError: Arrow has no type for the numbers of a column.
    """
    schema = _schema(transitions)
    return pa.RecordBatchReader.from_batches(schema, _batches(transitions, schema))


def _batches(transitions: Transitions, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    texts = {
        name: pa.array(map(storable, values), pa.string())
        for name, values in transitions.texts.items()
    }
    ids = pa.array(transitions.episode_ids, pa.string())
    for batch in transitions:
        columns = []
        for name, array in batch.items():
            if name == "episode":
                columns.append(pa.DictionaryArray.from_arrays(pa.array(array), ids))
            elif name.removeprefix("next_") in texts:
                codes = pa.array(array)
                words = texts[name.removeprefix("next_")]
                columns.append(pa.DictionaryArray.from_arrays(codes, words))
            else:
                columns.append(_column(array))
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _schema(transitions: Transitions) -> pa.Schema:
    """Return the types of the columns."""
    fields = []
    for name in transitions.columns:
        dtype, shape = transitions.form(name)
        if name == "episode":
            words = pa.dictionary(pa.int32(), pa.string())
            fields.append(pa.field(EPISODE_ID, words))
        elif name.removeprefix("next_") in transitions.texts:
            fields.append(pa.field(name, pa.dictionary(pa.int32(), pa.string())))
        else:
            try:
                item = pa.from_numpy_dtype(dtype.newbyteorder("="))
            except pa.ArrowException as exc:
                raise CorpusError(
                    f"{name!r} holds numbers of the type {dtype}, which Arrow does not have; "
                    "corpus.transitions reads them"
                ) from exc
            size = math.prod(shape)
            # Lists of a fixed size have at least one item.
            kind = pa.list_(item, size or -1) if shape else item
            fields.append(pa.field(name, kind, metadata={"shape": json.dumps(shape)}))
    return pa.schema(fields)


def _column(array: Array) -> pa.Array:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 1:
        return pa.array(array)
    size = math.prod(array.shape[1:])
    if not size:
        starts = pa.array(np.zeros(len(array) + 1, np.int32))
        return pa.ListArray.from_arrays(starts, pa.array(np.ravel(array)))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(array)), size)
