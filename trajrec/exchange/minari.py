"""Minari: datasets of environments, as HDF5, Arrow files or Parquet.

A dataset is a folder whose `data/metadata.json` has the spaces and the environment's `env_spec`.
The data of an episode are columns: a row for each step, and one more of observations and infos.
Minari does not tell Python's numbers from NumPy's: rewards, infos and observations of a Discrete
become Python's, as most environments return them, and actions become NumPy's, as spaces sample them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.exchange.candidates import Candidate, Format
from trajrec.exchange.env_records import EnvEpisode, EnvRecordings, EnvStep
from trajrec.exchange.minari_arrow import FACTS, episode_folders, read_tables, tables_in
from trajrec.exchange.minari_env import FILLED_KEY, OWN_KEY, env_of
from trajrec.exchange.minari_hdf5 import FILE, read_hdf5
from trajrec.exchange.minari_parts import Spaces, StoredEpisode
from trajrec.exchange.minari_spaces import (
    NumberKind,
    Rows,
    Space,
    info_rows,
    lengths,
    read_space,
    rows_of,
)
from trajrec.exchange.reading import Place, read_json
from trajrec.types import Array, Info, JsonObject

_DATASET = frozenset(
    (
        "total_episodes",
        "total_steps",
        "data_format",
        "jpeg_encoding",
        "observation_space",
        "action_space",
        "env_spec",
        "dataset_id",
        "minari_version",
        OWN_KEY,
    )
)
_EPISODE = frozenset(("id", "seed", "options", "total_steps", FILLED_KEY))

_SUFFIXES = ("arrow", "parquet")


def dataset_folder(name: str) -> Path:
    """Return the folder in which Minari keeps the dataset of an id."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return (Path(root) if root else Path.home() / ".minari" / "datasets") / name


def _data_folder(candidate: Candidate) -> Path | None:
    """Return the folder with the data of a dataset, None if the candidate is none."""
    if not candidate.is_folder:
        return None
    for folder in (candidate.path / "data", candidate.path):
        metadata = folder / FACTS
        if metadata.is_file():
            fields = read_json(metadata)
            if type(fields) is dict and {"data_format", "minari_version"} & fields.keys():
                return folder
    return None


def _matches(candidate: Candidate) -> bool:
    return _data_folder(candidate) is not None


def _files(candidate: Candidate) -> list[Path]:
    data = _data_folder(candidate)
    if data is None:
        return [candidate.path]
    paths = [data / FACTS]
    if (data / FILE).is_file():
        paths.append(data / FILE)
    for folder in episode_folders(data):
        paths += [path for suffix in _SUFFIXES for path in tables_in(folder, suffix)]
        paths += [folder / FACTS] if (folder / FACTS).is_file() else []
    return paths


def _read(candidate: Candidate, account: Account) -> EnvRecordings:
    data = _data_folder(candidate)
    if data is None:
        raise ImportFileError("is no dataset of Minari", path=candidate.path)
    place = Place(data / FACTS)
    metadata = place.expect(dict, read_json(place.path), "the file")
    account.take(metadata, "dataset", _DATASET)
    spaces = Spaces(
        read_space(metadata, "observation_space", place),
        read_space(metadata, "action_space", place),
    )
    data_format = place.expect(str, metadata.get("data_format", "hdf5"), "data_format")
    if data_format == "hdf5":
        stored = read_hdf5(data / FILE, spaces)
    elif data_format in _SUFFIXES:
        stored = read_tables(data, data_format, spaces)
    else:
        raise place.error(f"data_format {data_format!r} is not read")
    has_jpeg = bool(metadata.get("jpeg_encoding", True)) and any(map(_has_image, spaces))
    if has_jpeg:
        account.note("images are JPEG: not the pixels that the environment returned")
    reader = _EpisodeReader(spaces, _number_kinds(metadata), _tuples(metadata), account)
    return EnvRecordings(
        env=env_of(metadata, place, has_jpeg=has_jpeg),
        version=place.optional(str, metadata.get("minari_version"), "minari_version", ""),
        episodes=_episodes(_guarded(stored, data), reader, metadata, place),
    )


def _number_kinds(metadata: JsonObject) -> dict[str, NumberKind]:
    """Return the types of single numbers by path, which an export of trajrec adds."""
    own = metadata.get(OWN_KEY)
    kinds = own.get("numbers") if type(own) is dict else None
    if type(kinds) is not dict:
        return {}
    return {path: kind for path, kind in kinds.items() if kind in ("python", "numpy", "array")}


def _tuples(metadata: JsonObject) -> frozenset[str]:
    """Return the paths of tuples in infos, which an export of trajrec adds."""
    own = metadata.get(OWN_KEY)
    paths = own.get("tuples") if type(own) is dict else None
    return (
        frozenset(path for path in paths if type(path) is str)
        if type(paths) is list
        else frozenset()
    )


def _has_image(space: Space) -> bool:
    return space.is_image or any(map(_has_image, space.parts.values()))


