// An agent in Node.js without any package: one call of a tool, then an answer.
const base = process.env.OPENAI_BASE_URL;

async function ask(messages, stream) {
  const response = await fetch(`${base}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer sk-proj-Zx81kPq0aTeVn4Rw7YbM2c" },
    body: JSON.stringify({ model: "m", messages, stream }),
  });
  if (!response.ok) {
    console.error("refused", response.status, response.headers.get("x-should-retry"));
    process.exit(3);
  }
  if (!stream) return (await response.json()).choices[0].message;
  let text = "";
  for (const line of (await response.text()).split("\n")) {
    if (!line.startsWith("data: {")) continue;
    for (const choice of JSON.parse(line.slice(6)).choices) text += choice.delta.content ?? "";
  }
  return { role: "assistant", content: text };
}

const messages = [{ role: "user", content: process.argv[2] ?? "Where is order O1001?" }];
const first = await ask(messages, false);
messages.push(first);
messages.push({ role: "tool", tool_call_id: first.tool_calls[0].id, content: "it is on its way, über Wien" });
console.log((await ask(messages, true)).content);
