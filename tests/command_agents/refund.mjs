// A support agent in Node.js without any package, whose refunds are lines of a file.
import { appendFileSync } from "node:fs";

const base = process.env.OPENAI_BASE_URL;
const ledger = process.argv[2];
const tools = {
  get_order: () => ({ cents: 5400 }),
  refund: ({ cents }) => {
    appendFileSync(`${ledger}/refunds.txt`, `${cents}\n`);
    return { refunded: cents };
  },
};
const messages = [
  { role: "system", content: "Be good." },
  { role: "user", content: "Refund order O1." },
];
for (let turn = 0; turn < 10; turn += 1) {
  const response = await fetch(`${base}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "m", messages }),
  });
  if (!response.ok) process.exit(3);
  const { message } = (await response.json()).choices[0];
  messages.push(message);
  if (!message.tool_calls) break;
  for (const { id, function: asked } of message.tool_calls) {
    const result = tools[asked.name](JSON.parse(asked.arguments));
    messages.push({ role: "tool", tool_call_id: id, content: JSON.stringify(result) });
  }
}
