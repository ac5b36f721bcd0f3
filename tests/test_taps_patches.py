"""The patches themselves: lazy, counted, undone, faultless, and not to be told from none."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from model_server import ModelServer, Turn
from noted import Miss, Note, answering, noting, save
from test_taps import need

from trajrec.taps import hub, patching
from trajrec.taps.exceptions import as_raised_by, name_of, rebuild_error
from trajrec.wire.exchange import HttpAnswer

PATH = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "Go on"}]}
SAID = Turn("Done.")


def leaves() -> list[tuple[type, str]]:
    """Return the methods that the taps replace, of the libraries that are installed."""
    found: list[tuple[type, str]] = []
    for name in ("httpx", "httpx2"):
        if name in sys.modules:
            module = sys.modules[name]
            found.append((module.HTTPTransport, "handle_request"))
            found.append((module.AsyncHTTPTransport, "handle_async_request"))
    if "aiohttp" in sys.modules:
        from aiohttp.client_reqrep import ClientResponse
        from aiohttp.connector import BaseConnector

        found += [(BaseConnector, "connect"), (ClientResponse, "start")]
    if "urllib3" in sys.modules:
        from urllib3.connectionpool import HTTPConnectionPool

        found.append((HTTPConnectionPool, "_make_request"))
    return found


@pytest.fixture(autouse=True)
def _all_as_before() -> Iterator[None]:
    # Episodes that other tests have broken off may still use the taps.
    gc.collect()
    n_others = 0
    while patching.is_installed():
        patching.uninstall()
        n_others += 1
    before = [(owner, name, owner.__dict__[name]) for owner, name in leaves()]
    yield
    assert not patching.is_installed()
    for owner, name, method in before:
        assert owner.__dict__[name] is method
    for _ in range(n_others):
        patching.install()


def post(url: str, name: str = "httpx2") -> Any:
    httpx = pytest.importorskip(name, reason=f"{name} is not installed")
    return httpx.post(url + PATH, json=ASKED)


def run(code: str, *, ok: bool = True) -> str:
    """Run a program in a new process; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout


@pytest.mark.slow
def test_nothing_is_imported_for_the_program() -> None:
    assert not run(
        """
        import sys
        import trajrec
        from trajrec.taps import hub, patching
        patching.install()
        for name in (*patching.TAPS, "http.client", "asyncio.sslproto", "duckdb"):
            if name in sys.modules and name in patching.TAPS:
                print(name)
        """
    )


@pytest.mark.slow
def test_a_library_is_patched_when_it_is_imported() -> None:
    need("httpx2", "urllib3")
    assert run(
        """
        import sys
        from trajrec.taps import patching
        patching.install()
        import httpx2, urllib3
        from urllib3.connectionpool import HTTPConnectionPool
        print(type(httpx2.__loader__).__name__, vars(httpx2.__loader__).keys())
        print(httpx2.__spec__.loader is httpx2.__loader__)
        for method in (httpx2.HTTPTransport.handle_request, HTTPConnectionPool._make_request):
            print(hasattr(method, "__wrapped__"), method.__module__)
        patching.uninstall()
        for method in (httpx2.HTTPTransport.handle_request, HTTPConnectionPool._make_request):
            print(hasattr(method, "__wrapped__"))
        print(any("trajrec" in type(finder).__module__ for finder in sys.meta_path))
        """
    ).splitlines() == [
        "SourceFileLoader dict_keys(['name', 'path'])",
        "True",
        "True httpx2._transports.default",
        "True urllib3.connectionpool",
        "False",
        "False",
        "False",
    ]


@pytest.mark.slow
def test_users_of_the_taps_are_counted() -> None:
    need("httpx2")
    import httpx2

    bare = httpx2.HTTPTransport.handle_request
    patching.install()
    first = httpx2.HTTPTransport.handle_request
    patching.install()
    assert httpx2.HTTPTransport.handle_request is first is not bare
    patching.uninstall()
    assert httpx2.HTTPTransport.handle_request is first
    patching.uninstall()
    assert httpx2.HTTPTransport.handle_request is bare
    with pytest.raises(RuntimeError, match="without install"):
        patching.uninstall()


