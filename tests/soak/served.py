"""The server, its children, and what they take."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from asks import CHAT, EMBED
from wire import frames

REPO = Path(__file__).resolve().parents[2]
DRAIN_S = 30
SLOTS = 16


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server whose engines have processes of their own."""

    def __init__(self, slots=SLOTS, threads=0):
        self.folder = tempfile.TemporaryDirectory(prefix="soak-")
        folder = Path(self.folder.name)
        chat, embed = os.environ["TEST_CHAT_MODEL"], os.environ["TEST_EMBEDDING_MODEL"]
        self.files = {CHAT: os.path.realpath(chat), EMBED: os.path.realpath(embed)}
        self.port = free_port()
        (folder / "forebay.toml").write_text(f"""
[server]
port = {self.port}
drain_delay_s = 0
drain_timeout_s = {DRAIN_S}
engine_processes = true
[store]
path = "{folder}/kept.sqlite"
[[model]]
name = "{CHAT}"
path = "{chat}"
parallel = {slots}
ctx_size = {slots * 1024}
speculate = false
reproducible = true
queue = 1024
threads = {threads}
[[model]]
name = "{EMBED}"
path = "{embed}"
threads = {threads}
""")
        self.log = folder / "log"
        binary = os.environ.get("TEST_BINARY", str(REPO / "target/release/forebay"))
        with open(self.log, "w") as log:
            command = [binary, "serve", "--config", str(folder / "forebay.toml"), "--cache-dir", ""]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        if not self.wait_until("ok", 60):
            self.close()
            raise RuntimeError(f"the server is not ready: {self.log_text()[-1000:]}")

    def health(self):
        """`ok` or another status; nothing where there is no answer."""
        reply = frames.request(self.port, "GET", "/health", timeout=5)
        with contextlib.suppress(ValueError, KeyError):
            return reply.json()["status"]
        return ""

    def wait_until(self, status, seconds, every=0.05):
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if self.health() == status:
                return True
            time.sleep(every)
        return False

    def children(self):
        """Process ids of all that it has started."""
        return children(self.process.pid)

    def child(self, model):
        """The process that has the model's file mapped, if there is one."""
        for pid in self.children():
            with contextlib.suppress(OSError):
                if self.files[model] in Path(f"/proc/{pid}/maps").read_text():
                    return pid
        return None

    def log_text(self):
        return self.log.read_text(errors="replace")

    def deaths(self, model):
        """How many of a model's engines died, by the log."""
        line = re.compile(rf'the engine (died|says nothing).*model="{model}"')
        return sum(bool(line.search(entry)) for entry in self.log_text().splitlines())

    def complaints(self):
        """Lines of the log that should not be there."""
        odd = r"panicked at|given up|overflowed its stack|cannot be started|does not (end|close)|shutdown takes too long"
        return [line for line in self.log_text().splitlines() if re.search(odd, line)]

    def end(self, kind, patience):
        """Ends it with a signal: (exit status, seconds, children that are left)."""
        family, begin = self.children(), time.monotonic()
        self.process.send_signal(kind)
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            status = None
        seconds = time.monotonic() - begin
        # A child of a process that was killed notices that its socket is closed.
        until = time.monotonic() + 5
        while (left := [pid for pid in family if is_engine(pid)]) and time.monotonic() < until:
            time.sleep(0.05)
        return status, seconds, left, time.monotonic() - begin - seconds

    def close(self):
        family = self.children()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in family:
            if is_engine(pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self.folder.cleanup()


def children(pid):
    """Whichever of its threads started them."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += [int(c) for c in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def state(pid):
    """The kernel's letter for what a process does; nothing where it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def is_engine(pid):
    """Whether it runs and is an engine: numbers are used again."""
    if state(pid) in ("", "Z", "X"):
        return False
    with contextlib.suppress(OSError):
        return b"\0engine\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@dataclass(frozen=True)
class Sample:
    """What was taken at a moment, in MiB and numbers."""

    at: float
    parent: float
    chat: float
    embed: float
    files: int
    child_files: int
    threads: int
    child_threads: int
    finished: int
    running: int


class Watch:
    """Looks at the processes once a second."""

    def __init__(self, server, record):
        self.server, self.record, self.samples, self.over = server, record, [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        due = time.monotonic()
        while not self.over.is_set():
            self.samples.append(self.sample())
            due += 1
            self.over.wait(max(0, due - time.monotonic()))

    def sample(self):
        pid, family = self.server.process.pid, self.server.children()
        chat, embed = self.server.child(CHAT), self.server.child(EMBED)
        of = lambda folder, pids: sum(entries(f"/proc/{p}/{folder}") for p in pids)
        return Sample(
            time.monotonic(), memory(pid), memory(chat), memory(embed), of("fd", [pid]), of("fd", family),
            of("task", [pid]), of("task", family), self.record.finished, self.record.running,
        )

    def stop(self):
        self.over.set()
        self.thread.join(5)


def memory(pid):
    with contextlib.suppress(OSError, ValueError, TypeError):
        return frames.process_memory(pid)[0] / (1 << 20)
    return 0.0


def entries(folder):
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0