def _guarded(stored: Iterator[StoredEpisode], path: Path) -> Iterator[StoredEpisode]:
    """Yield episodes; raise an `ImportFileError` for the errors of the libraries that read them."""
    try:
        yield from stored
    except (OSError, RuntimeError, MemoryError, RecursionError) as exc:
        # One line: HDF5 and Arrow add the place in their sources.
        reason = str(exc).strip().partition("\n")[0] or type(exc).__name__
        raise ImportFileError(f"cannot be read: {reason}", path=path) from exc


class _EpisodeReader:
    """Turns stored episodes into those that are logged.

    Args:
        spaces: The spaces of the dataset.
        kinds: The types of its single numbers by path, as far as they are known.
        tuples: The paths of tuples in its infos, as far as they are known.
        account: Counts what is read.

    Attributes:
        account: The same.
    """

    def __init__(
        self,
        spaces: Spaces,
        kinds: Mapping[str, NumberKind],
        tuples: Collection[str],
        account: Account,
    ) -> None:
        self._spaces = spaces
        self._kinds = kinds
        self._tuples = tuples
        self.account = account

    def read(self, stored: StoredEpisode, place: Place) -> EnvEpisode:
        """Return an episode, of which the steps are made when they are needed."""
        account = self.account
        n_steps = len(stored.arrays["rewards"])
        extra = account.take(stored.facts, "episode", _EPISODE)
        counted = place.optional(int, stored.facts.get("total_steps"), "total_steps", n_steps)
        if counted != n_steps:
            raise place.error(f"total_steps is {counted}, and it has {n_steps} rewards")
        for name in stored.unread:
            account.drop(f"{name}, which no episode of Minari has")
        n_infos = lengths(stored.infos)
        if n_infos - {n_steps, n_steps + 1} or len(n_infos) > 1:
            raise place.error(f"infos have {sorted(n_infos)} rows, and there are {n_steps} steps")
        flags = [
            _flags(stored.arrays[name], n_steps, place.at(name))
            for name in ("terminations", "truncations")
        ]
        account.keep("observation", n_steps + 1)
        account.keep("step", n_steps)
        return EnvEpisode(
            position=f"episode {stored.number}",
            seed=place.optional(int, stored.facts.get("seed"), "seed", None),
            options=place.optional(dict, stored.facts.get("options"), "options", None),
            observation=self._observation(stored)(0),
            # Without any column, infos are empty dicts, or dicts of such.
            info={} if n_infos == {n_steps} else self._reset_info(stored),
            steps=self._steps(stored, *flags),
            n_steps=n_steps,
            terminated=bool(flags[0][-1]),
            truncated=bool(flags[1][-1]),
            extra=extra,
        )

    def _observation(self, stored: StoredEpisode) -> Rows:
        space = self._spaces.observation
        columns = stored.observations
        return rows_of(space, columns, "observations", self._kinds, discrete="python")

    def _info(self, stored: StoredEpisode) -> Rows:
        return info_rows(stored.infos, "infos", self._kinds, self._tuples)

    def _reset_info(self, stored: StoredEpisode) -> Info:
        """Return the info of the reset, without keys whose row an export has filled."""
        info: Info = self._info(stored)(0)
        keys = stored.facts.get(FILLED_KEY) or []
        return {key: value for key, value in info.items() if key not in keys}

    def _steps(
        self, stored: StoredEpisode, terminated: Array, truncated: Array
    ) -> Iterator[EnvStep]:
        actions = stored.actions
        action = rows_of(self._spaces.action, actions, "actions", self._kinds, discrete="numpy")
        observation = self._observation(stored)
        rewards = stored.arrays["rewards"]
        reward = info_rows(rewards, "rewards", self._kinds)
        info = self._info(stored)
        n_steps = len(rewards)
        n_before = 1 if lengths(stored.infos) == {n_steps + 1} else 0
        for row in range(n_steps):
            values: JsonObject = {}
            if row < n_steps - 1 and (terminated[row] or truncated[row]):
                values = {"terminated": bool(terminated[row]), "truncated": bool(truncated[row])}
                self.account.note("flags inside of an episode are values of their steps")
            yield EnvStep(
                action=action(row),
                observation=observation(row + 1),
                reward=reward(row),
                info=info(row + n_before),
                values=values,
            )


def _episodes(
    stored: Iterator[StoredEpisode], reader: _EpisodeReader, metadata: JsonObject, place: Place
) -> Iterator[EnvEpisode]:
    """Yield the episodes, and compare their number with the metadata."""
    n_episodes = 0
    for episode in stored:
        n_episodes += 1
        at = Place(place.path.parent, f"episode {episode.number}")
        if len(episode.arrays["rewards"]):
            yield reader.read(episode, at)
        else:
            reader.account.drop("an episode without steps")
    counted = place.optional(int, metadata.get("total_episodes"), "total_episodes", n_episodes)
    if counted > n_episodes:
        raise place.error(f"counts {counted} episodes, and the data have {n_episodes}")
    if counted < n_episodes:
        reader.account.note("the data have more episodes than metadata.json counts")


def _flags(array: Array, n_steps: int, place: Place) -> Array:
    is_flags = array.dtype.kind in "biu" and bool(np.isin(array, (0, 1)).all())
    if array.shape != (n_steps,) or not is_flags:
        raise place.error(f"must be {n_steps} flags")
    return array.astype(np.bool_)


FORMAT = Format(name="minari", title="Minari", matches=_matches, read=_read, files=_files)
