"""The two servers of a comparison as processes, and the models that they serve."""

import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

SLOTS, SLOT_TOKENS, FEW_SLOTS = 16, 2048, 4
# Models with random weights in these shapes (tests/models/random_gguf.py), and their slots.
SHAPES = {"qwen-0.5b": 8, "llama-1b": 4}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process, with its start-up time and its peak memory."""

    def __init__(self, command, environment=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        )
        while not self.healthy():
            if self.process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {self.process.returncode}")
            time.sleep(0.005)
        self.startup = time.perf_counter() - begin

    def healthy(self):
        try:
            urllib.request.urlopen(self.url + "/health", timeout=1).close()
            return True
        except OSError:
            return False

    def peak_mb(self):
        """Peak resident memory since the start, its engines' included, in MB (Linux: VmHWM)."""
        return sum(peak_mb(process.pid) for process in self.processes())

    def cpu_s(self):
        times = [process.cpu_times() for process in self.processes()]
        return sum(time.user + time.system for time in times)

    def processes(self):
        own = psutil.Process(self.process.pid)
        return [own, *own.children()]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


def peak_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


@dataclass
class Setup:
    """A model and how both servers serve it; no slots: a model for embeddings."""

    name: str
    model: str
    slots: int | None

    def commands(self, args):
        """Both servers' command lines. The peer gets its best settings: continuous batching, prompt caches
        and batches of 2048 are its defaults; for embeddings a batch that holds the longest input."""
        # Nothing is kept: each server learns what steps cost anew.
        ours = [args.forebay, "serve", "-m", f"m={self.model}", "--cache-dir", ""]
        peer = [args.peer, "-m", self.model, "--alias", "m", "--no-webui", "-b", "2048", "-ub", "512"]
        if self.slots:
            size = ["--parallel", str(self.slots), "-c", str(self.slots * SLOT_TOKENS)]
            ours, peer = ours + size, [*peer, *size, "-fa", "on"]
        else:
            peer += ["--embeddings", "-np", str(SLOTS), "-c", str(SLOTS * 512)]
        threads = ["--threads", str(args.threads or psutil.cpu_count())]
        return ours + threads + args.ours.split(), peer + threads + args.theirs.split()


def chat(args):
    return Setup("chat", args.chat, SLOTS)


def shaped(args, shape):
    """A model of that shape, with the chat model's vocabulary; it is written beside that if it is not there."""
    path = Path(args.chat).parent / f"{shape}-shape.gguf"
    if not path.exists():
        script = Path(__file__).resolve().parent.parent / "models/random_gguf.py"
        part = path.with_suffix(".part")
        subprocess.run([sys.executable, script, part, "--shape", shape, "--vocabulary", args.chat], check=True)
        part.rename(path)
    return Setup(shape, str(path), SHAPES[shape])
