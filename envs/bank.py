"""Bank: the smallest world in which the messages do not tell the state."""

from __future__ import annotations

from trajrec.protocols import Tool
from trajrec.types import JsonObject


class Bank:
    """An account: pay money in, choose an amount, withdraw the amount if the account holds it.

    A tool that replays messages only finds an empty account behind "deposited 100" and blames the
    wrong step. This world tells such tools from tools that restore the state.

    >>> bank = Bank()
    >>> bank.reset()
    'Pay in 100, choose an amount, take it out.'
    >>> bank.call("deposit", {"amount": 100})
    {'balance': 100}
    >>> bank.call("choose", {"amount": 150})
    {'chosen': 150}
    >>> bank.call("withdraw", {})
    {'ok': False, 'balance': 100}
    >>> bank.task_solved()
    False
    """

    def __init__(self) -> None:
        self.balance = 0
        self.chosen = 0
        self.has_paid = False

    @property
    def kwargs(self) -> JsonObject:
        """The arguments that make an equal world: none."""
        return {}

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> str:
        """Open an empty account and return the goal."""
        self.balance = 0
        self.chosen = 0
        self.has_paid = False
        return "Pay in 100, choose an amount, take it out."

    def tools(self) -> tuple[Tool, ...]:
        """Return the three tools."""
        return (
            Tool.with_args("deposit", "write", amount="integer"),
            Tool.with_args("choose", "write", amount="integer"),
            Tool.with_args("withdraw", "write"),
        )

    def call(self, name: str, arguments: JsonObject, /) -> JsonObject:
        """Execute a tool.

        Raises:
            ValueError: The tool does not exist.
        """
        if name == "deposit":
            self.balance += arguments["amount"]
            return {"balance": self.balance}
        if name == "choose":
            self.chosen = arguments["amount"]
            return {"chosen": self.chosen}
        if name != "withdraw":
            raise ValueError(f"tool must be deposit, choose or withdraw, got {name!r}")
        self.has_paid = 0 < self.chosen <= self.balance
        if self.has_paid:
            self.balance -= self.chosen
        return {"ok": self.has_paid, "balance": self.balance}

    def task_solved(self) -> bool:
        """Return whether the account paid the chosen amount out."""
        return self.has_paid

    def get_state(self) -> JsonObject:
        """Return the whole state."""
        return {"balance": self.balance, "chosen": self.chosen, "has_paid": self.has_paid}

    def set_state(self, state: JsonObject) -> None:
        """Restore a state that `get_state` returned."""
        self.balance = state["balance"]
        self.chosen = state["chosen"]
        self.has_paid = state["has_paid"]
