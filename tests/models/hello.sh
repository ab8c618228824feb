#!/usr/bin/env bash
# Waits until the server of `make run` is up, then prints a command to try.
for _ in $(seq 300); do
    curl --silent --fail http://127.0.0.1:8080/health >/dev/null && break
    sleep 0.2
done
cat <<'TRY'

Forebay is ready. Try, in another terminal:

  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' -d '{"model": "smollm2", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 60}'

Documentation: http://127.0.0.1:8080/docs/   Ctrl-C ends it.
TRY
