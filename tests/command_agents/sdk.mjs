// The same conversation with the packages openai and @anthropic-ai/sdk, whose clients retry.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const openai = new OpenAI({ apiKey: process.env.OPENAI_API_KEY ?? "none" });
const messages = [{ role: "user", content: "Where is order O1001?" }];
const whole = await openai.chat.completions.create({ model: "m", messages });
console.log(whole.choices[0].message.content);
let text = "";
for await (const event of await openai.chat.completions.create({ model: "m", messages: [...messages, whole.choices[0].message, { role: "user", content: "And now?" }], stream: true })) {
  text += event.choices[0]?.delta?.content ?? "";
}
console.log(text);
const anthropic = new Anthropic({ apiKey: process.env.ANTHROPIC_API_KEY ?? "none" });
const said = [{ role: "user", content: "Hello." }];
const answer = await anthropic.messages.create({ model: "m", max_tokens: 9, messages: said });
console.log(answer.content[0].text);
const stream = anthropic.messages.stream({ model: "m", max_tokens: 9, messages: [...said, { role: "assistant", content: "a" }, { role: "user", content: "b" }] });
console.log((await stream.finalMessage()).content[0].text);
