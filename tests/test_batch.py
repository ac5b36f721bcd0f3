"""Batches: many episodes and processes give the reports of single replays."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record
from tiers import third_slow

import trajrec
from trajrec.replay import replay_episodes
from trajrec.replay.processes.workers import WorkerDied, map_ordered


class Heavier(gym.Wrapper[Any, Any, Any, Any]):
    """From step 9 on the pole is another one."""

    n = 0

    def reset(self, **kwargs: Any) -> Any:
        self.n = 0
        self.env.unwrapped.total_mass = 1.1  # type: ignore[attr-defined]
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.n == 10:
            self.env.unwrapped.total_mass = 2.0  # type: ignore[attr-defined]
        return self.env.step(action)


def heavier() -> Any:
    return Heavier(gym.make("CartPole-v1"))


def reports(folder: Path, **options: Any) -> list[Any]:
    with trajrec.open(folder) as corpus:
        return [report.as_dict() for report in replay_episodes(corpus.episodes(), **options)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for env_id, n in (("CartPole-v1", 100), ("Taxi-v4", 3)):
        record(gym.make(env_id), folder, n)
    return folder


@pytest.mark.slow
def test_reports_are_the_same_for_any_number_of_processes(runs: Path) -> None:
    alone = reports(runs)
    assert {report["grade"] for report in alone} == {"exact"}
    assert len(alone) == 103
    assert reports(runs, jobs=2) == alone


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("first", [False, True])
def test_states_are_compared_as_each_log_recorded_them(first: bool, tmp_path: Path) -> None:
    # The two logs name one environment, and it is made once.
    for has_states in (first, not first):
        with trajrec.record(gym.make("FrozenLake-v1"), tmp_path, state=has_states) as env:
            env.reset(seed=0)
            env.step(1)
    with trajrec.open(tmp_path) as corpus:
        for episode in corpus.episodes():
            has_states = episode.header.state.keep != "none"
            (alone,) = replay_episodes([episode])
            assert ("state" in alone.compared) == has_states
        found = list(replay_episodes(corpus.episodes()))
        assert sorted("state" in report.compared for report in found) == [False, True]
        assert [report.notes for report in found if "state" in report.compared] == [()]
        assert all(
            report.notes == ("state not compared: none was recorded",)
            for report in found
            if "state" not in report.compared
        )


def test_reports_before_an_error_are_yielded_first(runs: Path) -> None:
    with trajrec.open(runs) as corpus:
        episodes = list(corpus.episodes("env_id = 'CartPole-v1'"))[:11]

        def until_the_disk_is_gone() -> Any:
            yield from episodes
            raise OSError("the disk is gone")

        reports = replay_episodes(until_the_disk_is_gone())
        assert [next(reports).grade for _ in episodes] == ["exact"] * 11
        with pytest.raises(OSError, match="the disk is gone"):
            next(reports)


@pytest.mark.slow
@third_slow("replay")
def test_divergence_returns_from_another_process(runs: Path) -> None:
    alone = reports(runs, env=heavier, explain=False)
    long_enough = [
        report
        for report in alone
        if report["n_steps"] > 9 and report["divergence"]["field"].startswith("obs")
    ]
    assert long_enough
    assert reports(runs, env=heavier, jobs=2, explain=False) == alone
    with pytest.raises(
        TypeError, match="env and world must be functions that make one if jobs > 1"
    ):
        reports(runs, env=heavier(), jobs=2)
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        reports(runs, jobs=0)


@pytest.mark.slow
def test_forks_are_replayed_in_other_processes(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 3)
    with trajrec.open(tmp_path) as corpus:
        for episode in list(corpus.episodes()):
            trajrec.replay.fork_many(episode, at=[2, 5], policy="random", n_branches=2)
        assert {r.grade for r in replay_episodes(corpus.episodes(kind="all"), jobs=2)} == {"exact"}


class Deadly(gym.Wrapper[Any, Any, Any, Any]):
    """Ends its process in long episodes."""

    n = 0

    def reset(self, **kwargs: Any) -> Any:
        self.n = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.n == 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.env.step(action)


@pytest.mark.slow
@third_slow("kills")
def test_only_the_episode_that_kills_workers_is_refused(
    runs: Path,
) -> None:
    with trajrec.open(runs) as corpus:
        where = "env_id = 'CartPole-v1'"
        reports = list(
            replay_episodes(
                corpus.episodes(where), env=lambda: Deadly(gym.make("CartPole-v1")), jobs=2
            )
        )
        lengths = [episode.n_steps for episode in corpus.episodes(where)]
    assert 0 < sum(n >= 60 for n in lengths) < 20
    assert [report.grade for report in reports] == [
        "refused" if n >= 60 else "exact" for n in lengths
    ]
    assert all(
        "ended 2 times: by SIGKILL" in report.notes[0]
        for report in reports
        if report.grade == "refused"
    )


def square(number: int) -> int:
    if number == 13:
        os._exit(5)
    if number == -1:
        raise KeyError("minus one")
    return number * number


@pytest.mark.slow
@third_slow("kills")
def test_results_keep_their_order_when_workers_die() -> None:
    results = list(map_ordered(square, range(40), 3))
    assert [k for k, result in enumerate(results) if isinstance(result, WorkerDied)] == [13]
    assert [result for result in results if not isinstance(result, WorkerDied)] == [
        k * k for k in range(40) if k != 13
    ]
    died = results[13]
    assert isinstance(died, WorkerDied)
    assert died.why == "its worker ended 2 times: with status 5"
    assert list(map_ordered(square, [], 2)) == []
    with pytest.raises(KeyError, match="minus one"):
        list(map_ordered(square, [1, -1, 2], 2))


@pytest.mark.slow
def test_items_are_read_only_a_little_ahead() -> None:
    taken = []

    def things() -> Any:
        for k in range(1000):
            taken.append(k)
            yield k + 100

    results = map_ordered(square, things(), 2)
    assert next(results) == 10_000
    assert len(taken) < 100
    results.close()  # type: ignore[attr-defined]


def test_missing_ray_names_its_extra(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(trajrec.errors.MissingPackageError, match=r"pip install 'trajrec\[ray\]'"):
        reports(runs, backend="ray")


# Regression of worlds


def command(*arguments: Any) -> int:
    from trajrec.cli.main import main

    return main([str(argument) for argument in arguments])


class Elsewhere:
    """Of a module that only this process can import."""

    def __reduce__(self) -> Any:
        return int, ("elsewhere",)

    def __call__(self, number: int) -> int:
        return number


@pytest.mark.slow
@pytest.mark.parametrize("is_item", [False, True])
def test_what_cannot_be_made_in_a_worker_is_named(is_item: bool) -> None:
    function: Any = (lambda item: 1) if is_item else Elsewhere()
    items: list[Any] = [Elsewhere() if is_item else 1]
    with pytest.raises(TypeError, match=r"in a worker process: ValueError: invalid literal .*else"):
        list(map_ordered(function, items, 1))


@pytest.mark.slow
@third_slow("replay")
def test_replay_reports_what_a_changed_environment_breaks(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from xml.etree import ElementTree

    where = ("--where", "env_id = 'CartPole-v1' AND n_steps > 20 AND number < 9")
    assert (
        command("replay", runs, *where, "--env", "CartPole-v1", "--junit", tmp_path / "same.xml")
        == 0
    )
    same = ElementTree.parse(tmp_path / "same.xml").getroot().attrib
    assert int(same["tests"]) > 1
    assert (same["failures"], same["errors"]) == ("0", "0")
    capsys.readouterr()
    junit = tmp_path / "changed.xml"
    files = ("--junit", junit, "--html", tmp_path / "changed.html")
    assert command("replay", runs, *where, "--env", f"{__name__}:heavier", "--jobs", 2, *files) == 1
    written = (tmp_path / "changed.html").read_text()
    assert '<td class="diverged">diverged</td>' in written
    assert "<td>observation/1</td>" in written
    printed = capsys.readouterr().out
    assert "first difference at step 9, observation/1" in printed
    assert "total reward: then" in printed
    suite = ElementTree.parse(junit).getroot()
    assert suite.attrib["failures"] == suite.attrib["tests"] == same["tests"]
    assert "step 9, observation/1" in suite[0][0].attrib["message"]


@pytest.mark.slow
@third_slow("replay")
def test_replay_reports_what_a_changed_world_breaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trajrec.recording.event_log import close_logs

    for cents in (100, 200):
        with trajrec.episode(tmp_path, world=trajrec.envs.Shop(seed=7), options={"task": 0}) as ep:
            ep.call("refund_order", order="O1001", cents=cents)
            ep.call("send_message", customer="C1", text="done")
            ep.call("refund_order", order="O1001", cents=1)
    close_logs()
    assert command("replay", tmp_path, "--env", "trajrec.envs:Shop") == 0
    assert command("replay", tmp_path, "--env", f"{__name__}:stingy") == 1
    printed = capsys.readouterr().out
    assert "step 0, result/refunded: recorded 100, replayed 99" in printed
    assert (
        "ending: then" not in printed
    )  # a replay makes the calls of an agent; it neither ends nor rewards it
    assert "total reward: then" not in printed
    assert command("replay", tmp_path, "--env", f"{__name__}:stingy", "--resync", "--json") == 1
    import json

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["differing_steps"] for row in rows] == [[0, 2], [0, 2]]


class Stingy(trajrec.envs.Shop):
    def _refund_order(self, order: str, cents: int) -> dict[str, Any]:
        result = super()._refund_order(order, cents)
        self._database["orders"][order]["refunded"] -= 1
        return {"refunded": result["refunded"] - 1}


def stingy() -> Any:
    return Stingy(seed=7)


class Rounded(gym.Wrapper[Any, Any, Any, Any]):
    """Its arithmetic is a float or two off."""

    def step(self, action: Any) -> Any:
        import numpy as np

        observation, *rest = self.env.step(action)
        return np.nextafter(np.nextafter(observation, np.float32(9)), np.float32(9)), *rest


def test_floats_within_ulps_are_graded_state(tmp_path: Path) -> None:
    record(gym.make("Pendulum-v1"), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        rounded = Rounded(gym.make("Pendulum-v1"))
        assert (
            trajrec.replay.replay_episode(episode, env=rounded, explain=False).divergence.ulps == 2
        )
        assert (
            trajrec.replay.replay_episode(episode, env=rounded, ulps=1, explain=False).grade
            == "diverged"
        )
        report = trajrec.replay.replay_episode(episode, env=rounded, ulps=2)
    assert report.grade == "state"
    assert "ignored: floats within 2 ulp" in report.notes[-1]
