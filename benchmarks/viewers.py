"""`python -m benchmarks.viewers`: the pages of one long episode, beside the viewers of other tools.

    python -m benchmarks.viewers --inspect VENV --pydantic-ai-trace VENV --agent-trajviz VENV

Each names a virtual environment with inspect-ai, pydantic-ai-trace (Python 3.12) or
agent-trajviz[charts]; without it, that tool is left out. The episode has 1,000 turns and 1,000 calls
of tools, of which one in 40 fails. All viewers are opened in turns, each time in a new Chromium with a new profile,
until the text of a turn can be read. Figures are medians, and ratios to our page of the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import trajrec
from benchmarks.viewer_scripts import INSPECT, PYDANTIC_AI_TRACE, TRAJVIZ
from trajrec.view.report import make_report

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from chromium import Chromium, find_chromium, served  # noqa: E402

N_TURNS = 1_000
FAILS_EVERY = 40
TIMEOUT_S = 60.0

READABLE = "/Turn \\d+: I look at order/.test(document.body?.innerText ?? '')"
"""Holds if the text of some turn is on the page."""

COUNTS = """({
    paint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN,
    nodes: document.getElementsByTagName('*').length,
})"""


class Opened(NamedTuple):
    """A page that was opened once.

    Attributes:
        readable_ms: Time until a turn can be read.
        paint_ms: Time until the first paint.
        nodes: Elements of the page.
        kilobytes: What was sent for it; the size of a file.
    """

    readable_ms: float
    paint_ms: float
    nodes: float
    kilobytes: float


class Viewer(NamedTuple):
    """A viewer.

    Attributes:
        name: What the table calls it.
        address: The address that is opened.
        entry: One that is opened before, which signs in; "" if none is needed.
        readable: Holds once a turn can be read.
    """

    name: str
    address: str
    entry: str = ""
    readable: str = READABLE


def record(folder: Path) -> str:
    """Record the episode; return its id."""
    said: list[dict[str, str]] = []

    def get_order(order: str) -> dict[str, Any]:
        if order == "O9999":
            raise LookupError("no order O9999")
        return {"order": order, "item": "lamp", "cents": 5_400}

    with trajrec.episode(folder, task="long", goal="Look at the orders.") as ep:
        call = ep.tool(get_order, access="read")
        for turn in range(N_TURNS):
            text = f"Turn {turn}: I look at order {order_of(turn)}."
            with ep.step():
                ep.model(lambda text=text, **_: text, model="m-1", messages=list(said))
                with contextlib.suppress(LookupError):
                    call(order=order_of(turn))
            said += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]
    trajrec.close_logs()
    return str(ep.id)


def order_of(turn: int) -> str:
    """Return the order that a turn looks at."""
    return "O9999" if turn % FAILS_EVERY == FAILS_EVERY - 1 else f"O{1_001 + turn % 12}"


def turns() -> list[dict[str, str]]:
    """Return the turns for the scripts that write other tools' files."""
    return [
        {
            "text": f"Turn {turn}: I look at order {order_of(turn)}.",
            "order": order_of(turn),
            "error": "no order O9999" if order_of(turn) == "O9999" else "",
        }
        for turn in range(N_TURNS)
    ]


def open_once(viewer: Viewer) -> Opened:
    """Open a viewer in a new browser."""
    command = find_chromium()
    assert command is not None
    with contextlib.closing(Chromium(command)) as browser:
        page = browser.new_page()
        if viewer.entry:
            page.goto(viewer.entry)
            page.call("Network.clearBrowserCache")
            page.goto("about:blank")
            page.events.clear()
        start = time.perf_counter()
        page.call("Page.navigate", {"url": viewer.address})
        page.wait_until(viewer.readable)
        readable_ms = 1_000 * (time.perf_counter() - start)
        counts = page.evaluate(COUNTS)
        sent = sum(
            params["encodedDataLength"]
            for name, params in page.events
            if name == "Network.loadingFinished"
        )
    if viewer.address.startswith("file:"):
        sent = Path(viewer.address.removeprefix("file://")).stat().st_size
    paint = counts["paint"]
    return Opened(readable_ms, math.nan if paint is None else paint, counts["nodes"], sent / 1_000)


@contextlib.contextmanager
def running(command: list[str], address: str, cwd: Path) -> Iterator[None]:
    """Run a server until it answers at an address, and end it afterwards."""
    null = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=cwd, stdin=null, stdout=null, stderr=null) as process:
        try:
            end = time.monotonic() + TIMEOUT_S
            while True:
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                    break
                except urllib.error.HTTPError:
                    break
                except OSError:
                    if time.monotonic() > end or process.poll() is not None:
                        raise
                    time.sleep(0.1)
            yield
        finally:
            process.terminate()


