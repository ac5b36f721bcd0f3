"""Serve the viewer on this machine's loopback, and open a browser at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from trajrec.corpus.corpus import Corpus
from trajrec.view.app import make_app
from trajrec.view.guard import new_token
from trajrec.view.pages import compile_templates, render
from trajrec.view.served_corpus import ServedCorpus

HOST = "127.0.0.1"
DEFAULT_PORT = 7007


def serve(
    corpus: Corpus, *, port: int | None, opens_browser: bool, announce: Callable[[str], None]
) -> None:
    """Serve a corpus until Ctrl-C.

    Args:
        corpus: The corpus.
        port: The port; None for 7007, or a free one if that is taken.
        opens_browser: Whether a browser is opened at the address.
        announce: Gets the address, with its token, when the viewer answers it.

    Raises:
        OSError: The port is taken.
    """
    with _bound(port) as listener, contextlib.ExitStack() as stack:
        chosen = listener.getsockname()[1]
        token = new_token()
        served = ServedCorpus(corpus)
        stack.callback(served.close)
        app = make_app(served, port=chosen, token=token)
        address = f"http://{HOST}:{chosen}/?token={token}"
        config = uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="off", server_header=False
        )
        announce(address)
        # While the browser starts.
        threading.Thread(target=compile_templates, daemon=True).start()
        if opens_browser:
            page = stack.enter_context(_entry_page(address))
            # A text browser in the terminal would not come back.
            threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()
        uvicorn.Server(config).run(sockets=[listener])


def _bound(port: int | None) -> socket.socket:
    """Return a socket that listens on a port of the loopback."""
    for candidate in (DEFAULT_PORT, 0) if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
            listener.listen(64)
            return listener
        except OSError as exc:
            listener.close()
            if port is not None:
                raise OSError(exc.errno, f"port {port} cannot be used: {exc.strerror}") from exc
    raise AssertionError("a free port cannot be taken")


@contextlib.contextmanager
def _entry_page(address: str) -> Iterator[Path]:
    """Make a file that leads to the address: arguments of commands are seen by other users."""
    folder = Path(tempfile.mkdtemp(prefix="trajrec-view-"))
    try:
        page = folder / "open.html"
        with os.fdopen(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(render("entry.html", target=address))
        yield page
    finally:
        shutil.rmtree(folder, ignore_errors=True)
