"""The server that is attacked: started, warmed, watched, ended."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from frames import family, family_memory, request, reset_peak

REPO = Path(__file__).resolve().parents[2]
MOST_MEMORY = 3 << 30
DRAIN_S = 3
CHAT, EMBED, BARE = "smollm2", "minilm", "bare"

# ChatML whose calls are JSON without a marker, as Llama 3's are.
BARE_TEMPLATE = """\
{%- if tools %}<|im_start|>system
Answer with a call as JSON: {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.tool_calls %}{% for call in message.tool_calls -%}
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
{%- endfor %}{% else %}{{ message.content }}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def binary():
    return os.environ.get("TEST_BINARY", str(REPO / "target/release/forebay"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process with both models. Killed when it takes more than 3 GiB."""

    def __init__(self, server="", model="", bare=False):
        self.folder = tempfile.TemporaryDirectory(prefix="hostile-")
        folder = Path(self.folder.name)
        chat, embed = os.environ["TEST_CHAT_MODEL"], os.environ["TEST_EMBEDDING_MODEL"]
        # No drafts: how many tokens a second they make depends on the text. No memory that is taken
        # later, by requests that are as good as any.
        options = "speculate = false\nlong_slot = false\nctx_size = 8192\nkv_host_mib = 64\n"
        options += f"threads = {os.environ.get('HOSTILE_THREADS', 0)}\n{model}"
        text = f"""
[server]
drain_delay_s = 0
drain_timeout_s = {DRAIN_S}
{server}
[[model]]
name = "{CHAT}"
path = "{chat}"
{options}
[[model]]
name = "{EMBED}"
path = "{embed}"
threads = {os.environ.get("HOSTILE_THREADS", 0)}
"""
        if bare:
            (folder / "bare.jinja").write_text(BARE_TEMPLATE)
            text += f'[[model]]\nname = "{BARE}"\npath = "{chat}"\nchat_template = "{folder}/bare.jinja"\n{options}\n'
        (folder / "forebay.toml").write_text(text)
        self.port, self.killed, self.peak, self.ended = free_port(), False, 0, None
        self.log = folder / "log"
        command = [binary(), "serve", "--port", str(self.port), "--cache-dir", ""]
        command += ["--config", str(folder / "forebay.toml")]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait_until_ready()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def wait_until_ready(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {self.log_end()}")
            if request(self.port, "GET", "/health", timeout=2).status == 200:
                return
            time.sleep(0.1)
        raise RuntimeError("the server is not ready after a minute")

    def watch(self):
        """The bound on what a runaway may take; also the peak, where the kernel's mark is lost with the process."""
        while self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                now, _ = family_memory(self.process.pid)
                self.peak = max(self.peak, now)
                if now > MOST_MEMORY:
                    self.killed = True
                    self.process.kill()
            time.sleep(0.02)
        self.ended = time.monotonic()

    def warm(self, models=(CHAT,)):
        """Touches what a first request touches: slots, weights, buffers, a grammar."""
        for model in models:
            self.chat("Hello. " * 100, 8, model=model, n=4, response_format={"type": "json_object"})
        request(self.port, "POST", "/v1/embeddings", {"model": EMBED, "input": ["warm " * 200] * 2})

    def chat(self, text, tokens=2, timeout=60.0, model=CHAT, **fields):
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
        fields = {name: value for name, value in fields.items() if value is not None}
        return request(self.port, "POST", "/v1/chat/completions", {**body, **fields}, timeout=timeout)

    @property
    def alive(self):
        return self.process.poll() is None

    def baseline(self):
        """Memory now, with the peak's mark reset."""
        for member in family(self.process.pid):
            reset_peak(member)
        self.peak, _ = family_memory(self.process.pid)
        return self.peak

    def peak_memory(self):
        """The most since `baseline`."""
        try:
            return max(self.peak, family_memory(self.process.pid)[1])
        except (OSError, ValueError):
            return self.peak

    def tokens(self):
        """Tokens computed so far: (chat prompts, generated, embeddings)."""
        text = request(self.port, "GET", "/metrics", timeout=10).body.decode()
        total = lambda name, model: sum(
            float(value)
            for labels, value in re.findall(rf"^{name}{{(.*?)}} ([\d.e+]+)$", text, re.M)
            if f'model="{model}"' in labels
        )
        chats = [CHAT, BARE]
        prompt, generated = "forebay_prompt_tokens_total", "forebay_generation_tokens_total"
        return (sum(total(prompt, m) for m in chats), sum(total(generated, m) for m in chats), total(prompt, EMBED))

    def terminate(self, patience):
        """SIGTERM; how long it took to end, or None where it did not and was killed."""
        begin = time.monotonic()
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience)
            return time.monotonic() - begin
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def log_end(self, lines=5):
        text = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(text[-lines:])

    def panics(self):
        text = self.log.read_text(errors="replace")
        return [line for line in text.splitlines() if "panicked at" in line or "overflowed its stack" in line]

    def close(self):
        if self.alive:
            self.process.kill()
        self.process.wait()
        self.folder.cleanup()
