"""Bank: an account, money in, an amount chosen, money out. The smallest world in which a message is not the state."""

from __future__ import annotations

from typing import Any

from trajrec.protocols import Tool


class Bank:
    """An account. What is chosen is taken out, if it is there.

    A tool that replays messages alone finds an empty account behind "deposited 100", and blames the wrong step: this world is
    here to tell such tools from those that bring back the state.

    >>> bank = Bank()
    >>> bank.reset()
    'Pay in 100, choose an amount, take it out.'
    >>> bank.call("deposit", {"amount": 100}), bank.call("choose", {"amount": 150}), bank.call("withdraw", {})
    ({'balance': 100}, {'chosen': 150}, {'ok': False, 'balance': 100})
    >>> bank.task_solved()
    False
    """

    def __init__(self) -> None:
        self.balance = self.chosen = 0
        self.has_paid = False

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments that make another one like it: none."""
        return {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        """Open an empty account."""
        self.balance = self.chosen = 0
        self.has_paid = False
        return "Pay in 100, choose an amount, take it out."

    def tools(self) -> tuple[Tool, ...]:
        """Return the tools."""
        return (
            Tool.with_args("deposit", "write", amount="integer"),
            Tool.with_args("choose", "write", amount="integer"),
            Tool.with_args("withdraw", "write"),
        )

    def call(self, name: str, arguments: dict[str, Any], /) -> dict[str, Any]:
        """Execute a tool."""
        if name == "deposit":
            self.balance += arguments["amount"]
            return {"balance": self.balance}
        if name == "choose":
            self.chosen = arguments["amount"]
            return {"chosen": self.chosen}
        if name != "withdraw":
            raise ValueError(f"no tool {name!r}")
        self.has_paid = 0 < self.chosen <= self.balance
        if self.has_paid:
            self.balance -= self.chosen
        return {"ok": self.has_paid, "balance": self.balance}

    def task_solved(self) -> bool:
        """Say whether the money was paid out."""
        return self.has_paid

    def get_state(self) -> dict[str, Any]:
        """Return the whole state."""
        return {"balance": self.balance, "chosen": self.chosen, "has_paid": self.has_paid}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put it into a state that `get_state` returned."""
        self.balance, self.chosen, self.has_paid = (
            state["balance"],
            state["chosen"],
            state["has_paid"],
        )
