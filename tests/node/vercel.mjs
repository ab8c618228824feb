// The Vercel AI SDK, by its OpenAI provider (chat and responses) and by the one for compatible
// servers. Usage: node vercel.mjs BASE_URL; prints "ok" at the end.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.argv[2];
const openai = createOpenAI({ baseURL, apiKey: "unused" });
const compatible = createOpenAICompatible({
  baseURL,
  name: "forebay",
  apiKey: "unused",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const Verdict = z.object({ mood: z.enum(["glad", "sad"]), score: z.number().int().min(0).max(9) });
const common = { maxRetries: 0, maxOutputTokens: 64, temperature: 0 };
const prompt = "What is the weather in Paris?";

for (const [name, model] of Object.entries({
  chat: openai.chat("smollm2"),
  responses: openai.responses("smollm2"),
  compatible: compatible("smollm2"),
})) {
  const whole = await generateText({ ...common, model, prompt });
  assert.ok(whole.text.length > 5, name);
  assert.ok(whole.usage.inputTokens > 5 && whole.usage.outputTokens > 0, name);
  assert.deepEqual(whole.warnings, [], name);

  const stream = streamText({ ...common, model, prompt });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text, name);
  assert.deepEqual(await stream.usage, whole.usage, name);

  const output = Output.object({ schema: Verdict });
  const made = await generateText({ ...common, model, prompt, output });
  assert.deepEqual(Verdict.parse(made.output), made.output, name);
  const grown = streamText({ ...common, model, prompt, output });
  let last;
  for await (const partial of grown.partialOutputStream) last = partial;
  assert.deepEqual(last, made.output, name);

  const seen = [];
  const tools = {
    weather: tool({
      description: "Tells the weather",
      inputSchema: z.object({ city: z.enum(["Paris", "Rome"]) }),
      execute: async (where) => (seen.push(where), { sky: "clear" }),
    }),
  };
  // The first step must call; the second has the call's result before it.
  const steps = {
    ...common,
    model,
    prompt,
    tools,
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  };
  const called = await generateText(steps);
  assert.equal(called.steps.length, 2, name);
  assert.equal(called.steps[0].finishReason, "tool-calls", name);
  const streamedSteps = streamText(steps);
  for await (const part of streamedSteps.fullStream) assert.notEqual(part.type, "error", `${name}: ${part.error}`);
  assert.equal((await streamedSteps.steps).length, 2, name);
  assert.ok(seen.length >= 2 && seen.every(({ city }) => ["Paris", "Rome"].includes(city)), name);
}

const { embeddings } = await embedMany({
  model: compatible.textEmbeddingModel?.("minilm") ?? compatible.embeddingModel("minilm"),
  values: ["a cat", "a dog"],
});
assert.equal(embeddings[1].length, 384);
console.log("ok");
