"""What the tests of the scheduler share."""

import math
import re
import urllib.request

import openai


def ask(server, messages, tokens=24, **fields):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=300)
    return client.chat.completions.create(
        model="m", messages=messages, max_tokens=tokens, temperature=0, logprobs=True, top_logprobs=2,
        **fields,
    )


def cached(answer):
    return answer.usage.prompt_tokens_details.cached_tokens


def metric(server, name):
    text = urllib.request.urlopen(server.url + "/metrics").read().decode()
    return sum(float(v) for v in re.findall(rf"^{name}\{{?.*?\}}? ([\d.e+]+)$", text, re.M))


def tokens_of(answer):
    return [(t.token, [top.logprob for top in t.top_logprobs]) for t in answer.choices[0].logprobs.content]


def same_text(one, other, tolerance):
    """Whether two answers are the same. Where they part it must be at a near tie."""
    for (a, tops), (b, _) in zip(tokens_of(one), tokens_of(other)):
        if a != b:
            gap = tops[0] - tops[1] if len(tops) > 1 else math.inf
            assert gap < tolerance, f"{a!r} and {b!r} are {gap} apart"
            return False
    return True
