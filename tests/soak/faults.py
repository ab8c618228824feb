"""What goes wrong on purpose: engines are killed, abort, and are stopped, at moments known before."""

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass

from asks import CHAT, EMBED
from served import is_engine, state

SIGNALS = {"kill": signal.SIGKILL, "segv": signal.SIGSEGV, "abort": signal.SIGABRT, "stop": signal.SIGSTOP}
KINDS = ["kill", "segv", "abort", "stop"]
# How long an engine may be silent before it is killed, and what is waited beyond that.
SILENCE_S = 15
PATIENCE_S = 30


@dataclass
class Fault:
    """A fault: due so long after the start. The rest is when it was done, and when the engine was
    dead and ready again."""

    due: float
    kind: str
    model: str = CHAT
    seconds: float = 0.0
    at: float | None = None
    dead: float | None = None
    ready: float | None = None
    wrong: str = ""

    @property
    def deadly(self):
        return self.kind != "pause"


def plan(rng, seconds, kills):
    """`kills` deaths of the chat engine, spread evenly but for chance; between them now and then the
    embedding engine dies, or the chat engine is stopped for a while only."""
    slot = seconds / max(kills, 1)
    kinds = [KINDS[i % len(KINDS)] for i in range(kills)]
    # A stopped engine takes a while to be missed.
    if slot < SILENCE_S * 1.5:
        kinds = [KINDS[i % 3] for i in range(kills)]
    rng.shuffle(kinds)
    faults = [Fault(slot * (i + rng.uniform(0.1, 0.35)), kind) for i, kind in enumerate(kinds)]
    for i in range(kills):
        late = slot * (i + rng.uniform(0.75, 0.85))
        if i % 4 == 1:
            faults.append(Fault(late, rng.choice(KINDS[:3]), EMBED))
        elif i % 4 == 2:
            faults.append(Fault(late, "pause", seconds=min(rng.uniform(2, 6), slot / 8)))
    return sorted(faults, key=lambda fault: fault.due)


class Faults:
    """Does what is planned, one after the other, in a thread."""

    def __init__(self, server, faults, begin):
        self.server, self.faults, self.begin = server, faults, begin
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        for fault in self.faults:
            if self.stopping.wait(max(0, self.begin + fault.due - time.monotonic())):
                return
            try:
                self.do(fault)
            except OSError as error:
                fault.wrong = str(error)

    def do(self, fault):
        if not self.server.wait_until("ok", PATIENCE_S):
            fault.wrong = "the server was not well before"
        pid = self.server.child(fault.model)
        if pid is None:
            fault.wrong = "there was no engine"
            return
        fault.at = time.monotonic()
        if fault.kind == "pause":
            self.pause(fault, pid)
            return
        until = fault.at + (SILENCE_S + 10 if fault.kind == "stop" else 5)
        while is_engine(pid) and time.monotonic() < until:
            # The first SIGSEGV from outside only takes the handler away.
            if fault.kind != "stop" or state(pid) != "T":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, SIGNALS[fault.kind])
            time.sleep(0.01)
        if is_engine(pid):
            fault.wrong = "it did not die"
            os.kill(pid, signal.SIGKILL)
        fault.dead = time.monotonic()
        while self.server.child(fault.model) in (None, pid) and time.monotonic() < fault.dead + PATIENCE_S:
            time.sleep(0.01)
        if self.server.wait_until("ok", PATIENCE_S, every=0.01):
            fault.ready = time.monotonic()
        else:
            fault.wrong = fault.wrong or f"not ready after {PATIENCE_S} s"

    def pause(self, fault, pid):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(fault.seconds)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
        if self.server.child(fault.model) != pid:
            fault.wrong = f"a pause of {fault.seconds:.1f} s was a death"

    def wait(self, seconds):
        """Whether all is done in time."""
        self.thread.join(seconds)
        self.stopping.set()
        return not self.thread.is_alive()

