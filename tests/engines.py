"""Servers whose engines are processes, and what is done to those."""

import contextlib
import json
import signal
import threading
import time
import urllib.request
from pathlib import Path

import psutil

from conftest import Server

# The parent waits so long for a word of a child that hangs, in seconds.
SILENCE = 15
# For a model that takes one second to load, on a machine that others use too, in seconds.
RESTART = 20

# ChatML with tools and with thoughts that can be turned off.
TEMPLATE = """\
{% if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{{ {"name": c.function.name, "arguments": c.function.arguments} | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking %}<think>
{% else %}<think>

</think>

{% endif %}{% endif %}"""


def serve(folder, models, embeddings=False, server="", more="", **settings):
    """A server whose engines are processes, with the model `m`; its log is in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "template.jinja").write_text(TEMPLATE)
    # One thread does not wait for another that has no core, whatever else the machine does.
    settings = {"parallel": 8, "threads": 1, "chat_template": str(folder / "template.jinja"), **settings}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    text = f'[server]\nengine_processes = true\ndrain_delay_s = 0\n{server}\n'
    text += f'[[model]]\nname = "m"\npath = "{models["chat"]}"\n{lines}\n'
    if embeddings:
        text += f'[[model]]\nname = "minilm"\npath = "{models["embedding"]}"\n'
    (folder / "forebay.toml").write_text(text + more)
    with open(folder / "log", "w") as log:
        running = Server("--config", str(folder / "forebay.toml"), log=log)
    running.log = folder / "log"
    return running


def end(server):
    """Ends a server, whatever a test has left."""
    for child in children(server):
        child.send_signal(signal.SIGCONT)
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait(timeout=30)


def children(server):
    try:
        living = psutil.Process(server.process.pid).children()
        return [child for child in living if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def maps(pid, path):
    """Whether a process has a file in its memory."""
    try:
        return Path(path).name in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def engine(server, path, other_than=None, patience=RESTART):
    """The process that has loaded a model."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for child in children(server):
            if child.pid != other_than and maps(child.pid, path):
                return child
        time.sleep(0.01)
    raise AssertionError(f"no engine with {Path(path).name} within {patience} s")


def hit(child, number):
    child.send_signal(number)
    if number == signal.SIGSEGV:
        # Rust's handler takes the first one for a mistake.
        time.sleep(0.05)
        child.send_signal(number)


def health(server):
    with urllib.request.urlopen(server.url + "/health", timeout=5) as response:
        return response.status, json.load(response)["status"]


def wait_for(condition, patience, what):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.02)


class Meter:
    """Counts events of all streams."""

    def __init__(self):
        self.count, self.changed = 0, threading.Condition()

    def __call__(self):
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def wait(self, count, patience=120):
        with self.changed:
            assert self.changed.wait_for(lambda: self.count >= count, patience), "the streams do not begin"


@contextlib.contextmanager
def starting(folder, models):
    """Starts such servers; they end with the test."""
    servers = []

    def start(**settings):
        servers.append(serve(folder / str(len(servers)), models, **settings))
        return servers[-1]

    yield start
    for server in servers:
        end(server)


@contextlib.contextmanager
def pause(server, path):
    """The time between an engine's death and the moment when the next one has loaded the model, made long."""
    victim = engine(server, path)
    others = {child.pid for child in children(server)}
    victim.kill()
    fresh = lambda: [child for child in children(server) if child.pid not in others]
    wait_for(fresh, RESTART, "a new engine")
    (child,) = fresh()
    child.send_signal(signal.SIGSTOP)
    yield child
    with contextlib.suppress(psutil.NoSuchProcess):
        child.send_signal(signal.SIGCONT)
