"""Writes episodes of an environment as a Minari dataset: HDF5, in the layout of Minari 0.5.4.

Minari itself is not needed. Images are stored as they are, and not as JPEG.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from trajrec.corpus.corpus import Corpus
from trajrec.corpus.episode import Episode
from trajrec.corpus.exports import exporting
from trajrec.corpus.lineage import lineage
from trajrec.errors import CorpusError, MissingPackageError
from trajrec.exchange.account import Account
from trajrec.exchange.export_reports import ExportReport
from trajrec.exchange.minari import dataset_folder
from trajrec.exchange.minari_arrow import FACTS
from trajrec.exchange.minari_columns import Node, NotHeldError
from trajrec.exchange.minari_env import OWN_KEY, expanded, metadata_of
from trajrec.exchange.minari_episode import DatasetEpisode, dataset_episode, why_not_held
from trajrec.exchange.minari_hdf5 import FILE
from trajrec.exchange.minari_spaces import NumberKind
from trajrec.exchange.minari_writing import write_episode
from trajrec.exchange.reading import sha256_of
from trajrec.exchange.space_texts import SpaceText, fits, guessed_space, widened
from trajrec.log.schema import API_FIELD, FACTORY_FIELD, EnvRecord
from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.diff import is_same

MINARI_VERSION = "0.5.4"
"""The first version that reads images that are no JPEG."""

# As Minari's own: a namespace has two letters or more.
_ID = re.compile(r"(?:[-_\w][-_\w/]*[-_\w]/)?[-_\w]+-v\d+")


def export_minari(
    corpus: Corpus, output: str | Path, where: str = "true", *, overwrite: bool = False
) -> ExportReport:
    """Write the episodes of one environment as a dataset that `minari.load_dataset` reads.

    Args:
        corpus: The corpus.
        output: A new folder, named as an id of Minari: "cartpole-v0". If MINARI_DATASETS_PATH is
            set and has the folder, the id is the path below it: "cartpole/random-v0". The folder
            appears when it is whole.
        where: A SQL condition on the columns of `all_episodes`.
        overwrite: Whether the folder of any export is replaced, and not only of the same call.

    Returns:
        The number of the episodes, and the account of what they hold. Episodes that Minari cannot
        hold are counted as dropped, with the reason: those of agents, forks, and those with
        exceptions, lost steps, or values without a common form.

    Raises:
        ValueError: The folder's name is no id of a dataset.
        MissingPackageError: h5py is not installed.
        CorpusError: Episodes of several environments or none are selected, the folder exists, or
            it cannot be written.
        LogCorruptError: A log has lost a value.

    >>> export_minari(corpus, "cartpole-v0", "env_id = 'CartPole-v1'")  # doctest: +SKIP
    """
    path = Path(output)
    dataset_id = _dataset_id(path)
    try:
        import h5py
    except ImportError as exc:
        raise MissingPackageError("h5py", "minari") from exc
    report = ExportReport()
    command = {"kind": "minari", "where": where, "id": dataset_id}
    with exporting(corpus.path, path, command, overwrite=overwrite) as temporary:
        data = temporary / "data"
        data.mkdir(parents=True)
        dataset = _Dataset(report.account)
        with h5py.File(data / FILE, "w", track_order=True) as file:
            for episode in _episodes(corpus, where, report.account):
                columns = dataset.add(episode)
                if columns is not None:
                    write_episode(h5py, file, report.n_episodes, columns)
                    report.n_episodes += 1
        if not report.n_episodes:
            reasons = "; ".join(report.account.dropped) or "no episode is selected"
            raise CorpusError(f"{corpus.path}: no episode for a dataset of Minari: {reasons}")
        n_bytes, digest = sha256_of(data / FILE)
        metadata = dataset.metadata(
            dataset_id,
            report,
            megabytes=n_bytes / 1e6,
            origin=lineage(where, digest, report.n_episodes),
        )
        (data / FACTS).write_text(json.dumps(metadata))
    return report


def _dataset_id(path: Path) -> str:
    """Return the id of the dataset in a folder.

    Raises:
        ValueError: The name of the folder is none.
    """
    root = dataset_folder("").resolve()
    resolved = path.resolve()
    is_below = bool(os.environ.get("MINARI_DATASETS_PATH")) and root in resolved.parents
    name = resolved.relative_to(root).as_posix() if is_below else path.name
    if not _ID.fullmatch(name):
        raise ValueError(
            "the folder must have the name of a dataset, NAME-v0 or NAMESPACE/NAME-v0 with a "
            f"namespace of two letters or more, got {name}"
        )
    return name


def _episodes(corpus: Corpus, where: str, account: Account) -> Iterator[Episode]:
    """Yield the episodes that Minari can hold; count the others.

    Raises:
        CorpusError: They are of several environments.
    """
    first: EnvRecord | None = None
    for episode in corpus.episodes(where):
        reason = why_not_held(episode)
        if reason:
            account.drop(reason)
            continue
        env = episode.header.env
        if first is None:
            first = env
        elif _identity(env) != _identity(first):
            names = sorted({env.env_id or env.class_name, first.env_id or first.class_name})
            odd = "arguments" if env.max_episode_steps == first.max_episode_steps else "step limits"
            detail = " and ".join(names) if len(names) == 2 else f"{names[0]} with other {odd}"
            raise CorpusError(
                f"{corpus.path}: a dataset of Minari has one environment, and the episodes are of "
                f"{detail}: select those of one, for instance --where \"env_id = '{names[0]}'\""
            )
        yield episode


def _identity(env: EnvRecord) -> tuple[Value, ...]:
    limit = env.max_episode_steps
    return (env.env_id, env.class_name, env.kwargs_data, tuple(env.wrappers), limit)


class _Dataset:
    """The facts about the episodes of a dataset, which its metadata need.

    Args:
        account: Counts what the episodes hold, and what is not carried over.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._env: EnvRecord | None = None
        self._spaces: dict[str, JsonObject] = {}
        self._guessed: set[str] = set()
        self._kinds: dict[str, NumberKind] = {}
        self._mixed: set[str] = set()
        self._lost_infos: set[str] = set()
        self._tuples: set[str] = set()
        self._n_steps = 0

    def add(self, episode: Episode) -> DatasetEpisode | None:
        """Return an episode as it is stored, None if Minari cannot hold it."""
        try:
            columns = dataset_episode(episode)
            self._check(columns, episode.header.env)
        except NotHeldError as exc:
            self._account.drop(f"an episode that Minari cannot hold: {exc.reason}")
            return None
        account = self._account
        self._n_steps += columns.n_steps
        account.keep("episode")
        account.keep("observation", columns.n_steps + 1)
        account.keep("step", columns.n_steps)
        for reason in columns.losses:
            account.drop(reason)
            if reason.startswith("infos"):
                self._lost_infos.add(reason)
        self._mixed.update(columns.mixed)
        self._tuples.update(columns.tuples)
        for path in columns.tuples:
            account.note(f"{path}: tuples, which Minari reads as dicts")
        for path in columns.mixed:
            account.note(f"{path}: numbers of several types become those of one")
        for key in columns.filled:
            account.note(f"infos/{key}: not in the info of the reset, whose row is NaN")
        if not (columns.terminations[-1] or columns.truncations[-1]):
            account.note("an episode that did not end has no flag at its last step")
        return columns

    def _check(self, columns: DatasetEpisode, env: EnvRecord) -> None:
        """Compare an episode with the spaces and types of those before it.

        Raises:
            NotHeldError: They differ.
        """
        kinds = dict(self._kinds)
        for path, kind in columns.number_kinds().items():
            if kinds.setdefault(path, kind) != kind:
                raise NotHeldError(path, "numbers of other types than in the episodes before it")
        spaces = dict(self._spaces)
        guessed = set(self._guessed)
        for name, node in (("observation", columns.observations), ("action", columns.actions)):
            key = f"{name}_space"
            if key not in spaces:
                spaces[key], is_known = self._first_space(env, key, node)
                guessed |= set() if is_known else {key}
            elif not fits(spaces[key], node):
                raise NotHeldError(f"{name}s", "another form than in the episodes before it")
            if key in guessed:
                spaces[key] = widened(spaces[key], node)
        self._env = env
        self._kinds = kinds
        self._spaces = spaces
        self._guessed = guessed

    def _first_space(self, env: EnvRecord, key: str, node: Node) -> tuple[JsonObject, bool]:
        """Return a space, and whether the log has it."""
        stored = metadata_of(env).get(key)
        if type(stored) is dict and fits(stored, node):
            return expanded(stored), True
        text: str = getattr(env, key)
        shown = SpaceText(text)
        if shown.space is not None and fits(shown.space, node):
            if shown.is_rounded:
                self._account.note(f"{key}: bounds have the 8 digits that the log shows")
            return shown.space, True
        self._account.note(f"{key}: the log does not show it, so its bounds are those of its dtype")
        return guessed_space(node, key), False

    def metadata(
        self, dataset_id: str, report: ExportReport, *, megabytes: float, origin: JsonObject
    ) -> JsonObject:
        """Return the metadata of the dataset, with those that it was imported with."""
        assert self._env is not None
        metadata = dict(metadata_of(self._env))
        metadata.pop("env_spec", None)
        # Of an earlier export.
        metadata.pop(OWN_KEY, None)
        spec = self._env_spec(self._env)
        if spec:
            metadata["env_spec"] = spec
        own = {
            "lineage": origin,
            "report": report.account.as_dict(),
            "numbers": self._kinds,
            "mixed": sorted(self._mixed),
            "lost_infos": sorted(self._lost_infos),
            "tuples": sorted(self._tuples),
        }
        return {
            **metadata,
            "total_episodes": report.n_episodes,
            "total_steps": self._n_steps,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            **{key: json.dumps(space) for key, space in self._spaces.items()},
            "dataset_size": round(megabytes, 1),
            "dataset_id": dataset_id,
            "minari_version": MINARI_VERSION,
            OWN_KEY: own,
        }

    def _env_spec(self, env: EnvRecord) -> str:
        """Return the spec of the environment as JSON; "" if there is none."""
        stored = metadata_of(env).get("env_spec")
        if type(stored) is str:
            return stored
        reason = why_no_spec(env)
        if reason:
            self._account.drop(f"env_spec: {reason}")
            return ""
        wrappers = [
            {
                "name": name.rpartition(".")[2],
                "entry_point": ":".join(name.rsplit(".", 1)),
                "kwargs": codec.decode(data or b""),
            }
            for name, data in env.wrappers
        ]
        spec = {
            "id": env.env_id,
            "entry_point": env.entry_point,
            "reward_threshold": None,
            "nondeterministic": False,
            "max_episode_steps": env.max_episode_steps,
            "order_enforce": env.spec_fields.get("order_enforce", True),
            "disable_env_checker": env.spec_fields.get("disable_env_checker", False),
            "kwargs": codec.decode_map(env.kwargs_data),
            "additional_wrappers": wrappers,
            "vector_entry_point": None,
        }
        return json.dumps(spec)


def why_no_spec(env: EnvRecord) -> str:
    """Return why a dataset cannot name an environment; "" if it can."""
    if env.recreatable:
        return env.recreatable
    if FACTORY_FIELD in env.spec_fields or API_FIELD in env.spec_fields or not env.entry_point:
        return "the environment is not made by gymnasium.make"
    values = [codec.decode_map(env.kwargs_data)]
    values += [codec.decode(data or b"") for _, data in env.wrappers]
    try:
        is_json = is_same(json.loads(json.dumps(values)), values)
    except (TypeError, ValueError):
        is_json = False
    return "" if is_json else "arguments of the environment are no JSON"
