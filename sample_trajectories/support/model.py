# model.py
import json
import random
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

drawn = random.Random(3)


def reply(messages):
    told = [json.loads(message["content"]) for message in messages if message["role"] == "tool"]
    order = messages[0]["content"].partition("order ")[2][:5]
    if not told:
        return "get_order", {"order": order}
    cents = told[0]["cents"]
    last = told[-1]
    if len(told) == 1:
        # Now and then it takes the cents for a price in whole dollars.
        asked = cents // 100 if drawn.random() < 0.35 else cents
        return "refund_order", {"order": order, "cents": asked}
    if "error" in last:
        # The payment provider did not answer: the same call again.
        return "refund_order", json.loads(messages[-2]["tool_calls"][0]["function"]["arguments"])
    if "refunded" in last and last["refunded"] < cents and drawn.random() < 0.1:
        return "refund_order", {"order": order, "cents": cents - last["refunded"]}
    if "refunded" in last and drawn.random() < 0.95:
        text = f"Your order {order} is refunded."
        return "send_message", {"customer": told[0]["customer"], "text": text}
    refunded = max(result.get("refunded", 0) for result in told)
    return f"Done: {refunded} of {cents} cents are refunded.", None


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        messages = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"]
        name, arguments = reply(messages)
        message = {"role": "assistant", "content": name if arguments is None else None}
        if arguments is not None:
            function = {"name": name, "arguments": json.dumps(arguments)}
            call = {"id": f"call-{len(messages)}", "type": "function", "function": function}
            message["tool_calls"] = [call]
        usage = {"prompt_tokens": 20 * len(messages), "completion_tokens": 12}
        answer = {"model": "scripted-1", "choices": [{"index": 0, "message": message}]}
        body = json.dumps({**answer, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
