"""Schemathesis makes up models that do not exist; half of its requests shall get further."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(str(body)) % 2 == 0:
        path = context.operation.path if context.operation else ""
        body["model"] = "minilm" if "embeddings" in path else "smollm2"
        if "max_tokens" in body or "completions" in path:
            body["max_tokens"] = 3
            body.pop("max_completion_tokens", None)
            body.pop("min_tokens", None)
    return body
