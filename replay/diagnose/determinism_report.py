"""The report of `check_determinism`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from trajrec.errors import EnvContractError
from trajrec.replay.diagnose.interface_checks import Violation
from trajrec.types import Value

Grade = Literal["exact", "seeded", "none"]


class Finding(NamedTuple):
    """The first difference between two rollouts that must be the same.

    Attributes:
        probe: The condition under which the second rollout ran.
        step: The row of the rollout, from 0; -1 is the first reset. A later reset is a row too.
        field: observation, reward, terminated, truncated or info, with the path to the value
            below: "observation/1".
        cause: The cause, as far as the probes can tell, and the remedy.
        first: The value of the first rollout, as text; "" if the value was too large to keep.
        second: The value of the second rollout, as text.
    """

    probe: str
    step: int
    field: str
    cause: str
    first: str = ""
    second: str = ""

    def __str__(self) -> str:
        row = "the reset" if self.step < 0 else f"step {self.step}"
        values = f" ({self.first}, then {self.second})" if self.first or self.second else ""
        return f"{self.probe}: {row} differs in {self.field}{values}; cause: {self.cause}"


@dataclass(frozen=True)
class RestoreReport:
    """The result of probing one way to restore a state.

    Attributes:
        is_granted: Whether each restored environment continued as the original did.
        why: The reason if not; else the condition, if there is one.
        take_us: The median time to take a snapshot, in µs; of "os_fork", to fork a process that
            ends at once.
        restore_us: The median time to restore a snapshot, in µs.
    """

    is_granted: bool
    why: str = ""
    take_us: float | None = None
    restore_us: float | None = None

    def __str__(self) -> str:
        if not self.is_granted:
            return f"no: {self.why}"
        condition = f", {self.why}" if self.why else ""
        take = "" if self.take_us is None else f", {self.take_us:.0f} µs"
        restore = (
            "" if self.restore_us is None else f" to take, {self.restore_us:.0f} µs to restore"
        )
        return f"yes{condition}{take}{restore}"


@dataclass(frozen=True, kw_only=True)
class DeterminismReport:
    """The result of `check_determinism`.

    Attributes:
        env: The environment's id, or the name of its factory.
        grade: "exact" if all rollouts were the same; "seeded" if they were the same up to the
            first reset without a seed; "none" otherwise.
        findings: The first difference that each probe found.
        violations: The returned values that break the environment's own spaces or Gymnasium's
            interface.
        restore: The ways to restore a state of the environment, and their costs.
        has_state: Whether the environment has `get_state` and `set_state`.
        reuses_buffers: Whether an observation changed after it was returned. trajrec records such
            observations correctly; a training loop that keeps them without a copy does not.
        step_us: The median time of a step, in µs.
        reset_us: The median time of a seeded reset, in µs.
        n_steps: The number of steps that each probe compared.
    """

    env: str
    grade: Grade
    findings: tuple[Finding, ...]
    violations: tuple[Violation, ...] = ()
    restore: dict[str, RestoreReport] = field(default_factory=dict)
    has_state: bool = False
    reuses_buffers: bool = False
    step_us: float = 0.0
    reset_us: float = 0.0
    n_steps: int = 0

    @property
    def has_passed(self) -> bool:
        """Whether the grade is "exact" and there is no violation."""
        return self.grade == "exact" and not self.violations

    def raise_if_failed(self) -> None:
        """Raise if the environment is not deterministic or breaks its interface.

        Raises:
            EnvContractError: The first violation or finding, with its step, field and remedy.
        """
        if self.violations:
            raise EnvContractError(f"{self.env}: {self.violations[0].message}")
        if self.findings:
            raise EnvContractError(f"{self.env} is not deterministic: {self.findings[0]}")

    def __str__(self) -> str:
        lines = [
            f"{self.env}: {self.grade}, {self.n_steps} steps compared; step {self.step_us:.0f} µs, "
            f"reset {self.reset_us:.0f} µs"
        ]
        lines += [f"  {finding}" for finding in self.findings]
        lines += [f"  {violation.message}" for violation in self.violations]
        if self.reuses_buffers:
            lines.append("  observations change after they are returned: copy those that you keep")
        lines += [f"  {name:<12} {report}" for name, report in self.restore.items()]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Value]:
        """Return the report as plain data."""
        restore = {
            name: {
                "granted": report.is_granted,
                "why": report.why or None,
                "take_us": report.take_us,
                "restore_us": report.restore_us,
            }
            for name, report in self.restore.items()
        }
        return {
            "env": self.env,
            "grade": self.grade,
            "passed": self.has_passed,
            "n_steps": self.n_steps,
            "step_us": round(self.step_us, 1),
            "reset_us": round(self.reset_us, 1),
            "findings": [finding._asdict() for finding in self.findings],
            "violations": [violation._asdict() for violation in self.violations],
            "has_state": self.has_state,
            "reuses_buffers": self.reuses_buffers,
            "restore": restore,
        }
