"""One word per idea: names that were given up do not come back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

GIVEN_UP = {
    # Public names, and the names that replaced them.
    r"credit\.How\b": "credit.RolloutOptions",
    r"credit\.NoReturn\b": "credit.PointOfNoReturn",
    r"credit\.Credit\b": "credit.CreditTable",
    r"credit\.Split\b": "credit.SkillLuckSplit",
    r"credit\.scan\b": "credit.estimate",
    r"credit\.pooled\b": "credit.pooled_advantages",
    r"credit\.group\b": "credit.group_advantages",
    r"credit\.hindsight\b": "credit.hindsight_credit",
    r"credit\.shapley\b": "credit.shapley_values",
    r"credit\.substitute\b": "credit.counterfactual",
    r"\bcan_plot\b": "a private check",
    r"\.n_lost\b": "n_invalid",
    r"\breturned_at\b": "rejoined_at",
    r"\bfork\.many\b": "fork_many",
    r"\breplay_world\b": "replay_episode(episode, world=...)",
    r"\bDeterminism\b": "DeterminismReport",
    r"\benvs\.check_env\b": "check_determinism",
    r"\bcheck-env\b": "check-determinism",
    r"\bEnvWorld\b": "GymWorld",
    r"\bWorldEnv\b": "ToolTextEnv",
    r"\.is_agents\b": "is_agent_episode",
    r"\breward_list\b": "reward_values",
    r"\bobservation_list\b": "observation_values",
    r"\bep\.effect\b": "ep.side_effect",
    r"Tool\.taking\b": "Tool.with_args",
    r"\bep\.retrying\b": "ep.attempts",
    r"\bep\.describe\b": "ep.register_tool",
    r"\bsaid_done\b": "claimed_done",
    r"\bwithin_id\b": "caller_id",
    r"\bwithin_step\b": "caller_step",
    r"\bSnapshotable\b": "RestorableState",
    r"\bAgentsEnv\b": "MultiAgentEnv",
    r"\bAgentChangedError\b": "AgentDivergedError",
    r"\bagents\.sink\b": "trajrec.close_logs",
    r"\bstate_forced\b": "resync",
    r"--state-forced\b": "--resync",
    r"--against\b": "--env",
    r"--until\b": "--max-steps",
    r"\bn_max\b": "max_rollouts",
    r"\bmemo=": "merge_rollouts=",
    # Classes and functions inside.
    r"\bJointView\b": "PettingZooEnv",
    r"\bStandingGround\b": "OneShotSimulator",
    r"\bProber\b": "Sampler",
    r"\bcall_elsewhere\b": "call_in_subprocess",
    r"\bElsewhereError\b": "SubprocessError",
    r"\bas_objects\b": "rehydrate",
    r"\bsink_of\b": "open_event_log",
    r"\bstage_of\b": "env_handle",
    r"\bRegrade\b": "PostHocCheck",
}
"""Pattern -> the name to use. Each pattern is a word that has no other meaning in this project."""

# These explain or write the names that format 1 stores.
STORED_NAMES = {
    "docs/reference/log-format.md",
    "replay/credit/results/store.py",
    "trajrec/corpus/index/credit.py",
    "tests/test_names.py",
}


def texts() -> dict[str, str]:
    """Return the project's text files by path."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml"], cwd=ROOT, capture_output=True, text=True
    )
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for path in paths
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.slow
@pytest.mark.sources
def test_names_that_were_given_up_are_gone() -> None:
    left = []
    for name, text in texts().items():
        if name in STORED_NAMES:
            continue
        for pattern, instead in GIVEN_UP.items():
            # Without its first sign, a pattern begins with letters, which are searched for quickly.
            if not re.search(pattern.removeprefix(r"\b"), text):
                continue
            for match in re.finditer(pattern, text):
                line = text.count("\n", 0, match.start()) + 1
                left.append(f"{name}:{line}: {match.group()} -> {instead}")
    assert not left, "\n".join(left)
