"""Record agents' episodes, replay them exactly, and query them with SQL.

    env = trajrec.record(gymnasium.make("CartPole-v1"), "runs/")     # a gymnasium.Wrapper
    trajrec.capture("runs/")                                         # every model call from here on
    with trajrec.episode("runs/", task="refund") as ep: ...          # an agent's loop, any client
    corpus = trajrec.open("runs/")                                   # SQL over the logs
    report = trajrec.replay.replay_episode(corpus.episode("3f2a"))   # compares every step
    with trajrec.rerun(corpus.episode("3f2a")) as ep: ...            # answered from the log

Each name is imported when it is first used, so a process that only records never imports DuckDB.
"""

from trajrec._lazy import lazy_exports
from trajrec.version import __version__ as __version__

# Type checkers take it for true. `typing` itself would be four fifths of `import trajrec`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from trajrec import envs as envs
    from trajrec import replay as replay
    from trajrec.agents.capturing import capture as capture
    from trajrec.agents.clients import mcp as mcp
    from trajrec.agents.clients import openai as openai
    from trajrec.agents.context import current_episode as current_episode
    from trajrec.agents.episode import AgentEpisode
    from trajrec.agents.freeze import deterministic as deterministic
    from trajrec.api import record as record
    from trajrec.corpus.corpus import Corpus as Corpus
    from trajrec.corpus.corpus import open as open
    from trajrec.exchange.importing import import_trajectories as import_trajectories
    from trajrec.protocols import StateAdapter as StateAdapter
    from trajrec.protocols import Tool as Tool
    from trajrec.protocols import Verdict as Verdict
    from trajrec.protocols import World as World
    from trajrec.recording.event_log import close_logs as close_logs
    from trajrec.recording.options import RecordOptions as RecordOptions
    from trajrec.recording.recorder import Recorder as Recorder
    from trajrec.replay.agents.rerun import Rerun
    from trajrec.run_interface import interface as interface
    from trajrec.verifiers import verifier as verifier
    from trajrec.worlds import register_world as register_world

    # Assigned: an import under another name is no export to a type checker.
    episode = AgentEpisode
    rerun = Rerun

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Corpus": "trajrec.corpus.corpus:Corpus",
        "RecordOptions": "trajrec.recording.options:RecordOptions",
        "Recorder": "trajrec.recording.recorder:Recorder",
        "StateAdapter": "trajrec.protocols:StateAdapter",
        "Tool": "trajrec.protocols:Tool",
        "Verdict": "trajrec.protocols:Verdict",
        "World": "trajrec.protocols:World",
        "__version__": "trajrec.version:__version__",
        "capture": "trajrec.agents.capturing:capture",
        "close_logs": "trajrec.recording.event_log:close_logs",
        "current_episode": "trajrec.agents.context:current_episode",
        "deterministic": "trajrec.agents.freeze:deterministic",
        "envs": "trajrec.envs",
        "episode": "trajrec.agents.episode:AgentEpisode",
        "import_trajectories": "trajrec.exchange.importing:import_trajectories",
        "interface": "trajrec.run_interface:interface",
        "mcp": "trajrec.agents.clients:mcp",
        "open": "trajrec.corpus.corpus:open",
        "openai": "trajrec.agents.clients:openai",
        "record": "trajrec.api:record",
        "register_world": "trajrec.worlds:register_world",
        "replay": "trajrec.replay",
        "rerun": "trajrec.replay.agents.rerun:Rerun",
        "verifier": "trajrec.verifiers:verifier",
    },
)