def write_with(venv: Path, script: str, folder: Path) -> None:
    """Run a script in another environment: it writes the episode in the form of a tool."""
    source = json.dumps(turns())
    done = subprocess.run(
        [venv / "bin" / "python", "-c", script], cwd=folder, input=source, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{venv}: the script that writes its file failed")


def others(arguments: argparse.Namespace, stack: contextlib.ExitStack, work: Path) -> list[Viewer]:
    """Return the other tools' viewers, running."""
    viewers = []
    if arguments.inspect:
        folder = work / "inspect"
        folder.mkdir()
        write_with(arguments.inspect, INSPECT, folder)
        base = "http://127.0.0.1:7575"
        command = ["bin/inspect", "view", "start", "--log-dir", str(folder), "--port", "7575"]
        command[0] = str(arguments.inspect / command[0])
        stack.enter_context(running(command, base, folder))
        (log,) = folder.glob("*.eval")
        viewers.append(
            Viewer("Inspect View", f"{base}/#/logs/{log.name}/samples/sample/1/1/messages")
        )
    if arguments.pydantic_ai_trace:
        folder = work / "trace"
        folder.mkdir()
        write_with(arguments.pydantic_ai_trace, PYDANTIC_AI_TRACE, folder)
        paitrace = str(arguments.pydantic_ai_trace / "bin" / "paitrace")
        base = "http://127.0.0.1:7576"
        command = [paitrace, "--no-open", "--port", "7576", "trace.json"]
        stack.enter_context(running(command, base, folder))
        viewers.append(Viewer("pydantic-ai-trace", base))
        subprocess.run(
            [paitrace, "export", "trace.json", "-o", "trace.html"], cwd=folder, check=True
        )
        viewers.append(Viewer("pydantic-ai-trace, file", (folder / "trace.html").as_uri()))
    if arguments.agent_trajviz:
        folder = work / "trajviz"
        folder.mkdir()
        write_with(arguments.agent_trajviz, TRAJVIZ, folder)
        command = [str(arguments.agent_trajviz / "bin" / "agent-trajviz"), "--report"]
        options = ["trace.jsonl", "-o", "report.html", "--inline-plotly"]
        subprocess.run([*command, *options], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        # Its report has charts alone, of which some name the tool.
        address = (folder / "report.html").as_uri()
        readable = (
            "/get_order/.test(document.body?.innerText ?? '') && "
            "[...document.querySelectorAll('.plotly-graph-div')].every("
            "(chart) => chart.querySelector('.main-svg')) && "
            "document.querySelector('.main-svg') !== null"
        )
        viewers.append(Viewer("agent-trajviz, charts alone", address, readable=readable))
    return viewers


def timed(function: Callable[[], object]) -> float:
    """Return the CPU time of a call, in milliseconds."""
    start = time.process_time()
    function()
    return 1_000 * (time.process_time() - start)


def steps_of(viewer: Viewer) -> list[float]:
    """Return the times from a key to the pane of the next step, in milliseconds."""
    command = find_chromium()
    assert command is not None
    times = []
    with contextlib.closing(Chromium(command)) as browser:
        page = browser.new_page()
        page.goto(viewer.entry)
        page.goto(viewer.address)
        for _ in range(50):
            step = int(
                page.evaluate("document.querySelector('#pane h2').textContent.split(' ')[1]")
            )
            start = time.perf_counter()
            page.press("j")
            page.wait_until(f"document.querySelector('#pane h2').textContent === 'Step {step + 1}'")
            times.append(1_000 * (time.perf_counter() - start))
    return times


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("inspect", "pydantic-ai-trace", "agent-trajviz"):
        parser.add_argument(f"--{name}", type=Path, metavar="VENV")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if find_chromium() is None:
        print("no Chromium is installed", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="trajrec-viewers-"))
    try:
        with contextlib.ExitStack() as stack:
            print_figures(arguments, stack, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def print_figures(arguments: argparse.Namespace, stack: contextlib.ExitStack, work: Path) -> None:
    """Open all viewers in turns, and print what was measured."""
    runs = work / "runs"
    own = record(runs)
    report = work / "report.html"
    with trajrec.open(runs) as corpus:
        cpu_ms = timed(lambda: report.write_text(make_report(corpus, own), "utf-8"))
    print(
        f"report: {cpu_ms:,.0f} ms CPU (goal 2,000), {report.stat().st_size / 1_000:,.0f} kB (goal 1,000)"
    )
    entry = stack.enter_context(served(runs))
    base = entry.partition("/?")[0]
    ours = Viewer("trajrec view", f"{base}/e/{own}/500", entry)
    viewers = [ours, Viewer("trajrec report", report.as_uri()), *others(arguments, stack, work)]
    found: dict[str, list[Opened]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for viewer in viewers:
            found[viewer.name].append(open_once(viewer))
    print(f"{'':26}{'readable':>10}{'ratio':>8}{'paint':>8}{'elements':>10}{'kB':>9}")
    for name, opened in found.items():
        medians = [statistics.median(values) for values in zip(*opened, strict=True)]
        pairs = zip(opened, found[ours.name], strict=True)
        ratio = statistics.median(a.readable_ms / b.readable_ms for a, b in pairs)
        print(
            f"{name:26}{medians[0]:>7,.0f} ms{ratio:>8.2f}{medians[1]:>8,.0f}{medians[2]:>10,.0f}{medians[3]:>9,.0f}"
        )
    times = sorted(steps_of(ours))
    print(
        f"next step: {statistics.median(times):.0f} ms (goal 50), "
        f"19 of 20 within {times[int(0.95 * len(times))]:.0f} ms (goal 120)"
    )


if __name__ == "__main__":
    sys.exit(main())