def test_an_interrupt_leaves_no_library_without_its_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    need("httpx")
    patch = patching._patch_library
    n_users = patching._n_users
    for at in range(4):
        calls = itertools.count()

        def interrupted(library: str, module: Any, calls: Any = calls, at: int = at) -> None:
            if next(calls) == at:
                raise KeyboardInterrupt
            patch(library, module)

        monkeypatch.setattr(patching, "_patch_library", interrupted)
        with pytest.raises(KeyboardInterrupt):
            patching.install()
        monkeypatch.setattr(patching, "_patch_library", patch)
        patching.install()
        assert all(hasattr(getattr(owner, name), "__wrapped__") for owner, name in leaves())
        assert sys.meta_path.count(patching._HOOK) == 1
        while patching._n_users > n_users:
            patching.uninstall()
        assert not any(hasattr(getattr(owner, name), "__wrapped__") for owner, name in leaves())


@pytest.mark.slow
def test_tapped_methods_look_like_the_librarys_own() -> None:
    need("httpx2", "urllib3", "aiohttp")
    import aiohttp.connector
    import httpx2
    import urllib3.connectionpool  # noqa: F401

    before = {(o, n): o.__dict__[n] for o, n in leaves()}
    with noting():
        for (owner, name), bare in before.items():
            tapped = owner.__dict__[name]
            assert tapped is not bare
            assert inspect.unwrap(tapped) is inspect.unwrap(bare)
            assert inspect.signature(tapped) == inspect.signature(bare)
            assert (tapped.__name__, tapped.__qualname__) == (name, bare.__qualname__)
            assert tapped.__doc__ == bare.__doc__
            assert inspect.iscoroutinefunction(tapped) == inspect.iscoroutinefunction(bare)
    assert aiohttp.connector
    assert httpx2


@pytest.mark.slow
def test_one_library_of_two_names_is_patched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    need("httpx2")
    import httpx2

    monkeypatch.setitem(sys.modules, "httpx", httpx2)
    with ModelServer([SAID]) as server, noting() as notes:
        assert not hasattr(httpx2.HTTPTransport.handle_request.__wrapped__, "__wrapped__")
        post(server.url)
    assert len(notes) == 1


class Instrumented:
    """Another tool's wrapper, that accepts bound calls only, as OpenTelemetry's does."""

    def __init__(self, wrapped: Any, bound_to: Any = None) -> None:
        functools.update_wrapper(self, wrapped)
        self.wrapped = wrapped
        self.bound_to = bound_to
        self.calls: list[Any] = []

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        bound = Instrumented(self.wrapped, instance)
        bound.calls = self.calls
        return bound

    def __call__(self, request: Any) -> Any:
        assert self.bound_to is not None
        self.calls.append(request)
        return self.wrapped.__get__(self.bound_to)(request)


@pytest.mark.slow
def test_other_tools_may_wrap_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    need("httpx2")
    import httpx2

    before = Instrumented(httpx2.HTTPTransport.__dict__["handle_request"])
    with monkeypatch.context() as patch, ModelServer([SAID] * 4) as server:
        patch.setattr(httpx2.HTTPTransport, "handle_request", before)
        with noting() as notes:
            after = Instrumented(httpx2.HTTPTransport.__dict__["handle_request"])
            httpx2.HTTPTransport.handle_request = after
            post(server.url)
        assert (len(notes), len(before.calls), len(after.calls)) == (1, 1, 1)
        # Ours cannot be taken out from within another's: it stays, and does nothing.
        assert httpx2.HTTPTransport.__dict__["handle_request"] is after
        post(server.url)
        assert (len(notes), len(before.calls), len(after.calls)) == (1, 2, 2)
        # Nor is it put in twice.
        with noting() as again:
            post(server.url)
        assert (len(again), len(before.calls), len(after.calls)) == (1, 3, 3)
        httpx2.HTTPTransport.handle_request = after.wrapped
        with noting() as again:
            post(server.url)
        assert len(again) == 1
        assert httpx2.HTTPTransport.__dict__["handle_request"] is before


