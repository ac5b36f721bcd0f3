"""Fixtures for pytest: each tests in one line that an agent or environment behaves as recorded.

    def test_my_agent_still_behaves_as_recorded(trajrec_rerun):
        my_agent(trajrec_rerun("recordings/refund.trj"))

    def test_my_world_still_behaves_as_recorded(trajrec_replay):
        trajrec_replay("recordings")

Paths are relative to the file of the test. trajrec is imported only when a fixture is used, because
pytest loads this plugin in every run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import pytest

if TYPE_CHECKING:
    from trajrec.replay import ReplayOptions, ReplayReport
    from trajrec.replay.agents.rerun import Rerun
    from trajrec.replay.execute.factories import EnvOrFactory, WorldOrFactory


_FAILED = pytest.StashKey[BaseException]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note the exception of a test, so that a rerun need not report a difference twice."""
    # Of an earlier run of the same test: a plugin may run it again.
    if _FAILED in item.stash:
        del item.stash[_FAILED]
    try:
        return (yield)
    except BaseException as exc:
        item.stash[_FAILED] = exc
        raise


@pytest.fixture
def trajrec_rerun(request: pytest.FixtureRequest) -> Iterator[Callable[[str | Path], Rerun]]:
    """Return a function that opens a recorded agent's episode to run the agent in.

    The function takes the path of a log with one episode. The test fails at the agent's first
    request that differs from the recording, and at the end if the agent made fewer requests.
    """
    from trajrec.replay.agents.rerun import Rerun

    stack = contextlib.ExitStack()
    yield lambda path: stack.enter_context(Rerun(_beside(request, path)))
    failed = request.node.stash.get(_FAILED, None)
    stack.__exit__(None if failed is None else type(failed), failed, None)


@pytest.fixture
def trajrec_replay(request: pytest.FixtureRequest) -> Callable[..., list[ReplayReport]]:
    """Return a function that replays the episodes of a folder and fails at the first divergence.

    The function takes a folder of logs, `where`, and the arguments of
    `trajrec.replay.replay_episodes`: `allow=("my_package",)` for environments of your own. An
    episode that is refused fails the test too.
    """

    def replay(
        folder: str | Path,
        *,
        where: str = "ending <> 'running'",
        env: EnvOrFactory = None,
        world: WorldOrFactory = None,
        jobs: int = 1,
        **options: Unpack[ReplayOptions],
    ) -> list[ReplayReport]:
        import trajrec

        with trajrec.open(_beside(request, folder)) as corpus:
            episodes = corpus.episodes(where)
            reports = list(
                trajrec.replay.replay_episodes(episodes, env=env, world=world, jobs=jobs, **options)
            )
        if not reports:
            pytest.fail(f"{folder}: no episodes to replay")
        for report in reports:
            report.raise_if_diverged()
            if report.grade == "refused":
                pytest.fail(str(report))
        return reports

    return replay


def _beside(request: pytest.FixtureRequest, path: str | Path) -> Path:
    return request.path.parent / path
