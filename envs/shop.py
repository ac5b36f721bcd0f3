"""Shop: a small tool-use environment. A database, tools that change it, a task in words, and a check of what the database
says in the end."""

from __future__ import annotations

import contextlib
import copy
import json
import string
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium import spaces

from trajrec.envs.shop_tasks import GOODS, TASKS, Database
from trajrec.protocols import Tool

MAX_TEXT = 4096
_TEXT = spaces.Text(max_length=MAX_TEXT, min_length=0, charset=frozenset(string.printable))
_NAMES = ("Ada", "Ben", "Cleo", "Dov", "Eve", "Finn", "Gus", "Hana")
TODAY = 100
REFUND_DAYS = 30
APPROVAL_CENTS = 15000
CREDIT_CENTS = 1000
POLICY = (
    f"Refunds: delivered orders, up to {REFUND_DAYS} days after delivery, and cancelled ones; refunds of more than "
    f"{APPROVAL_CENTS} cents need an approval first. Cancellations: paid orders that are not shipped. Credit: up to "
    f"{CREDIT_CENTS} cents a customer. Paid orders are shipped after 2 days and delivered 3 days later. Where the payment "
    "provider does not answer, nothing was refunded: try again."
)


class ToolError(Exception):
    """A call that the shop refuses: an answer to the agent, not an exception of the environment."""


class PaymentTimeout(ToolError, TimeoutError):
    """The payment provider did not answer."""


TOOLS = (
    Tool.with_args("read_policy", "read"),
    Tool.with_args("find_customer", "read", name="string"),
    Tool.with_args("list_orders", "read", customer="string"),
    Tool.with_args("get_order", "read", order="string"),
    Tool.with_args("list_stock", "read"),
    Tool.with_args("refund_order", "write", order="string", cents="integer"),
    Tool.with_args("request_approval", "write", order="string"),
    Tool.with_args("ship_order", "write", order="string"),
    Tool.with_args("place_order", "write", customer="string", item="string"),
    Tool.with_args("restock", "write", item="string", count="integer"),
    Tool.with_args("apply_credit", "write", customer="string", cents="integer"),
    Tool.with_args("wait", "write", days="integer"),
    Tool.with_args("cancel_order", "write", order="string"),
    Tool.with_args("update_address", "write", customer="string", address="string"),
    Tool.with_args("send_message", "write", customer="string", text="string"),
    Tool.with_args("finish", "write"),
)
_BY_NAME = {tool.name: tool for tool in TOOLS}
_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,)}