@pytest.mark.slow
def test_a_fault_of_a_tap_does_not_reach_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "capture_faults", 0)

    def fail(_: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr(hub, "begin_exchange", fail)
    patching.install()
    try:
        with ModelServer([SAID] * 3) as server:
            with pytest.warns(RuntimeWarning, match=r"tap in httpx2 failed.*ValueError: a bug"):
                assert post(server.url).status_code == 200
            # The second one is counted only; and a warning that is an error does not come out.
            assert post(server.url).status_code == 200
            assert patching.capture_faults == 2
            patching.capture_faults = 0
            assert post(server.url).status_code == 200
    finally:
        patching.uninstall()


@pytest.mark.slow
def test_a_miss_of_a_rerun_reaches_the_agent() -> None:
    need("httpx2", "urllib3", "aiohttp")
    import aiohttp
    import urllib3

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await session.post("http://127.0.0.1:9" + PATH, json=ASKED)

    with answering([]):
        with pytest.raises(Miss):
            post("http://127.0.0.1:9")
        with pytest.raises(Miss):
            asyncio.run(ask())
        with urllib3.PoolManager() as pool, pytest.raises(Miss):
            pool.request("POST", "http://127.0.0.1:9" + PATH, json=ASKED)


@pytest.mark.slow
def test_an_answer_that_cannot_be_given_is_not_sent() -> None:
    need("httpx2")

    def begin(request: Any) -> Any:
        return Note(request, HttpAnswer(200, [(3, 4)], []))  # type: ignore[list-item]

    with ModelServer([]) as server, mock.patch.object(hub, "begin_exchange", begin):
        patching.install()
        try:
            with pytest.raises(patching.AnswerFault, match="httpx2 cannot deliver"):
                post(server.url)
        finally:
            patching.uninstall()
        assert not server.attempts


@pytest.mark.slow
def test_other_requests_pass_unseen() -> None:
    need("httpx2", "urllib3", "aiohttp")
    import aiohttp
    import httpx2
    import urllib3

    async def ask(url: str) -> Any:
        async with aiohttp.ClientSession() as session, session.post(url) as answer:
            return answer.content

    with ModelServer([SAID] * 3) as server, noting() as notes:
        other = server.url + "/v1/files"
        answer = httpx2.post(other, json=ASKED)
        assert type(answer.stream._stream).__name__ == "ResponseStream"
        assert type(asyncio.run(ask(other))) is aiohttp.StreamReader
        with urllib3.PoolManager() as pool:
            assert type(pool.request("POST", other, json=ASKED)) is urllib3.HTTPResponse
    assert not notes
    assert len(server.attempts) == 3


@pytest.mark.slow
def test_files_and_generators_are_not_read() -> None:
    need("httpx2")
    import httpx2

    def pieces() -> Iterator[bytes]:
        yield b'{"messages": [{"role": "user", '
        yield b'"content": "x"}]}'

    with ModelServer([SAID]) as server, noting() as notes:
        httpx2.post(server.url + PATH, content=pieces())
    assert notes[0].request.body == b""
    assert b'"x"' in server.attempts[0].body


@pytest.mark.slow
def test_retries_of_aiohttps_middlewares_are_attempts() -> None:
    need("aiohttp")
    import aiohttp

    async def again(req: Any, handler: Any) -> Any:
        answer = await handler(req)
        while answer.status != 200:
            answer = await handler(req)
        return answer

    async def main(url: str) -> int:
        async with (
            aiohttp.ClientSession(middlewares=(again,)) as session,
            session.post(url + PATH, json=ASKED) as answer,
        ):
            await answer.read()
            return int(answer.status)

    plan = [Turn(status=500), Turn(status=429), SAID]
    with ModelServer(plan) as server, noting() as notes:
        assert asyncio.run(main(server.url)) == 200
    assert [note.status for note in notes] == [500, 429, 200]
    assert [note.request.body for note in notes] == [a.body for a in server.attempts]


@pytest.mark.slow
def test_requests_run_while_taps_come_and_go() -> None:
    need("httpx2")
    import httpx2

    n_requests = 20
    done = threading.Event()

    def switch() -> None:
        while not done.is_set():
            patching.install()
            patching.uninstall()
            time.sleep(0.001)

    with ModelServer(lambda *_: SAID) as server, ThreadPoolExecutor(4) as pool:
        switches = [pool.submit(switch) for _ in range(2)]
        with httpx2.Client() as client, noting() as notes:
            # Nested users come and go; the one around these requests sees them all.
            answers = [client.post(server.url + PATH, json=ASKED) for _ in range(n_requests)]
        done.set()
        for switched in switches:
            switched.result()
    assert [answer.status_code for answer in answers] == [200] * n_requests
    assert len(notes) == len(server.attempts) == n_requests


@pytest.mark.slow
def test_a_library_that_is_being_imported_is_patched() -> None:
    need("httpx2")
    # The library's import waits until install() has begun, and install() for the import.
    assert (
        run(
            """
        import sys, threading, time
        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name == "httpx2._client":
                    started.set()
                    time.sleep(0.3)
        started = threading.Event()
        sys.meta_path.insert(0, Slow())
        from trajrec.taps import patching
        thread = threading.Thread(target=__import__, args=("httpx2",))
        thread.start()
        started.wait()
        patching.install()
        import httpx2
        print(hasattr(httpx2.HTTPTransport.handle_request, "__wrapped__"))
        thread.join()
        """
        )
        == "True\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_can_turn_the_taps_off() -> None:
    need("httpx2")
    import httpx2

    bare = httpx2.HTTPTransport.__dict__["handle_request"]
    patching.install()
    # As if another thread were in the midst of it.
    patching._lock.acquire()
    child = os.fork()
    if not child:
        try:
            patching.install()
            patching.uninstall()
            patching.uninstall()
            os._exit(httpx2.HTTPTransport.__dict__["handle_request"] is not bare)
        finally:
            os._exit(2)
    patching._lock.release()
    patching.uninstall()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
def test_copies_of_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = types.ModuleType("vendor.httpx._transports.default")
    copy.AsyncHTTPTransport = type(  # type: ignore[attr-defined]
        "AsyncHTTPTransport", (), {"__module__": copy.__name__}
    )
    monkeypatch.setitem(sys.modules, copy.__name__, copy)
    assert copy.__name__ in patching.copies_of_libraries()


@pytest.mark.slow
def test_exceptions_are_rebuilt_with_class_and_text() -> None:
    need("httpx2", "urllib3", "aiohttp")
    import aiohttp
    import httpx2
    import urllib3

    key = mock.Mock(host="a", port=1, ssl=True)
    errors: list[BaseException] = [
        httpx2.ReadTimeout("slow"),
        httpx2.ConnectError("[Errno 111] Connection refused"),
        aiohttp.ClientConnectorError(key, OSError(111, "refused")),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("half"),
        aiohttp.ServerTimeoutError("slow"),
        urllib3.exceptions.NewConnectionError(mock.Mock(), "refused"),
        urllib3.exceptions.ReadTimeoutError(mock.Mock(), "/", "slow"),
        urllib3.exceptions.ProtocolError("broken", OSError(1, "x")),
        ConnectionResetError(104, "Connection reset by peer"),
        asyncio.CancelledError(),
        TimeoutError(),
    ]
    for error in errors:
        rebuilt = rebuild_error(name_of(error), str(error))
        assert isinstance(rebuilt, type(error))
        assert (str(rebuilt), name_of(rebuilt)) == (str(error), name_of(error))
    for name in ("builtins.SystemExit", "subprocess.Popen", "os.remove", "nothing", ""):
        assert type(rebuild_error(name, "x")) is ConnectionError


@pytest.mark.slow
def test_an_agent_cannot_tell_an_answer_from_a_response(tmp_path: Path) -> None:
    need("httpx2", "urllib3", "aiohttp")
    import aiohttp
    import httpx2
    import urllib3

    async def ask_aiohttp(url: str) -> list[Any]:
        async with aiohttp.ClientSession() as session:
            async with session.post(url, json=ASKED) as answer:
                said = [await answer.text(), answer.content.at_eof(), answer.closed]
                content = answer.content
            said += [type(answer), str(type(content)), isinstance(content, aiohttp.StreamReader)]
            said += [str(answer.url), answer.ok, answer.content_type, answer.request_info.method]
            return [*said, answer.version, repr(content), answer.connection]

    def ask(url: str) -> list[Any]:
        with httpx2.Client() as client, client.stream("POST", url, json=ASKED) as answer:
            said: list[Any] = [type(answer), answer.is_closed, answer.http_version, answer.url]
            said += [isinstance(answer.stream, httpx2.SyncByteStream), sorted(answer.extensions)]
            said += [answer.read(), answer.is_closed, answer.num_bytes_downloaded > 0]
            said += [answer.elapsed.total_seconds() < 9, answer.encoding]
        with urllib3.PoolManager() as pool:
            other = pool.request("POST", url, json=ASKED)
            said += [type(other).__name__, isinstance(other, urllib3.HTTPResponse), other.closed]
            said += [type(other).__module__, other.version, other.geturl()]
            said += [other.reason, other.json(), other.read(), other.headers["Content-Type"]]
        return said + asyncio.run(ask_aiohttp(url))

    with ModelServer([SAID] * 6) as server:
        bare = ask(server.url + PATH)
        with noting() as notes:
            assert ask(server.url + PATH) == bare
    with answering(save(notes, tmp_path / "notes.json")):
        assert ask(server.url + PATH) == bare


@pytest.mark.slow
def test_a_tap_adds_one_frame_to_a_traceback() -> None:
    need("httpx2")

    def depth() -> int:
        with pytest.raises(Exception, match="refused") as caught:
            post("http://127.0.0.1:9")
        return len(caught.traceback)

    bare = depth()
    with noting():
        assert depth() == bare + 1


@pytest.mark.slow
def test_a_proxy_is_part_of_the_attempt(tmp_path: Path) -> None:
    need("requests")
    import requests

    def ask() -> tuple[str, str]:
        proxies = {"https": "http://127.0.0.1:9"}
        url = "https://api.example.org" + PATH
        try:
            return "", str(requests.post(url, json=ASKED, proxies=proxies).json())
        except requests.RequestException as error:
            # Older releases of urllib3 name an object by its address.
            return type(error).__name__, re.sub(" at 0x[0-9a-f]+", "", str(error))

    bare = ask()
    assert bare[0] == "ProxyError"
    with noting() as notes:
        assert ask() == bare
    (kept,) = save(notes, tmp_path / "notes.json")
    assert kept["status"] == 0
    with answering([kept]):
        assert ask() == bare
    answer = {**kept, "status": 200, "error": None, "chunks": ["eyJhIjogMX0="]}
    with answering([answer]):
        assert ask() == ("", "{'a': 1}")
    with noting(), pytest.raises(requests.exceptions.ProxyError):
        requests.get("https://api.example.org/", proxies={"https": "http://127.0.0.1:9"})


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(("recorded", "loaded"), [("httpx", "httpx2"), ("httpx2", "httpx")])
def test_a_twin_library_raises_its_own_exception(
    recorded: str, loaded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An SDK that has moved to httpx2 retries after exceptions of httpx2 alone."""
    module = pytest.importorskip(loaded)
    other = pytest.importorskip(recorded)
    raised = as_raised_by(module, other.ReadTimeout("timed out"))
    assert (type(raised), str(raised)) == (module.ReadTimeout, "timed out")
    monkeypatch.delitem(sys.modules, recorded)
    rebuilt = rebuild_error(f"{recorded}.ReadTimeout", "timed out")
    assert (type(rebuilt), str(rebuilt)) == (module.ReadTimeout, "timed out")
