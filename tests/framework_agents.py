"""One small agent for each framework and client: recorded, and run again without a network.

`python framework_agents.py record NAME FOLDER` runs an agent against a scripted server and prints, as
JSON, what it said, how many attempts the server saw and how many of them the recording has.
`python framework_agents.py rerun NAME FOLDER` runs it again from the recording, with the network
shut, and prints what it said and which tools ran.
`python framework_agents.py page` writes `docs/reference/frameworks.md`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tapped_agents
from model_server import Call, ModelServer, Turn
from tapped_agents import BROKEN, BUSY

PLAN: list[Turn] = [
    BROKEN,
    BUSY,
    Turn(calls=[Call("lookup", '{"order": "a"}', "c-1"), Call("refund", '{"order": "b"}', "c-2")]),
    Turn(calls=[Call("refund", '{"order": "a', "c-3")]),
    Turn(calls=[Call("refund", '{"order": "c"}', "c-4")]),
    Turn("It is done."),
]
"""Two parallel calls after two failures, one that fails; malformed arguments; a right call; a text."""

VALID = [turn for number, turn in enumerate(PLAN) if number != 3]
"""The same without malformed arguments, on which LangGraph's agent ends."""

FINAL = [*PLAN[:-1], Turn(calls=[Call("final_answer", '{"answer": "It is done."}', "c-9")])]

ran: list[str] = []


def lookup(order: str) -> str:
    """Look an order up.

    Args:
        order: The order.
    """
    ran.append(f"lookup {order}")
    return f"order {order}"


def refund(order: str) -> str:
    """Pay an order back.

    Args:
        order: The order.
    """
    ran.append(f"refund {order}")
    if order == "b":
        raise ValueError("no such order")
    return f"paid {order}"


def pydantic_ai(url: str) -> Any:
    from pydantic_ai import Agent, ModelRetry, Tool
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    def refund_or_retry(order: str) -> str:
        """Pay an order back."""
        try:
            return refund(order)
        except ValueError as exc:
            raise ModelRetry(str(exc)) from exc

    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    tools = [lookup, Tool(refund_or_retry, name="refund")]
    return Agent(model, tools=tools, retries=5).run_sync("Pay back.").output


def openai_agents(url: str) -> Any:
    import agents
    import openai

    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    agent = agents.Agent(
        name="clerk",
        model=agents.OpenAIChatCompletionsModel(model="m", openai_client=client),
        tools=[agents.function_tool(lookup), agents.function_tool(refund)],
    )
    return agents.Runner.run_sync(agent, "Pay back.").final_output


def langgraph(url: str) -> Any:
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.prebuilt import ToolNode, create_react_agent

    model = ChatOpenAI(model="m", base_url=f"{url}/v1", api_key="none", max_retries=3)
    tools = ToolNode([tool(lookup), tool(refund)], handle_tool_errors=True)
    said = create_react_agent(model, tools).invoke({"messages": [("user", "Pay back.")]})
    return said["messages"][-1].content


def smolagents(url: str) -> Any:
    import smolagents as library

    model = library.OpenAIServerModel("m", api_base=f"{url}/v1", api_key="none")
    tools = [library.tool(lookup), library.tool(refund)]
    agent = library.ToolCallingAgent(tools=tools, model=model, verbosity_level=0)
    return agent.run("Pay back.")


def litellm(url: str) -> Any:
    # At import it would fetch a table of prices.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm as library

    said = []
    for _ in range(3):
        answer = library.completion(
            model="openai/m",
            base_url=f"{url}/v1",
            api_key="none",
            messages=[{"role": "user", "content": "Häng on"}],
            max_retries=3,
        )
        said.append(tapped_agents.said_by(answer.choices[0].message))
    return said


def mistralai(url: str) -> Any:
    from mistralai.client import Mistral

    client = Mistral(api_key="none", server_url=url)
    message = {"role": "user", "content": "Häng on"}
    answers = [client.chat.complete(model="m", messages=[message]) for _ in range(3)]
    return [answer.choices[0].message.content for answer in answers]


class Entry(NamedTuple):
    """A row of the matrix: an agent, the packages that it needs, and the server's plan."""

    run: Callable[[str], Any]
    packages: tuple[str, ...]
    plan: list[Turn]


