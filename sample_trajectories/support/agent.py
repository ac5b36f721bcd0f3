# agent.py
import json
import os
import urllib.request
from pathlib import Path

from trajrec.envs import Shop
from trajrec.envs.shop import ToolError

STATE = Path("shop/state.json")


def ask(messages):
    body = json.dumps({"model": "scripted-1", "messages": messages}).encode()
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]


def work(shop, goal):
    messages = [{"role": "user", "content": goal}]
    while True:
        message = ask(messages)
        messages.append(message)
        if not message.get("tool_calls"):
            return message["content"]
        for call in message["tool_calls"]:
            tool = call["function"]
            try:
                result = shop.call(tool["name"], json.loads(tool["arguments"]))
            except ToolError as exc:
                result = {"error": str(exc)}
            STATE.write_text(json.dumps(shop.get_state()))
            told = {"role": "tool", "tool_call_id": call["id"]}
            messages.append({**told, "content": json.dumps(result)})


def solved(folder):
    shop = Shop()
    shop.set_state(json.loads((folder / "state.json").read_text()))
    return shop.task_solved()


if __name__ == "__main__":
    shop = Shop()
    observation, info = shop.reset(seed=1, options={"task": 5})
    print(observation["goal"])
    print(work(shop, observation["goal"]))