class Shop(gymnasium.Env[dict[str, str], str]):
    """A shop's back office: customers, orders that are shipped and delivered as days go by, payments, a policy, tools.

    As an environment each step is one tool call, as the JSON text {"tool": ..., "arguments": {...}}; as a world `call` executes
    it. The observation is the goal and the last result, both text. A call that is not JSON, names no tool, does not fit its
    schema or is refused by the shop is answered with {"error": ...}; `step` never raises for it, `call` raises ToolError.
    `finish` ends the episode; the reward is 1 if the database is then as after the task's ground truth (whatever the messages
    say), else 0. `options={"task": i}` in reset chooses one of the 22 tasks of `trajrec.envs.shop_tasks`. Some payments time
    out once or twice before a refund goes through.

    Args:
        seed: Of a reset without one.
        max_steps: Steps after which the episode is truncated.

    >>> shop = Shop(seed=7)
    >>> _, info = shop.reset(options={"task": 0})
    >>> [shop.step(action)[1] for action in shop.ground_truth()]
    [0.0, 0.0, 0.0, 1.0]
    """

    def __init__(self, *, seed: int | None = None, max_steps: int = 30) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps!r}")
        self.seed, self.max_steps = seed, max_steps
        self.observation_space: spaces.Space[Any] = spaces.Dict({"goal": _TEXT, "result": _TEXT})
        self.action_space = _TEXT
        self._database: Database = {}
        self._initial: Database = {}
        self._task = self._n_steps = 0
        self._is_done = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Fill the database and choose a task."""
        super().reset(seed=self.seed if seed is None else seed)
        task = (options or {}).get("task")
        if task is not None and not 0 <= task < len(TASKS):
            raise ValueError(f"options['task'] must be in [0, {len(TASKS)}), got {task!r}")
        self._database = self._make_database()
        self._initial = copy.deepcopy(self._database)
        drawn = int(self.np_random.integers(len(TASKS)))
        self._task = drawn if task is None else int(task)
        self._n_steps, self._is_done = 0, False
        return self._observe("ready"), {"task": self._task}

    def step(self, action: str) -> tuple[dict[str, str], float, bool, bool, dict[str, Any]]:
        """Execute one call."""
        if self._is_done:
            raise RuntimeError("the episode is over; call reset first")
        self._n_steps += 1
        name = None
        try:
            name, arguments = _parse(action)
            result, is_ok = self._execute(name, arguments), True
        except ToolError as exc:
            result, is_ok = {"error": str(exc)}, False
        reward = float(self._is_done and self.task_solved())
        truncated = not self._is_done and self._n_steps >= self.max_steps
        info = {"tool": name, "ok": is_ok}
        return self._observe(json.dumps(result)), reward, self._is_done, truncated, info

    def tools(self) -> tuple[Tool, ...]:
        """Return the tools, with the schemas of their arguments."""
        return TOOLS

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments that make another shop like this."""
        return {"seed": self.seed, "max_steps": self.max_steps}

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        """Execute one call as an agent's tool.

        Raises:
            ToolError: The call does not fit, or the shop refuses it.
        """
        self._n_steps += 1
        return self._execute(name, arguments)

    def watch(self) -> Callable[[], dict[str, Any]]:
        """Return what to watch: a view of the database and of whether the agent has finished."""
        return lambda: {"database": self._database, "is_done": self._is_done}

    def ground_truth_calls(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the calls that solve the current task from its beginning."""
        return [*TASKS[self._task].calls(self._initial), ("finish", {})]

    def ground_truth(self) -> list[str]:
        """Return the same as actions."""
        return [
            json.dumps({"tool": name, "arguments": arguments})
            for name, arguments in self.ground_truth_calls()
        ]

    def task_solved(self) -> bool:
        """Say whether the database is as after the ground truth, messages by customer and payments by what went through."""
        truth = Shop()
        truth._database = copy.deepcopy(self._initial)
        for name, arguments in TASKS[self._task].calls(self._initial):
            with contextlib.suppress(ToolError):
                truth._execute(name, arguments)
        return bool(_outcome(truth._database) == _outcome(self._database))

    def get_state(self) -> dict[str, Any]:
        """Return the whole state but the generator's, as plain data of its own."""
        state = {
            "database": self._database,
            "initial": self._initial,
            "task": self._task,
            "n_steps": self._n_steps,
            "is_done": self._is_done,
        }
        return copy.deepcopy(state)

    def set_state(self, state: dict[str, Any]) -> None:
        """Put the shop into a state that `get_state` returned."""
        state = copy.deepcopy(state)
        self._database, self._initial, self._task = (
            state["database"],
            state["initial"],
            state["task"],
        )
        self._n_steps, self._is_done = state["n_steps"], state["is_done"]

    def _execute(self, name: str, arguments: dict[str, Any]) -> Any:
        _fit(name, arguments)
        return getattr(self, f"_{name}")(**arguments)

    def _observe(self, result: str) -> dict[str, str]:
        return {"goal": TASKS[self._task].goal(self._initial), "result": result[:MAX_TEXT]}

    def _make_database(self) -> Database:
        draw = self.np_random.integers
        names = [_NAMES[int(i)] for i in self.np_random.permutation(len(_NAMES))]
        customers = {
            f"C{i}": {"name": names[i], "address": f"{int(draw(1, 99))} Mill Lane", "credit": 0}
            for i in range(1, 5)
        }
        orders: dict[str, Any] = {}
        payments: dict[str, Any] = {}
        # The first six are what tasks speak of; the fourth is dear, the fifth's payments time out, the last two are long past.
        fixed = ("delivered", "paid", "delivered", "delivered", "delivered", "shipped")
        for i in range(12):
            status = fixed[i] if i < len(fixed) else ("paid", "shipped", "delivered")[int(draw(3))]
            age = 60 if i >= 10 else int(draw(2))
            cents = int(draw(*((50, 100) if i == 0 else (160, 200) if i == 3 else (5, 150)))) * 100
            stages = ("paid", "shipped", "delivered").index(status)
            orders[f"O{1001 + i}"] = {
                "customer": f"C{i % 4 + 1}",
                "item": GOODS[int(draw(len(GOODS)))],
                "cents": cents,
                "status": status,
                "ordered": TODAY - age - (0, 2, 5)[stages],
                "shipped": TODAY - age - (0, 0, 3)[stages] if stages else None,
                "delivered": TODAY - age if stages == 2 else None,
                "approved": False,
                "refunded": 0,
            }
            outage = 2 if i == 4 else int(draw(2)) if i >= len(fixed) else 0
            payments[f"O{1001 + i}"] = {"cents": cents, "outage": outage}
        stock = {item: int(draw(0, 8)) for item in GOODS} | {GOODS[0]: 1, GOODS[1]: 5}
        return {
            "day": TODAY,
            "customers": customers,
            "orders": orders,
            "payments": payments,
            "stock": stock,
            "messages": [],
        }

    def _order(self, order: str) -> dict[str, Any]:
        if order not in self._database["orders"]:
            raise ToolError(f"no order {order}")
        found: dict[str, Any] = self._database["orders"][order]
        return found

    def _customer(self, customer: str) -> dict[str, Any]:
        if customer not in self._database["customers"]:
            raise ToolError(f"no customer {customer}")
        found: dict[str, Any] = self._database["customers"][customer]
        return found

    def _list_orders(self, customer: str) -> list[str]:
        self._customer(customer)
        return [
            key for key, order in self._database["orders"].items() if order["customer"] == customer
        ]

    def _get_order(self, order: str) -> dict[str, Any]:
        return dict(self._order(order))

    def _read_policy(self) -> str:
        return POLICY

    def _find_customer(self, name: str) -> list[str]:
        return [
            key for key, customer in self._database["customers"].items() if customer["name"] == name
        ]

    def _list_stock(self) -> dict[str, int]:
        return dict(self._database["stock"])

    def _refund_order(self, order: str, cents: int) -> dict[str, Any]:
        found = self._order(order)
        if found["status"] not in ("delivered", "cancelled"):
            raise ToolError(
                f"order {order} is {found['status']}: only delivered or cancelled orders are refunded"
            )
        if not 0 < cents <= found["cents"] - found["refunded"]:
            raise ToolError(f"refund must be in (0, {found['cents'] - found['refunded']}] cents")
        if (
            found["status"] == "delivered"
            and self._database["day"] - found["delivered"] > REFUND_DAYS
        ):
            raise ToolError(f"order {order} was delivered more than {REFUND_DAYS} days ago")
        if cents > APPROVAL_CENTS and not found["approved"]:
            raise ToolError(f"refunds of more than {APPROVAL_CENTS} cents need an approval")
        payment = self._database["payments"][order]
        if payment["outage"]:
            payment["outage"] -= 1
            raise PaymentTimeout(
                f"the payment provider did not answer; nothing of order {order} was refunded"
            )
        found["refunded"] += cents
        return {"refunded": found["refunded"]}

    def _request_approval(self, order: str) -> dict[str, Any]:
        self._order(order)["approved"] = True
        return {"approved": True}

    def _ship_order(self, order: str) -> dict[str, Any]:
        found = self._order(order)
        if found["status"] != "paid":
            raise ToolError(f"order {order} is {found['status']}: only paid orders are shipped")
        found.update(status="shipped", shipped=self._database["day"])
        return {"status": "shipped"}

    def _place_order(self, customer: str, item: str) -> dict[str, Any]:
        self._customer(customer)
        stock, orders = self._database["stock"], self._database["orders"]
        if not stock.get(item):
            raise ToolError(f"no {item} in stock")
        stock[item] -= 1
        cents = next((order["cents"] for order in orders.values() if order["item"] == item), 5000)
        key = f"O{1001 + len(orders)}"
        orders[key] = {
            "customer": customer,
            "item": item,
            "cents": cents,
            "status": "paid",
            "ordered": self._database["day"],
            "shipped": None,
            "delivered": None,
            "approved": False,
            "refunded": 0,
        }
        self._database["payments"][key] = {"cents": cents, "outage": 0}
        return {"order": key, "cents": cents}

    def _restock(self, item: str, count: int) -> dict[str, Any]:
        if item not in self._database["stock"] or not 0 < count <= 100:
            raise ToolError(f"restock takes one of {', '.join(GOODS)} and a count in (0, 100]")
        self._database["stock"][item] += count
        return {"stock": self._database["stock"][item]}

    def _apply_credit(self, customer: str, cents: int) -> dict[str, Any]:
        found = self._customer(customer)
        if not 0 < cents <= CREDIT_CENTS - found["credit"]:
            raise ToolError(f"credit must be in (0, {CREDIT_CENTS - found['credit']}] cents")
        found["credit"] += cents
        return {"credit": found["credit"]}

    def _wait(self, days: int) -> dict[str, Any]:
        if not 0 < days <= 30:
            raise ToolError(f"days must be in (0, 30], got {days}")
        for _ in range(days):
            self._database["day"] += 1
            day = self._database["day"]
            for order in self._database["orders"].values():
                if order["status"] == "paid" and day - order["ordered"] >= 2:
                    order.update(status="shipped", shipped=day)
                elif order["status"] == "shipped" and day - order["shipped"] >= 3:
                    order.update(status="delivered", delivered=day)
        return {"day": self._database["day"]}

    def _cancel_order(self, order: str) -> dict[str, Any]:
        found = self._order(order)
        if found["status"] != "paid":
            raise ToolError(
                f"order {order} is {found['status']}: only paid orders that are not shipped are cancelled"
            )
        found["status"] = "cancelled"
        return {"status": "cancelled"}

    def _update_address(self, customer: str, address: str) -> dict[str, Any]:
        self._customer(customer)["address"] = address
        return {"address": address}

    def _send_message(self, customer: str, text: str) -> dict[str, Any]:
        self._customer(customer)
        self._database["messages"].append({"customer": customer, "text": text})
        return {"sent": True}

    def _finish(self) -> str:
        self._is_done = True
        return "finished"


def _parse(action: str) -> tuple[str, dict[str, Any]]:
    """Read an action as a call.

    Raises:
        ToolError: It is none.
    """
    try:
        call = json.loads(action)
        return call["tool"], call.get("arguments", {})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ToolError('a call must be JSON: {"tool": ..., "arguments": {...}}') from None


def _fit(name: Any, arguments: Any) -> None:
    """Check that there is such a tool and that the arguments fit it.

    Raises:
        ToolError: They do not.
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ToolError(f"no tool {name!r}; there are {', '.join(_BY_NAME)}")
    properties = (_BY_NAME[name].schema or {})["properties"]
    if not isinstance(arguments, dict) or arguments.keys() != properties.keys():
        raise ToolError(f"{name} takes exactly the arguments {list(properties)}")
    for key, value in arguments.items():
        if type(value) not in _TYPES[properties[key]["type"]]:
            raise ToolError(
                f"{name}: {key} must be {properties[key]['type']}, got {type(value).__name__}"
            )


def _outcome(database: Database) -> Any:
    """Return what of a database a task is about: not what messages say, nor which requests timed out."""
    told = sorted(message["customer"] for message in database["messages"])
    return {
        **database,
        "messages": told,
        "payments": {key: row["cents"] for key, row in database["payments"].items()},
    }
