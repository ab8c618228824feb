// The Node SDK's helpers: runners of tools, parsers of structured answers, the responses' stream.
// Usage: node helpers.mjs BASE_URL; prints "ok" at the end.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const model = "smollm2";
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const Weather = z.object({ city: z.enum(["Paris", "Rome"]), unit: z.enum(["c", "f"]) });
const Verdict = z.object({ mood: z.enum(["glad", "sad"]), score: z.number().int().min(0).max(9) });

// A runner: the model calls, the function runs, its result goes back, until an answer comes.
for (const stream of [false, true]) {
  const seen = [];
  const tool = zodFunction({
    name: "weather",
    parameters: Weather,
    function: (where) => (seen.push(where), "sunny"),
  });
  const required = { type: "function", function: { name: "weather" } };
  const runner = client.chat.completions.runTools(
    { model, messages, tools: [tool], tool_choice: required, max_tokens: 64, temperature: 0, stream },
    { maxChatCompletions: 2 },
  );
  const deltas = [];
  if (stream) runner.on("tool_calls.function.arguments.delta", (delta) => deltas.push(delta.arguments_delta));
  const results = [];
  runner.on("functionToolCallResult", (result) => results.push(result));
  await runner.done();
  assert.ok(seen.length >= 1 && results.length === seen.length, `${seen.length} calls`);
  assert.deepEqual(Weather.parse(seen[0]), seen[0]);
  assert.equal(results[0], "sunny");
  if (stream) assert.ok(deltas.length >= 1);
  const roles = runner.messages.map((message) => message.role);
  assert.deepEqual(roles.slice(0, 3), ["user", "assistant", "tool"]);
}

// Structured answers.
const response_format = zodResponseFormat(Verdict, "verdict");
const chat = await client.chat.completions.parse({ model, messages, response_format, max_tokens: 64 });
assert.deepEqual(Verdict.parse(chat.choices[0].message.parsed), chat.choices[0].message.parsed);

const streamed = client.chat.completions.stream({ model, messages, response_format, max_tokens: 64 });
let content = "";
streamed.on("content.delta", ({ delta }) => (content += delta));
const final = await streamed.finalChatCompletion();
assert.equal(content, final.choices[0].message.content);
assert.deepEqual(Verdict.parse(JSON.parse(content)), final.choices[0].message.parsed);

// Responses.
const text = { format: zodTextFormat(Verdict, "verdict") };
const parsed = await client.responses.parse({ model, input: "How are you?", text, max_output_tokens: 64 });
assert.deepEqual(Verdict.parse(parsed.output_parsed), parsed.output_parsed);

const tools = [zodResponsesFunction({ name: "weather", parameters: Weather })];
const stream = client.responses.stream({
  model,
  input: "What is the weather in Paris?",
  tools,
  tool_choice: "required",
  max_output_tokens: 64,
});
let args = "";
stream.on("response.function_call_arguments.delta", ({ delta }) => (args += delta));
const response = await stream.finalResponse();
assert.equal(response.status, "completed");
const call = response.output.find((item) => item.type === "function_call");
assert.equal(args, call.arguments);
assert.deepEqual(Weather.parse(call.parsed_arguments), call.parsed_arguments);

// The call's result, after what the server keeps.
const after = await client.responses.create({
  model,
  previous_response_id: response.id,
  input: [{ type: "function_call_output", call_id: call.call_id, output: "sunny" }],
  max_output_tokens: 8,
});
assert.equal(after.previous_response_id, response.id);
const items = await client.responses.inputItems.list(after.id, { order: "asc" });
assert.deepEqual(items.data.map((item) => item.type), ["function_call_output"]);
console.log("ok");
