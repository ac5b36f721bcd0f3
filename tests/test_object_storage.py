"""Object storage: a corpus is pushed, read by ranges from a real server, and counted in requests."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import gymnasium as gym
import msgspec
import numpy as np
import pytest
from conftest import record
from tiers import Share, suite, third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.mirror import MANIFEST_NAME, Manifest, read_manifest
from trajrec.corpus.push import push
from trajrec.corpus.removal import remove
from trajrec.errors import CorpusError, LogError
from trajrec.log.reader import LogReader
from trajrec.log.remote import PLACEHOLDER, RemoteSource, file_system, mirrors_folder, url_of
from trajrec.replay import fork_many, replay_episode, replay_episodes

BUCKET = "corpora"


class Counted:
    """A real S3 server of moto that notes each request: method, path and range."""

    def __init__(self) -> None:
        app = pytest.importorskip("moto.moto_server.werkzeug_app", reason="moto is not installed")
        serving = pytest.importorskip("werkzeug.serving", reason="moto is not installed")
        self.requests: list[tuple[str, str, str]] = []
        self.n_bytes = 0
        answer = app.DomainDispatcherApplication(app.create_backend_app)

        def counted(environ: dict[str, Any], start_response: Any) -> Any:
            self.requests.append(
                (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", ""))
            )
            parts = list(answer(environ, start_response))
            self.n_bytes += sum(map(len, parts))
            return parts

        self.server = serving.make_server("127.0.0.1", 0, counted, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, name: str) -> list[tuple[str, str, str]]:
        """Return the requests for an object since they were cleared."""
        return [request for request in self.requests if request[1].endswith(name)]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Counted, str]]:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    counted = Counted()
    for name, value in {
        "AWS_ENDPOINT_URL": counted.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.filesystem("s3").mkdir(f"{BUCKET}-{tmp_path.name}".replace("_", "-").lower())
    url = f"s3://{BUCKET}-{tmp_path.name}/runs".replace("_", "-").lower()
    yield counted, url
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    counted.server.shutdown()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    record(gym.make("CartPole-v1"), folder, 5)
    record(gym.make("FrozenLake-v1"), folder / "lake", 5)
    return folder


def rows(corpus: Any, query: str) -> list[Any]:
    found: list[Any] = corpus.sql(query).fetchall()
    return found


@pytest.mark.slow
@third_slow("imports")
def test_a_pushed_corpus_answers_as_the_folder_does(
    runs: Path, storage: tuple[Counted, str]
) -> None:
    _, url = storage
    result = push(runs, url)
    assert len(result.uploaded) == 2
    assert not result.left
    with trajrec.open(runs) as local, trajrec.open(url) as remote:
        for query in (
            "SELECT * FROM episodes ORDER BY ALL",
            "SELECT * FROM steps ORDER BY ALL",
            "SELECT log, log_id, n_frames, is_sealed, mtime_ns FROM logs ORDER BY ALL",
        ):
            assert rows(remote, query) == rows(local, query)
        for ours, theirs in zip(local.episodes(), remote.episodes(), strict=True):
            assert ours.id == theirs.id
            np.testing.assert_array_equal(ours.observations, theirs.observations)
            assert list(ours.actions) == list(theirs.actions)
            assert replay_episode(theirs).grade == "exact"
        assert {r.grade for r in replay_episodes(remote.episodes(), jobs=2)} == {"exact"}


@pytest.mark.slow
def test_listing_and_a_step_take_few_requests(
    runs: Path, storage: tuple[Counted, str], capsys: pytest.CaptureFixture[str]
) -> None:
    counted, url = storage
    push(runs, url)
    counted.requests.clear()
    assert main(["ls", url]) == 0
    names = [path.rpartition("/")[2] for _, path, _ in counted.requests]
    assert all(name == "manifest.json" or name.startswith("index-") for name in names)
    assert len(names) <= 3
    episode_id = capsys.readouterr().out.splitlines()[1].split()[0]
    counted.requests.clear()
    assert main(["show", url, episode_id, "--step", "0"]) == 0
    assert 1 <= len([path for _, path, _ in counted.requests if path.endswith(".trj")]) <= 2
    counted.requests.clear()
    assert main(["sql", url, "SELECT count(*) FROM steps"]) == 0
    assert not [path for _, path, _ in counted.requests if path.endswith(".trj")]


@pytest.mark.slow
def test_of_a_large_log_only_ranges_are_read(tmp_path: Path, storage: tuple[Counted, str]) -> None:
    counted, url = storage
    env = trajrec.record(Noisy(), tmp_path / "large")
    for _ in range(40):
        env.reset(seed=1)
        for _ in range(50):
            env.step(0)
    env.close()
    (log,) = (tmp_path / "large").glob("*.trj")
    assert log.stat().st_size > 8_000_000
    push(tmp_path / "large", url)
    counted.requests.clear()
    counted.n_bytes = 0
    with trajrec.open(url) as corpus:
        episode = next(corpus.episodes("n_steps = 50"))
        assert episode.observation_at(0).shape == (64, 64)
        requests = counted.of(".trj")
        assert all(range_ for _, _, range_ in requests)
        assert len(requests) <= 4
        assert counted.n_bytes < log.stat().st_size / 2


class Noisy(gym.Env[Any, Any]):
    """Observations that do not compress."""

    observation_space = gym.spaces.Box(0, 255, (64, 64), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return self.see(), {}

    def step(self, action: Any) -> Any:
        self.n += 1
        return self.see(), 0.0, self.n >= 50, False, {}

    def see(self) -> Any:
        rng = np.random.default_rng(os.getpid() + self.n * 1_000_003 + time.time_ns())
        return rng.integers(0, 255, (64, 64), np.uint8)


@pytest.mark.slow
def test_a_second_push_uploads_what_is_new(runs: Path, storage: tuple[Counted, str]) -> None:
    counted, url = storage
    push(runs, url)
    counted.requests.clear()
    again = push(runs, url)
    assert (again.uploaded, again.n_known) == ([], 2)
    assert not [request for request in counted.requests if request[0] == "PUT"]
    record(gym.make("CartPole-v1"), runs, 1)
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(10,)]
    assert len(push(runs, url).uploaded) == 1
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(11,)]


@pytest.mark.slow
@third_slow("imports")
def test_removed_episodes_are_removed_from_the_storage(
    runs: Path, storage: tuple[Counted, str]
) -> None:
    _, url = storage
    push(runs, url)
    remove(runs, "env_id = 'CartPole-v1' AND number = 0")
    push(runs, url)
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(9,)]
    (log,) = (runs / "lake").glob("*.trj")
    log.unlink()
    assert push(runs, url).deleted == []
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(9,)]
        gone = next(corpus.episodes("env_id = 'FrozenLake-v1'"))
        assert replay_episode(gone).grade == "exact"
    assert push(runs, url, delete=True).deleted == [f"lake/{log.name}"]
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(4,)]


@pytest.mark.slow
@third_slow("imports")
def test_forks_of_a_remote_episode_stay_on_this_machine(
    runs: Path, storage: tuple[Counted, str]
) -> None:
    counted, url = storage
    push(runs, url)
    with trajrec.open(url) as corpus:
        episode = next(corpus.episodes("env_id = 'FrozenLake-v1'"))
        counted.requests.clear()
        assert len(fork_many(episode, at=[0], policy="random", n_branches=3)) == 3
        assert rows(corpus, "SELECT count(*) FROM forks") == [(3,)]
    assert not [request for request in counted.requests if request[0] == "PUT"]
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM forks") == [(3,)]
        mirror = corpus.path
    assert len(push(mirror, url).uploaded) == 1
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM forks") == [(3,)]


@pytest.mark.slow
def test_two_folders_share_a_place_and_lose_nothing(
    runs: Path, tmp_path: Path, storage: tuple[Counted, str]
) -> None:
    _, url = storage
    push(runs, url)
    record(gym.make("CartPole-v1"), tmp_path / "other", 3)
    push(tmp_path / "other", url)
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(13,)]
        assert {replay_episode(episode).grade for episode in corpus.episodes()} == {"exact"}


@pytest.mark.slow
def test_a_push_keeps_what_another_adds_meanwhile(
    runs: Path, tmp_path: Path, storage: tuple[Counted, str]
) -> None:
    _, url = storage
    record(gym.make("CartPole-v1"), tmp_path / "other", 3)

    def push_other(done: int, total: int) -> None:
        if done == total:
            push(tmp_path / "other", url)

    push(runs, url, progress=push_other)
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(13,)]


@pytest.mark.slow
def test_pushes_at_once_leave_a_corpus_that_opens(
    runs: Path, tmp_path: Path, storage: tuple[Counted, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = storage
    other = tmp_path / "other"
    record(gym.make("CartPole-v1"), other, 3)
    # The whole push of another folder runs between the index of this one and its manifest.
    others = [other]
    n_read = 0

    def read_manifest_late(address: str) -> Manifest | None:
        nonlocal n_read
        n_read += 1
        if n_read == 2:
            push(others.pop(), url)
        return read_manifest(address)

    monkeypatch.setattr("trajrec.corpus.push.read_manifest", read_manifest_late)
    push(runs, url)
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(13,)]


@pytest.mark.slow
def test_a_push_notices_that_another_replaced_its_manifest(
    runs: Path, tmp_path: Path, storage: tuple[Counted, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = storage
    other = tmp_path / "other"
    record(gym.make("CartPole-v1"), other, 3)
    first = threading.Thread(target=push, args=(other, url))
    n_read = 0

    def read_manifest_of_before(address: str) -> Manifest | None:
        nonlocal n_read
        manifest = read_manifest(address)
        if threading.current_thread() is first:
            return manifest
        n_read += 1
        # The second time, the push is about to write its own manifest.
        if n_read == 2:
            first.start()
            while read_manifest(address) == manifest:
                time.sleep(0.01)
        return manifest

    monkeypatch.setattr("trajrec.corpus.push.read_manifest", read_manifest_of_before)
    push(runs, url)
    first.join()
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(13,)]


@pytest.mark.slow
def test_a_folder_without_an_index_of_its_own_is_pushed(
    runs: Path, storage: tuple[Counted, str]
) -> None:
    _, url = storage
    # As in a folder that this user may only read, there can be no index.
    (runs / ".trajrec").write_text("")
    push(runs, url)
    assert push(runs, url).n_known == 2
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(10,)]


@pytest.mark.slow
def test_a_missing_index_is_read_from_the_logs(runs: Path, storage: tuple[Counted, str]) -> None:
    import fsspec

    _, url = storage
    push(runs, url)
    system = fsspec.filesystem("s3")
    (name,) = system.glob(f"{url}/.trajrec/index-*.duckdb")
    system.rm_file(name)
    for _ in range(2):
        with trajrec.open(url) as corpus:
            assert rows(corpus, "SELECT count(*) FROM episodes") == [(10,)]
            assert {replay_episode(episode).grade for episode in corpus.episodes()} == {"exact"}


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["number = 0", "true"])
def test_a_push_leaves_no_text_of_removed_episodes(
    condition: str, tmp_path: Path, storage: tuple[Counted, str]
) -> None:
    import fsspec

    _, url = storage
    mine = tmp_path / "mine"
    for name, folder in {"kept": tmp_path / "other", "private": mine}.items():
        for _ in range(2):
            with trajrec.episode(folder, task=f"{name} words") as ep:
                ep.tool(lambda words: words, name="say")
                ep.call("say", words=f"{name} words")
        trajrec.close_logs()
        with trajrec.open(folder) as corpus:
            for episode in corpus.episodes():
                corpus.note(episode.id, f"{name} note")
                # Each in a log of its own.
                trajrec.close_logs()
        push(folder, url)
    remove(mine, f"task = 'private words' AND {condition}", with_dependents=True)
    trajrec.close_logs()
    n_left = 1 if condition == "number = 0" else 0
    assert len(push(mine, url).deleted) == (1 if n_left else 3)
    counts = [("kept", 2), ("private", n_left)][: 1 + n_left]
    with trajrec.open(url) as corpus:
        for query in (
            "SELECT split_part(task, ' ', 1), count(*) FROM episodes GROUP BY 1 ORDER BY 1",
            "SELECT split_part(value, ' ', 1)[2:], count(*) FROM labels GROUP BY 1 ORDER BY 1",
        ):
            assert rows(corpus, query) == counts
    system = fsspec.filesystem("s3")
    (index,) = system.glob(f"{url}/.trajrec/index-*.duckdb")
    system.get_file(index, str(tmp_path / "index.duckdb"))
    with duckdb.connect(str(tmp_path / "index.duckdb"), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM attempts").fetchall() == [(n_left,)]


@pytest.mark.slow
def test_replaced_logs_are_readable_if_the_push_ends_there(
    runs: Path, storage: tuple[Counted, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = storage
    push(runs, url)
    remove(runs, "env_id = 'CartPole-v1' AND number = 0")

    def end(_: Path) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("trajrec.corpus.push.update_index", end)
    with pytest.raises(KeyboardInterrupt):
        push(runs, url)
    with trajrec.open(url) as corpus:
        assert [replay_episode(episode).grade for episode in corpus.episodes()] == ["exact"] * 9


@pytest.mark.slow
def test_no_old_index_stays_when_there_is_no_new_one(
    runs: Path, storage: tuple[Counted, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    _, url = storage
    push(runs, url)
    remove(runs, "env_id = 'CartPole-v1' AND number = 0")
    # Another process holds the index.
    monkeypatch.setattr("trajrec.corpus.push.copy_index", lambda *_: False)
    push(runs, url)
    assert fsspec.filesystem("s3").glob(f"{url}/.trajrec/*.duckdb") == []
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(9,)]


@pytest.mark.slow
def test_another_form_of_a_log_is_refused(
    runs: Path, tmp_path: Path, storage: tuple[Counted, str]
) -> None:
    import shutil

    _, url = storage
    shutil.copytree(runs, tmp_path / "copy")
    remove(runs, "env_id = 'CartPole-v1' AND number = 0")
    push(runs, url)
    with pytest.raises(CorpusError, match="keep one of them"):
        push(tmp_path / "copy", url)
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(9,)]


@pytest.mark.slow
def test_an_unsealed_log_is_left_out_and_named(
    runs: Path, storage: tuple[Counted, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, url = storage
    env = trajrec.record(gym.make("CartPole-v1"), runs)
    env.reset(seed=0)
    env.step(0)
    (runs / "bad.trj").write_bytes(b"no log")
    assert main(["push", str(runs), url, "--json"]) == 1
    printed = capsys.readouterr()
    left = json.loads(printed.out)["left"]
    assert len(left) == 2
    assert "trajrec recover" in printed.err
    env.close()
    assert main(["push", str(runs), url]) == 1
    assert "bad.trj" in capsys.readouterr().err


@suite("kills", fixed=0, drawn=3, whole=200, n_tests=4)
def test_a_killed_push_can_be_run_again(
    share: Share, runs: Path, storage: tuple[Counted, str]
) -> None:
    _, place = storage
    for seed in range(6):
        record(gym.make("CartPole-v1"), runs / str(seed), 2)
    with trajrec.open(runs) as local:
        expected = rows(local, "SELECT * FROM episodes ORDER BY ALL")
    command = [sys.executable, "-m", "trajrec", "push", str(runs)]
    start = time.monotonic()
    subprocess.run([*command, f"{place}-whole"], check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - start
    rng = share.rng()
    n_killed = 0
    for first in range(0, share.size or 0, 6):
        url = f"{place}-{first}"
        # What a killed push has uploaded is there for the next one.
        for _ in range(6):
            process = subprocess.Popen([*command, url], stdout=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.4, 1.0) * whole_s)
            process.kill()
            was_killed = process.wait() == -signal.SIGKILL
            n_killed += was_killed
            if not was_killed:
                # It was faster than the first one, which was slow on a busy machine.
                whole_s *= 0.8
            if read_manifest(url) is not None:
                with trajrec.open(url) as corpus:
                    assert all(len(e.rewards) == e.n_steps for e in corpus.episodes())
        subprocess.run([*command, url], check=True, stdout=subprocess.DEVNULL)
        with trajrec.open(url) as corpus:
            assert rows(corpus, "SELECT * FROM episodes ORDER BY ALL") == expected
    assert n_killed


@pytest.mark.slow
def test_a_changed_object_is_refused(runs: Path, storage: tuple[Counted, str]) -> None:
    import fsspec

    _, url = storage
    push(runs, url)
    (name,) = (log.name for log in runs.glob("*.trj"))
    system = fsspec.filesystem("s3")
    with trajrec.open(url) as corpus:
        system.pipe_file(f"{url}/{name}", b"another object")
        with pytest.raises(LogError, match="other contents"):
            next(corpus.episodes("env_id = 'CartPole-v1'"))
        system.rm_file(f"{url}/{name}")
        with pytest.raises(LogError, match="cannot be read"):
            next(corpus.episodes("env_id = 'CartPole-v1'"))


@pytest.mark.slow
def test_an_index_with_other_contents_is_refused(runs: Path, storage: tuple[Counted, str]) -> None:
    import fsspec

    _, url = storage
    push(runs, url)
    system = fsspec.filesystem("s3")
    (name,) = system.glob(f"{url}/.trajrec/index-*.duckdb")
    data = system.cat_file(name)
    system.pipe_file(name, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorpusError, match="not the index that its name says"):
        trajrec.open(url)
    system.pipe_file(name, data)
    with trajrec.open(url) as corpus:
        assert rows(corpus, "SELECT count(*) FROM episodes") == [(10,)]


@pytest.mark.slow
@third_slow("index")
def test_processes_open_one_mirror_at_once(runs: Path, storage: tuple[Counted, str]) -> None:
    _, url = storage
    push(runs, url)
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        assert pool.map(count_episodes, [url] * 8) == [10] * 8


def count_episodes(url: str) -> int:
    with trajrec.open(url) as corpus:
        (row,) = rows(corpus, "SELECT count(*) FROM episodes")
        return int(row[0])


LOCAL_COMMANDS = (
    "rm URL --where true",
    "index URL",
    "merge URL -o x",
    "doctor URL",
    "recover URL",
    "compact URL",
)
"""Commands that need the files themselves."""


@pytest.mark.slow
def test_a_missing_corpus_or_bucket_is_named(
    storage: tuple[Counted, str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, url = storage
    with pytest.raises(CorpusError, match="trajrec push"):
        trajrec.open(url)
    with pytest.raises(CorpusError, match="bucket does not exist"):
        trajrec.open("s3://no-such-bucket/runs")
    assert main(["push", str(runs), "s3://no-such-bucket/runs"]) == 2
    assert "no-such-bucket" in capsys.readouterr().err
    assert main(["push", str(runs), "runs2"]) == 2
    push(runs, url)
    capsys.readouterr()
    for words in LOCAL_COMMANDS:
        command = words.replace("URL", url).split()
        assert main(command) == 2
        assert "needs a folder on this machine" in capsys.readouterr().err
    assert main(["sql", "gs://bucket/runs", "SELECT 1"]) == 2
    assert "gcsfs" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["../x.trj", "/x.trj", "a/../../x.trj", ".trajrec/x.trj", "x.duckdb", "a//x.trj", "a\\x.trj"],
)
def test_a_hostile_manifest_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    log = {"size": 100, "mtime_ns": 0, "log_id": "00", "seal": "00", "generation": 0}
    manifest = tmp_path / "storage" / ".trajrec" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"logs": {name: log}}))
    with pytest.raises(CorpusError, match="can be no log"):
        trajrec.open(f"file://{tmp_path}/storage")
    manifest.write_text(json.dumps({"version": 2}))
    with pytest.raises(CorpusError, match="upgrade trajrec"):
        trajrec.open(f"file://{tmp_path}/storage")
    manifest.write_bytes(b'{"index": "\xe7"}')
    with pytest.raises(CorpusError, match="no manifest of this version"):
        trajrec.open(f"file://{tmp_path}/storage")
    manifest.write_text(json.dumps({"logs": {}, "index": "../../index.duckdb"}))
    with pytest.raises(CorpusError, match="can be no index"):
        trajrec.open(f"file://{tmp_path}/storage")
    assert not list(tmp_path.rglob("*.trj"))


@pytest.mark.slow
def test_release_of_a_corpus_in_a_storage_has_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record(gym.make("CartPole-v1"), tmp_path / "runs")
    push(tmp_path / "runs", f"file://{tmp_path}/storage")
    with trajrec.open(f"file://{tmp_path}/storage") as corpus:
        corpus.card(tmp_path / "out")
    for log in (tmp_path / "runs").glob("*.trj"):
        assert (tmp_path / "out" / "logs" / log.name).read_bytes() == log.read_bytes()


def test_a_placeholder_elsewhere_opens_no_address(tmp_path: Path) -> None:
    (tmp_path / "x.trj").write_bytes(PLACEHOLDER + b"\0" * 1000)
    with pytest.raises(LogError, match="stands for a log in an object storage"):
        LogReader(tmp_path / "x.trj")
    with trajrec.open(tmp_path) as corpus:
        (problem,) = corpus.problems()
    assert "open its address" in problem.reason


@pytest.mark.parametrize("url", ["s3://bucket/runs", "gs://bucket", "https://host/runs"])
def test_recording_to_an_address_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="trajrec push"):
        trajrec.record(gym.make("CartPole-v1"), url)
    with pytest.raises(ValueError, match="trajrec push"), trajrec.episode(url, task="x"):
        pass
    with pytest.raises(ValueError, match="trajrec push"), trajrec.capture(url):
        pass
    assert list(tmp_path.iterdir()) == []


def test_addresses_are_told_from_files() -> None:
    assert url_of("s3://a/b") == "s3://a/b"
    assert url_of(Path("https://a/b")) == "https://a/b"
    assert [url_of(text) for text in ("runs", "/a/b:/c", "C:/runs", "./s3:/x")] == [None] * 4


def test_ranges_of_an_object_are_its_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(1_000_000)
    n_requests = 0

    def request(starts: list[int], ends: list[int]) -> list[bytes]:
        nonlocal n_requests
        n_requests += len(starts)
        return [data[start:end] for start, end in zip(starts, ends, strict=True)]

    source = RemoteSource(tmp_path / "x", "memory://x", len(data))
    monkeypatch.setattr(source, "_request", request)
    rng = np.random.default_rng(1)
    for _ in range(300):
        spans = [
            (start, start + int(rng.integers(0, 200_000)))
            for start in map(int, rng.integers(0, len(data) + 100, 3))
        ]
        assert source.ranges(spans) == [data[a:b] for a, b in spans]
    small = RemoteSource(tmp_path / "x", "memory://x", len(data))
    monkeypatch.setattr(small, "_request", request)
    n_requests = 0
    for at in range(0, 60_000, 100):
        assert small.range(at, at + 100) == data[at : at + 100]
    assert n_requests == 1
    assert mirrors_folder().is_absolute()


@pytest.mark.slow
def test_a_push_notices_that_another_put_an_earlier_entry_back(
    runs: Path, storage: tuple[Counted, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = storage
    push(runs, url)
    before = read_manifest(url)
    assert before is not None
    with trajrec.open(runs) as corpus:
        ((log, episode),) = rows(
            corpus, "SELECT log, any_value(episode_id) FROM episodes GROUP BY 1 ORDER BY 1 LIMIT 1"
        )
    remove(runs, f"episode_id = '{episode}'")
    n_put_back = 0

    def put_back(seconds: float) -> None:
        nonlocal n_put_back
        now = read_manifest(url)
        if n_put_back == 0 and now is not None:
            # Of another push, which had read the list before this one wrote it.
            n_put_back += 1
            now.logs[log] = before.logs[log]
            system, root = file_system(url)
            system.pipe_file(f"{root}/{MANIFEST_NAME}", msgspec.json.encode(now))

    clock = SimpleNamespace(sleep=put_back, monotonic=time.monotonic)
    monkeypatch.setattr("trajrec.corpus.push.time", clock)
    push(runs, url)
    now = read_manifest(url)
    assert n_put_back == 1
    assert now is not None
    assert now.logs[log] != before.logs[log]
    with trajrec.open(url) as corpus:
        assert rows(corpus, f"SELECT count(*) FROM episodes WHERE episode_id = '{episode}'") == [
            (0,)
        ]
