// The official Node SDK, unmodified. Usage: node client.mjs BASE_URL; prints "ok" at the end.

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const ask = {
  model: "smollm2",
  messages: [{ role: "user", content: "Name three colours." }],
  max_tokens: 24,
  temperature: 0,
};

const whole = await client.chat.completions.create(ask);
assert.equal(whole.object, "chat.completion");
assert.ok(whole.choices[0].message.content.length > 5);
assert.ok(whole._request_id);

let text = "";
let usage;
const stream = await client.chat.completions.create({
  ...ask,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.total_tokens, whole.usage.total_tokens);

const helper = client.chat.completions.stream({ ...ask, n: 2 });
const final = await helper.finalChatCompletion();
assert.deepEqual(final.choices.map((choice) => choice.message.content), [text, text]);

const completion = await client.completions.create({ model: "smollm2", prompt: "The sky is", max_tokens: 4 });
assert.equal(completion.object, "text_completion");

const { data } = await client.embeddings.create({ model: "minilm", input: ["a cat", "a dog"] });
assert.equal(data[1].embedding.length, 384);
assert.ok(Math.abs(data[0].embedding.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-3);

const model = await client.models.retrieve("org/model:7b");
assert.equal(model.root, "smollm2");

await assert.rejects(
  client.chat.completions.create({ ...ask, model: "nope" }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
);
await assert.rejects(
  client.chat.completions.create({ ...ask, temperature: 9 }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
);

const aborted = await client.chat.completions.create({ ...ask, max_tokens: 2000, stream: true });
for await (const chunk of aborted) {
  if (chunk.choices[0].delta.content) break;
}
console.log("ok");
