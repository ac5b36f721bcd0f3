"""Shop: a small environment of tool use, with a database, 16 tools and 22 tasks."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from typing import TypedDict

import gymnasium
from gymnasium import spaces

from trajrec.envs.shop_database import (
    GOODS,
    Customer,
    Database,
    Order,
    empty_database,
    make_database,
    new_order,
    order_key,
    outcome,
    pass_day,
)
from trajrec.envs.shop_tasks import TASKS, Call
from trajrec.envs.shop_tools import (
    APPROVAL_CENTS,
    ARGUMENTS,
    CREDIT_CENTS,
    POLICY,
    REFUND_DAYS,
    TOOLS,
)
from trajrec.envs.text import text_space
from trajrec.protocols import Tool
from trajrec.types import Info, JsonObject, Observation, Value

# Only an error that repeats a long argument is as long as this; the observation is then cut.
MAX_TEXT = 4096

# Price of a new order if no earlier order has the same item.
DEFAULT_CENTS = 5000

_TYPES: dict[str, type] = {"string": str, "integer": int}


class ToolError(Exception):
    """The shop refuses a call. The agent gets it as an answer; `Shop.step` does not raise it."""


class PaymentTimeout(ToolError, TimeoutError):
    """The payment provider did not answer."""


class ShopState(TypedDict):
    """The whole state of a shop, except its generator of random numbers.

    Attributes:
        database: The present database.
        initial: The database after the last reset.
        task: Index of the task in `TASKS`.
        n_steps: Number of calls since the last reset.
        is_done: Whether the agent called `finish`.
    """

    database: Database
    initial: Database
    task: int
    n_steps: int
    is_done: bool


class WatchedShop(TypedDict):
    """The parts of a shop that are watched while it is recorded."""

    database: Database
    is_done: bool


class Shop(gymnasium.Env[dict[str, str], str]):
    """The back office of a shop, as an environment and as a world of tools.

    Customers have orders, which are shipped and delivered as days pass. A policy says which orders
    are refunded. Some refunds time out once or twice before the payment provider answers.

    As an environment, each step is a tool call, as JSON text: `{"tool": ..., "arguments": {...}}`.
    The observation is the goal and the last result, both text. `step` answers a malformed or
    refused call with `{"error": ...}`. The tool `finish` ends the episode. The reward is then 1 if
    the database is as the task's ground truth leaves it, else 0. The texts of messages and the
    number of timeouts do not count. As a world, `call` executes a tool, and raises ToolError for a
    refused call.

    `reset(options={"task": i})` chooses one of the 22 tasks of `trajrec.envs.shop_tasks`.

    Args:
        seed: Seed of a reset that gets none.
        max_steps: Number of steps after which the episode is truncated.

    Raises:
        ValueError: max_steps is less than 1.

    >>> shop = Shop(seed=7)
    >>> _, info = shop.reset(options={"task": 0})
    >>> [shop.step(action)[1] for action in shop.ground_truth()]
    [0.0, 0.0, 0.0, 1.0]
    """

    def __init__(self, *, seed: int | None = None, max_steps: int = 30) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps!r}")
        self.seed = seed
        self.max_steps = max_steps
        # Spaces of its own: with shared ones, the draws of one shop depend on the others.
        self.observation_space: spaces.Space[Observation] = spaces.Dict(
            {"goal": text_space(MAX_TEXT), "result": text_space(MAX_TEXT)}
        )
        self.action_space = text_space(MAX_TEXT)
        self._database = empty_database()
        self._initial = empty_database()
        self._task = 0
        self._n_steps = 0
        self._is_done = False

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[dict[str, str], Info]:
        """Make a new database and choose a task.

        Raises:
            ValueError: The options name a task that does not exist.
        """
        super().reset(seed=self.seed if seed is None else seed)
        task = (options or {}).get("task")
        if task is not None and not 0 <= task < len(TASKS):
            raise ValueError(f"options['task'] must be in [0, {len(TASKS)}), got {task!r}")
        self._database = self._make_database()
        self._initial = copy.deepcopy(self._database)
        # Drawn even if the options choose the task, so that the generator ends in the same state.
        drawn_task = int(self.np_random.integers(len(TASKS)))
        self._task = drawn_task if task is None else int(task)
        self._n_steps = 0
        self._is_done = False
        return self._observe("ready"), {"task": self._task}

    def step(self, action: str) -> tuple[dict[str, str], float, bool, bool, Info]:
        """Execute a call.

        Raises:
            RuntimeError: The episode is over.
        """
        if self._is_done:
            raise RuntimeError("the episode is over; call reset first")
        self._n_steps += 1
        name = None
        result: Value
        try:
            name, arguments = _parse(action)
            result = self._execute(name, arguments)
            is_ok = True
        except ToolError as exc:
            result = {"error": str(exc)}
            is_ok = False
        reward = float(self._is_done and self.task_solved())
        truncated = not self._is_done and self._n_steps >= self.max_steps
        info = {"tool": name, "ok": is_ok}
        return self._observe(json.dumps(result)), reward, self._is_done, truncated, info

    def tools(self) -> tuple[Tool, ...]:
        """Return the tools, with the schemas of their arguments."""
        return TOOLS

    @property
    def kwargs(self) -> JsonObject:
        """The arguments that make an equal shop."""
        return {"seed": self.seed, "max_steps": self.max_steps}

    def call(self, name: str, arguments: JsonObject, /) -> Value:
        """Execute a tool.

        Raises:
            ToolError: The tool does not exist, the arguments do not fit it, or the shop refuses.
        """
        self._n_steps += 1
        return self._execute(name, arguments)

    def watch(self) -> Callable[[], WatchedShop]:
        """Return a function that returns the part of the state to record and compare."""
        return lambda: {"database": self._database, "is_done": self._is_done}

    def ground_truth_calls(self) -> list[Call]:
        """Return the calls that solve the current task from its beginning."""
        return [*TASKS[self._task].calls(self._initial), ("finish", {})]

    def ground_truth(self) -> list[str]:
        """Return the calls that solve the current task as actions of the environment."""
        return [
            json.dumps({"tool": name, "arguments": arguments})
            for name, arguments in self.ground_truth_calls()
        ]

    def task_solved(self) -> bool:
        """Return whether the database is as the ground truth leaves it.

        Messages are compared by their receivers, payments by their amounts.
        """
        solved_shop = Shop()
        solved_shop._database = copy.deepcopy(self._initial)
        for name, arguments in TASKS[self._task].calls(self._initial):
            # A ground truth holds the refunds that time out, too.
            with contextlib.suppress(ToolError):
                solved_shop._execute(name, arguments)
        return outcome(solved_shop._database) == outcome(self._database)

    def get_state(self) -> ShopState:
        """Return a copy of the whole state except the generator's, as plain data."""
        state: ShopState = {
            "database": self._database,
            "initial": self._initial,
            "task": self._task,
            "n_steps": self._n_steps,
            "is_done": self._is_done,
        }
        return copy.deepcopy(state)

    def set_state(self, state: ShopState) -> None:
        """Restore a state that `get_state` returned; the state is copied."""
        state = copy.deepcopy(state)
        self._database = state["database"]
        self._initial = state["initial"]
        self._task = state["task"]
        self._n_steps = state["n_steps"]
        self._is_done = state["is_done"]

    def _make_database(self) -> Database:
        return make_database(self.np_random)

    def _execute(self, name: str, arguments: JsonObject) -> Value:
        # Only names of tools reach getattr, so a call cannot execute any other method.
        _check_call(name, arguments)
        return getattr(self, f"_{name}")(**arguments)

    def _observe(self, result: str) -> dict[str, str]:
        return {"goal": TASKS[self._task].goal(self._initial), "result": result[:MAX_TEXT]}

    def _order(self, order: str) -> Order:
        if order not in self._database["orders"]:
            raise ToolError(f"no order {order}")
        return self._database["orders"][order]

    def _customer(self, customer: str) -> Customer:
        if customer not in self._database["customers"]:
            raise ToolError(f"no customer {customer}")
        return self._database["customers"][customer]

    # The tools, in the order of TOOLS.

    def _read_policy(self) -> str:
        return POLICY

    def _find_customer(self, name: str) -> list[str]:
        customers = self._database["customers"]
        return [key for key, customer in customers.items() if customer["name"] == name]

    def _list_orders(self, customer: str) -> list[str]:
        self._customer(customer)
        orders = self._database["orders"]
        return [key for key, order in orders.items() if order["customer"] == customer]

    def _get_order(self, order: str) -> JsonObject:
        return dict(self._order(order))

    def _list_stock(self) -> dict[str, int]:
        return dict(self._database["stock"])

    def _refund_order(self, order: str, cents: int) -> JsonObject:
        row = self._order(order)
        if row["status"] not in ("delivered", "cancelled"):
            raise ToolError(
                f"order {order} is {row['status']}: only delivered or cancelled orders are refunded"
            )
        if not 0 < cents <= row["cents"] - row["refunded"]:
            raise ToolError(f"refund must be in (0, {row['cents'] - row['refunded']}] cents")
        delivered = row["delivered"]
        if delivered is not None and self._database["day"] - delivered > REFUND_DAYS:
            raise ToolError(f"order {order} was delivered more than {REFUND_DAYS} days ago")
        if cents > APPROVAL_CENTS and not row["approved"]:
            raise ToolError(f"refunds of more than {APPROVAL_CENTS} cents need an approval")
        # Last: only a refund that the shop allows reaches the payment provider.
        payment = self._database["payments"][order]
        if payment["outage"]:
            payment["outage"] -= 1
            raise PaymentTimeout(
                f"the payment provider did not answer; nothing of order {order} was refunded"
            )
        row["refunded"] += cents
        return {"refunded": row["refunded"]}

    def _request_approval(self, order: str) -> JsonObject:
        self._order(order)["approved"] = True
        return {"approved": True}

    def _ship_order(self, order: str) -> JsonObject:
        row = self._order(order)
        if row["status"] != "paid":
            raise ToolError(f"order {order} is {row['status']}: only paid orders are shipped")
        row["status"] = "shipped"
        row["shipped"] = self._database["day"]
        return {"status": "shipped"}

    def _place_order(self, customer: str, item: str) -> JsonObject:
        self._customer(customer)
        stock = self._database["stock"]
        orders = self._database["orders"]
        if not stock.get(item):
            raise ToolError(f"no {item} in stock")
        stock[item] -= 1
        prices = (order["cents"] for order in orders.values() if order["item"] == item)
        cents = next(prices, DEFAULT_CENTS)
        key = order_key(len(orders))
        day = self._database["day"]
        orders[key] = new_order(customer=customer, item=item, cents=cents, day=day)
        self._database["payments"][key] = {"cents": cents, "outage": 0}
        return {"order": key, "cents": cents}

    def _restock(self, item: str, count: int) -> JsonObject:
        if item not in self._database["stock"] or not 0 < count <= 100:
            raise ToolError(f"restock takes one of {', '.join(GOODS)} and a count in (0, 100]")
        self._database["stock"][item] += count
        return {"stock": self._database["stock"][item]}

    def _apply_credit(self, customer: str, cents: int) -> JsonObject:
        row = self._customer(customer)
        if not 0 < cents <= CREDIT_CENTS - row["credit"]:
            raise ToolError(f"credit must be in (0, {CREDIT_CENTS - row['credit']}] cents")
        row["credit"] += cents
        return {"credit": row["credit"]}

    def _wait(self, days: int) -> JsonObject:
        if not 0 < days <= 30:
            raise ToolError(f"days must be in (0, 30], got {days}")
        # Day by day, so that an order can be shipped and delivered within one call.
        for _ in range(days):
            pass_day(self._database)
        return {"day": self._database["day"]}

    def _cancel_order(self, order: str) -> JsonObject:
        row = self._order(order)
        if row["status"] != "paid":
            raise ToolError(
                f"order {order} is {row['status']}: "
                "only paid orders that are not shipped are cancelled"
            )
        row["status"] = "cancelled"
        return {"status": "cancelled"}

    def _update_address(self, customer: str, address: str) -> JsonObject:
        self._customer(customer)["address"] = address
        return {"address": address}

    def _send_message(self, customer: str, text: str) -> JsonObject:
        self._customer(customer)
        self._database["messages"].append({"customer": customer, "text": text})
        return {"sent": True}

    def _finish(self) -> str:
        self._is_done = True
        return "finished"


def _parse(action: str) -> Call:
    """Return the call that an action's text holds.

    Raises:
        ToolError: The text is not a call.
    """
    try:
        call = json.loads(action)
        return call["tool"], call.get("arguments", {})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ToolError('a call must be JSON: {"tool": ..., "arguments": {...}}') from None


def _check_call(name: object, arguments: object) -> None:
    """Check that a tool exists and that arguments fit it.

    Raises:
        ToolError: The tool does not exist, or an argument is missing, unknown or of another type.
    """
    if not isinstance(name, str) or name not in ARGUMENTS:
        raise ToolError(f"no tool {name!r}; there are {', '.join(ARGUMENTS)}")
    properties = ARGUMENTS[name]
    if not isinstance(arguments, dict) or arguments.keys() != properties.keys():
        raise ToolError(f"{name} takes exactly the arguments {list(properties)}")
    for key, value in arguments.items():
        wanted = properties[key]["type"]
        # Not isinstance: True is an int, but no integer in JSON.
        if type(value) is not _TYPES[wanted]:
            raise ToolError(f"{name}: {key} must be {wanted}, got {type(value).__name__}")
