"""Shop: a small tool-use environment. A database, tools that change it, a task in words, and a check of what the database
says in the end."""

from __future__ import annotations

import copy
import json
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
from gymnasium import spaces

from trajrec.protocols import Tool

MAX_TEXT = 4096
_TEXT = spaces.Text(max_length=MAX_TEXT, min_length=0, charset=frozenset(string.printable))
_NAMES = ("Ada", "Ben", "Cleo", "Dov", "Eve", "Finn", "Gus", "Hana")
_GOODS = ("lamp", "chair", "mug", "rug", "clock", "vase")
Database = dict[str, Any]


class Task(NamedTuple):
    """A task: what the customer wants, the calls that do it, and the check of the database before and after."""

    goal: Callable[[Database], str]
    calls: Callable[[Database], list[tuple[str, dict[str, Any]]]]
    check: Callable[[Database, Database], bool]


class ToolError(Exception):
    """A call that the shop refuses: an answer to the agent, not an exception of the environment."""


TOOLS = (
    Tool.taking("list_orders", "read", customer="string"),
    Tool.taking("get_order", "read", order="string"),
    Tool.taking("refund_order", "write", order="string", cents="integer"),
    Tool.taking("cancel_order", "write", order="string"),
    Tool.taking("update_address", "write", customer="string", address="string"),
    Tool.taking("send_message", "write", customer="string", text="string"),
    Tool.taking("finish", "write"),
)
_BY_NAME = {tool.name: tool for tool in TOOLS}
_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,)}