# Of Python itself.
_STANDARD = ("http.client", "urllib.request")

_SAID = [Turn(f"Text {k}.") for k in range(3)]

ENTRIES = {
    "pydantic_ai": Entry(pydantic_ai, ("pydantic-ai-slim", "openai"), PLAN),
    "openai_agents": Entry(openai_agents, ("openai-agents", "openai"), PLAN),
    "langgraph": Entry(langgraph, ("langgraph", "langchain-openai"), VALID),
    "smolagents": Entry(smolagents, ("smolagents", "openai"), FINAL),
    "litellm": Entry(litellm, ("litellm",), tapped_agents.CALLING),
    "mistralai": Entry(mistralai, ("mistralai",), _SAID),
    **{
        name: Entry(
            tapped_agents.AGENTS[name].run,
            tuple(
                package.replace("google.genai", "google-genai")
                for package in tapped_agents.AGENTS[name].needs
                if package not in _STANDARD
            ),
            tapped_agents.AGENTS[name].plan,
        )
        for name in (
            "openai_create",
            "openai_stream",
            "openai_responses",
            "openai_threads",
            "anthropic_create",
            "anthropic_stream",
            "genai_plain",
            "genai_stream",
            "requests_retry",
            "aiohttp_alone",
            "httpx_alone",
            "urllib3_alone",
            "urllib_alone",
            "http_client_alone",
        )
    },
}


def missing(name: str) -> str:
    """Return a package that an agent needs and that is not installed; "" if all are."""
    for package in ENTRIES[name].packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return package
    return ""


def record(name: str, folder: str) -> dict[str, Any]:
    """Record an agent's episode."""
    import trajrec

    entry = ENTRIES[name]
    with ModelServer(entry.plan) as server, trajrec.episode(folder, task=name):
        said = entry.run(server.url)
    trajrec.close_logs()
    (episode,) = trajrec.open(folder).episodes()
    exchanges = episode.transcript.exchanges
    Path(folder, "url.txt").write_text(server.url)
    sent = sorted((attempt.body, attempt.status) for attempt in server.attempts)
    seen = sorted((e.request_body or b"", e.status or 0) for e in exchanges)
    return {"said": said, "sent": len(sent), "seen": len(seen), "equal": sent == seen, "ran": ran}


def rerun(name: str, folder: str) -> dict[str, Any]:
    """Run an agent again from its recording, without a network."""
    import trajrec

    (episode,) = trajrec.open(folder).episodes()
    url = Path(folder, "url.txt").read_text()
    tapped_agents.shut_the_network()
    with trajrec.rerun(episode):
        said = ENTRIES[name].run(url)
    return {"said": said, "ran": ran}


def in_new_process(mode: str, name: str, folder: str) -> dict[str, Any]:
    """Return what this program prints in a process of its own.

    Raises:
        AssertionError: The process failed; with the end of its output.
    """
    command = [sys.executable, "-W", "ignore", __file__, mode, name, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"[-3000:]
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value


def page() -> str:
    """Return the page of the matrix, of the agents whose packages are installed."""
    lines = [
        "# Frameworks",
        "",
        "Each agent ran against a scripted server, and ran again in a new process without a network.",
        "In most plans the server fails, asks for parallel calls and sends malformed arguments.",
        "The page is made by `python tests/framework_agents.py page`.",
        "",
        "| agent | versions | attempts seen / sent | rerun | tools that ran in the rerun |",
        "|---|---|---|---|---|",
    ]
    for name, entry in ENTRIES.items():
        if missing(name):
            continue
        versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in entry.packages)
        versions = versions or f"Python {platform.python_version()}"
        with tempfile.TemporaryDirectory() as folder:
            first = in_new_process("record", name, folder)
            again = in_new_process("rerun", name, folder)
        seen = f"{first['seen']}/{first['sent']}" if first["equal"] else "other bytes"
        same = "the same" if first["said"] == again["said"] else "differs"
        lines.append(f"| {name} | {versions} | {seen} | {same} | {len(again['ran'])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1] == "page":
        home = Path(__file__).resolve().parent.parent / "docs" / "reference" / "frameworks.md"
        home.write_text(page(), encoding="utf-8")
    else:
        print("\n" + json.dumps({"record": record, "rerun": rerun}[sys.argv[1]](*sys.argv[2:])))
