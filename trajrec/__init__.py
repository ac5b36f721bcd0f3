"""Record, replay and question what agents did.

    env = trajrec.record(gymnasium.make("CartPole-v1"), "runs/")     # a gymnasium.Wrapper
    with trajrec.episode("runs/", task="refund") as ep: ...          # an agent's loop: ep.call, ep.model, ep.check
    corpus = trajrec.open("runs/")                                   # SQL over the logs
    report = trajrec.replay.replay_episode(corpus.episode("3f2a"))   # re-executes, compares every step
    with trajrec.rerun(corpus.episode("3f2a")) as ep: ...            # the agent's own loop, answered from the log

Everything is imported when it is first used: recording never imports DuckDB.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trajrec.version import __version__

if TYPE_CHECKING:
    from trajrec import envs, replay
    from trajrec.agents.clients import mcp, openai
    from trajrec.agents.loop import AgentEpisode as episode
    from trajrec.corpus import Corpus, open
    from trajrec.effects import deterministic
    from trajrec.interfaces import interface
    from trajrec.protocols import StateAdapter, Tool, Verdict, World
    from trajrec.recorder import Recorder
    from trajrec.recording import record
    from trajrec.reruns import Rerun as rerun
    from trajrec.verifiers import verifier

__all__ = [
    "Corpus",
    "Recorder",
    "StateAdapter",
    "Tool",
    "Verdict",
    "World",
    "__version__",
    "deterministic",
    "envs",
    "episode",
    "interface",
    "mcp",
    "open",
    "openai",
    "record",
    "replay",
    "rerun",
    "verifier",
]

_HOME = {
    "Corpus": ("trajrec.corpus", "Corpus"),
    "Recorder": ("trajrec.recorder", "Recorder"),
    "StateAdapter": ("trajrec.protocols", "StateAdapter"),
    "Tool": ("trajrec.protocols", "Tool"),
    "World": ("trajrec.protocols", "World"),
    "Verdict": ("trajrec.protocols", "Verdict"),
    "deterministic": ("trajrec.effects", "deterministic"),
    "episode": ("trajrec.agents.loop", "AgentEpisode"),
    "interface": ("trajrec.interfaces", "interface"),
    "mcp": ("trajrec.agents.clients", "mcp"),
    "open": ("trajrec.corpus", "open"),
    "openai": ("trajrec.agents.clients", "openai"),
    "record": ("trajrec.recording", "record"),
    "rerun": ("trajrec.reruns", "Rerun"),
    "verifier": ("trajrec.verifiers", "verifier"),
}


def __getattr__(name: str) -> Any:
    if name in ("envs", "replay"):
        return importlib.import_module(f"trajrec.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'trajrec' has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return __all__