class Shop(gymnasium.Env[dict[str, str], str]):
    """A shop's back office. Each step is one tool call, as the JSON text {"tool": ..., "arguments": {...}}.

    The observation is the goal and the last result, both text. A call that is not JSON, names no tool, does not fit its schema
    or is refused by the shop is answered with {"error": ...}; it never raises. `finish` ends the episode; the reward is 1 if
    the database is then as the task asks, else 0. `options={"task": i}` in reset chooses the task.

    It is also a world whose tools an agent calls one by one (`call`): there a refused call raises ToolError. `seed` is that of
    a reset without one.

    >>> env = Shop()
    >>> _ = env.reset(seed=7, options={"task": 0})
    >>> [env.step(call)[1] for call in env.ground_truth()][-1]
    1.0
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

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, str], dict[str, Any]]:
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

    def ground_truth(self) -> list[str]:
        """Return the actions that solve the current task from its beginning."""
        calls = [*TASKS[self._task].calls(self._initial), ("finish", {})]
        return [json.dumps({"tool": name, "arguments": arguments}) for name, arguments in calls]

    def task_solved(self) -> bool:
        """Say whether the database is as the task asks."""
        return TASKS[self._task].check(self._initial, self._database)

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
        self._database, self._initial, self._task = state["database"], state["initial"], state["task"]
        self._n_steps, self._is_done = state["n_steps"], state["is_done"]

    def _execute(self, name: str, arguments: dict[str, Any]) -> Any:
        _fit(name, arguments)
        return getattr(self, f"_{name}")(**arguments)

    def _observe(self, result: str) -> dict[str, str]:
        return {"goal": TASKS[self._task].goal(self._initial), "result": result[:MAX_TEXT]}

    def _make_database(self) -> Database:
        draw = self.np_random.integers
        customers = {
            f"C{i}": {"name": _NAMES[int(draw(len(_NAMES)))], "address": f"{int(draw(1, 99))} Mill Lane"} for i in range(1, 5)
        }
        orders = {}
        for i in range(10):
            status = ("paid", "shipped", "delivered")[int(draw(3))] if i >= 3 else ("delivered", "paid", "delivered")[i]
            orders[f"O{1001 + i}"] = {
                "customer": f"C{i % 4 + 1}",
                "item": _GOODS[int(draw(len(_GOODS)))],
                "cents": int(draw(5, 200)) * 100,
                "status": status,
                "refunded": 0,
            }
        return {"customers": customers, "orders": orders, "messages": []}

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
        return [key for key, order in self._database["orders"].items() if order["customer"] == customer]

    def _get_order(self, order: str) -> dict[str, Any]:
        return dict(self._order(order))

    def _refund_order(self, order: str, cents: int) -> dict[str, Any]:
        found = self._order(order)
        if found["status"] not in ("delivered", "cancelled"):
            raise ToolError(f"order {order} is {found['status']}: only delivered or cancelled orders are refunded")
        if not 0 < cents <= found["cents"] - found["refunded"]:
            raise ToolError(f"refund must be in (0, {found['cents'] - found['refunded']}] cents")
        found["refunded"] += cents
        return {"refunded": found["refunded"]}

    def _cancel_order(self, order: str) -> dict[str, Any]:
        found = self._order(order)
        if found["status"] != "paid":
            raise ToolError(f"order {order} is {found['status']}: only paid orders that are not shipped are cancelled")
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
            raise ToolError(f"{name}: {key} must be {properties[key]['type']}, got {type(value).__name__}")


def _only(before: Database, after: Database, change: Callable[[Database], None]) -> bool:
    """Say whether the database is exactly the one before, changed so (messages apart)."""
    expected = copy.deepcopy(before)
    change(expected)
    return {k: v for k, v in expected.items() if k != "messages"} == {k: v for k, v in after.items() if k != "messages"}


def _told(after: Database, customer: str, n: int = 1) -> bool:
    return [message["customer"] for message in after["messages"]] == [customer] * n


def _refund_check(before: Database, after: Database) -> bool:
    total = before["orders"]["O1001"]["cents"]
    return _only(before, after, lambda d: d["orders"]["O1001"].update(refunded=total)) and _told(after, "C1")


def _cancel_check(before: Database, after: Database) -> bool:
    total = before["orders"]["O1002"]["cents"]
    return _only(before, after, lambda d: d["orders"]["O1002"].update(status="cancelled", refunded=total))


TASKS = (
    Task(
        lambda d: f"Refund order O1001 of customer C1 ({d['customers']['C1']['name']}) in full, and tell them.",
        lambda d: [
            ("get_order", {"order": "O1001"}),
            ("refund_order", {"order": "O1001", "cents": d["orders"]["O1001"]["cents"]}),
            ("send_message", {"customer": "C1", "text": "Your order O1001 is refunded."}),
        ],
        _refund_check,
    ),
    Task(
        lambda d: "Cancel order O1002 and refund it in full.",
        lambda d: [
            ("cancel_order", {"order": "O1002"}),
            ("refund_order", {"order": "O1002", "cents": d["orders"]["O1002"]["cents"]}),
        ],
        _cancel_check,
    ),
    Task(
        lambda d: "Customer C3 moved to 5 Harbour Street. Change the address, and change nothing else.",
        lambda d: [("update_address", {"customer": "C3", "address": "5 Harbour Street"})],
        lambda b, a: _only(b, a, lambda d: d["customers"]["C3"].update(address="5 Harbour Street")) and not a["messages"],
    ),
    Task(
        lambda d: "Refund half of order O1003 (delivered damaged).",
        lambda d: [
            ("get_order", {"order": "O1003"}),
            ("refund_order", {"order": "O1003", "cents": d["orders"]["O1003"]["cents"] // 2}),
        ],
        lambda b, a: _only(b, a, lambda d: d["orders"]["O1003"].update(refunded=b["orders"]["O1003"]["cents"] // 2)),
    ),
    Task(
        lambda d: "Send customer C2 one message for each of their orders, and change nothing.",
        lambda d: [
            ("list_orders", {"customer": "C2"}),
            *(
                ("send_message", {"customer": "C2", "text": f"Your order {key} is {order['status']}."})
                for key, order in d["orders"].items()
                if order["customer"] == "C2"
            ),
        ],
        lambda b, a: (
            _only(b, a, lambda d: None) and _told(a, "C2", sum(order["customer"] == "C2" for order in b["orders"].values()))
        ),
    ),
)
