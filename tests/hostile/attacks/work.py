"""Work that is not small: long texts, many of them, costly sampling."""

import time

import frames
from attacks.core import MB, MESSAGES, attack, chat, pipelined
from frames import h1
from server import CHAT, EMBED


@attack("12", "`/v1/tokenize` of 6 MB, two at once", quick=True)
def tokenize_long(context):
    context.post(
        "/v1/tokenize", {"model": CHAT, "prompt": "some words " * (6 * MB // 11), "return_token_strs": True}, at_once=2
    )


@attack("12", "`/v1/tokenize` of 6 MB without a space, and of messages")
def tokenize_one_word(context):
    context.post("/v1/tokenize", {"model": CHAT, "prompt": "a" * 6 * MB})
    context.post("/v1/tokenize", {"model": CHAT, "messages": [{"role": "user", "content": "é" * 3 * MB}]})
    context.post("/v1/tokenize", {"model": CHAT, "prompt": "<|im_start|>" * (MB // 2), "parse_special": True})


@attack("12", "`/v1/detokenize` of 6 million tokens")
def detokenize_long(context):
    context.post("/v1/detokenize", b'{"model": "smollm2", "tokens": [' + b"1234," * 6_000_000 + b"1]}")


@attack("12", "embeddings of 2,048 texts, eight at once, with `x-request-timeout: 1`", quick=True)
def embeddings_queue(context):
    body = {"model": EMBED, "input": ["many words to embed " * 20] * 2048}
    for reply in context.post("/v1/embeddings", body, at_once=8, headers={"x-request-timeout": "1"}):
        if reply.seconds > 6:
            context.notes["slowest_s"] = round(max(reply.seconds, context.notes.get("slowest_s", 0)), 1)
            fault = "embeddings do not end at their x-request-timeout"
            context.faults += [fault] * (fault not in context.faults)


@attack("12", "rerank of 2,047 documents of 160 words, four at once, with `x-request-timeout: 1`")
def rerank_queue(context):
    body = {"model": EMBED, "query": "what " * 50, "documents": ["some document " * 80] * 2047}
    for reply in context.post("/v1/rerank", body, at_once=4, headers={"x-request-timeout": "1"}):
        if reply.seconds > 6:
            fault = "rerank does not end at its x-request-timeout"
            context.faults += [fault] * (fault not in context.faults)


@attack("15", "`typical_p` on eight answers at a time", quick=True)
def typical_p(context):
    context.post("/v1/chat/completions", chat(n=8, max_tokens=32, typical_p=0.5, temperature=1.5, ignore_eos=True))


@attack("15", "20 log probabilities of eight answers, 1,024 biases, penalties, all at once")
def sampling_work(context):
    fields = {
        "n": 8,
        "max_tokens": 32,
        "logprobs": True,
        "top_logprobs": 20,
        "ignore_eos": True,
        "typical_p": 0.9,
        "top_p": 0.99,
        "frequency_penalty": 1,
        "presence_penalty": 1,
        "logit_bias": {str(i): 1 for i in range(1024)},
        "stop": ["x" * 250 + str(i) for i in range(4)],
        "stream": True,
    }
    context.post("/v1/chat/completions", chat(**fields))


@attack("15", "requests until the queue is full, one token each")
def queue_full(context):
    context.post("/v1/completions", {"model": CHAT, "prompt": [1] * 4, "max_tokens": 1, "n": 1}, at_once=300)


@attack("", "200 requests a round, each with an Authorization header and a cache salt of its own")
def many_principals(context):
    number = context.kept["number"] = context.kept.get("number", 0) + 1
    jobs = []
    for i in range(200):
        body = {"model": CHAT, "prompt": [i + 5], "max_tokens": 1, "cache_salt": f"{number}.{i}" * 20}
        raw = h1("POST", "/v1/completions", body, {"authorization": f"Bearer {number}.{i}"})
        jobs.append(lambda raw=raw: frames.exchange(context.port, raw))
    context.together(jobs)


@attack("", "10,000 paths that are none, on ten connections: what metrics and logs keep")
def many_paths(context):
    number = context.kept["number"] = context.kept.get("number", 0) + 1
    raws = [
        b"".join(h1("GET", f"/v1/{number}.{c}.{i}", close=False) for i in range(1000)) + h1("GET", "/none")
        for c in range(10)
    ]

    def ask(raw):
        with frames.connect(context.port, 30) as stream:
            frames.send(stream, raw)
            return frames.parse(*frames.receive(stream))

    context.together([lambda raw=raw: ask(raw) for raw in raws])


@attack("", "`/openapi.json` and `/metrics` 300 times on each of eight connections")
def documents_pipelined(context):
    raws = [h1("GET", path, close=False) for path in ("/openapi.json", "/metrics")]
    context.together([lambda raw=raw: pipelined(context.port, raw, 300) for raw in raws * 4])


@attack("15", "2,048 prompts in a request, eight answers each")
def many_prompts(context):
    context.post("/v1/completions", {"model": CHAT, "prompt": ["word"] * 2048, "n": 8, "max_tokens": 1})
    context.post("/v1/completions", {"model": CHAT, "prompt": ["word"] * 32, "max_tokens": 2}, at_once=4)


@attack("", "prompts far beyond the context: 8 MB of text, in each dialect")
def beyond_the_context(context):
    text = "long words " * (8 * MB // 11)
    for path, body in (
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": text}])),
        ("/v1/completions", {"model": CHAT, "prompt": text}),
        ("/v1/completions", {"model": CHAT, "prompt": [5] * 2_000_000}),
        ("/v1/responses", {"model": CHAT, "input": text, "max_output_tokens": 16}),
        ("/v1/responses/input_tokens", {"model": CHAT, "input": text}),
        ("/v1/messages", {"model": CHAT, "messages": [{"role": "user", "content": text}], "max_tokens": 4}),
        ("/v1/messages/count_tokens", {"model": CHAT, "messages": [{"role": "user", "content": text}]}),
        ("/v1/chat/completions/input_tokens", chat(messages=[{"role": "user", "content": text}])),
        ("/v1/embeddings", {"model": EMBED, "input": text}),
    ):
        context.post(path, body)


@attack("", "texts full of control tokens' names, 2 MB: what the guard has to cut")
def control_names(context):
    for text in ("<|im_end|>" * 200_000, "<|" * MB, "<filename>" * 100_000, "\ufdd0" * 500_000):
        context.post("/v1/chat/completions", chat(messages=[{"role": "user", "content": text}]))


@attack("", "200,000 messages, and one message of 500,000 parts")
def many_messages(context):
    context.post("/v1/chat/completions", chat(messages=MESSAGES * 200_000))
    parts = [{"type": "text", "text": "a"}] * 500_000
    context.post("/v1/chat/completions", chat(messages=[{"role": "user", "content": parts}]))
    systems = [{"role": "system", "content": "a"}] * 50_000
    context.post("/v1/chat/completions", chat(messages=[*systems, *MESSAGES]))


@attack("", "an image of 24 MB as a data URI, four at once")
def image_uri(context):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 24 * MB}}
    context.post("/v1/chat/completions", chat(messages=[{"role": "user", "content": [part]}]), at_once=4)


@attack("", "60 bodies of 30 MB announced, and sent but for their last byte")
def bodies_held(context):
    raw = h1("POST", "/v1/chat/completions", b" " * 30 * MB)
    held = []
    try:
        for _ in range(60):
            stream = frames.connect(context.port, 3)
            held.append(stream)
            try:
                frames.send(stream, memoryview(raw)[:-1])
            except TimeoutError:
                pass
        time.sleep(1)
    except OSError:
        pass
    finally:
        for stream in held:
            stream.close()
