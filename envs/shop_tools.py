"""The tools and the policy of Shop: all that an agent gets to read about it."""

from __future__ import annotations

from trajrec.envs.shop_database import DELIVERY_DAYS, SHIPPING_DAYS
from trajrec.protocols import Tool
from trajrec.types import JsonObject

# The rules of the shop. An agent learns them from the policy, and from refusals.
REFUND_DAYS = 30
APPROVAL_CENTS = 15000
CREDIT_CENTS = 1000
# Recorded as a result of read_policy: another text would make old episodes diverge.
POLICY = (
    f"Refunds: delivered orders, up to {REFUND_DAYS} days after delivery, and cancelled ones; "
    f"refunds of more than {APPROVAL_CENTS} cents need an approval first. Cancellations: paid "
    f"orders that are not shipped. Credit: up to {CREDIT_CENTS} cents a customer. Paid orders are "
    f"shipped after {SHIPPING_DAYS} days and delivered {DELIVERY_DAYS} days later. Where the "
    "payment provider does not answer, nothing was refunded: try again."
)

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
# Name of each tool -> schema of each of its arguments.
ARGUMENTS: dict[str, JsonObject] = {tool.name: (tool.schema or {})["properties"] for tool in TOOLS}
