"""The quick form of `make hostile`, and that its requests are the same each time."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import generate  # noqa: E402
from sending import Case  # noqa: E402


def test_no_hostile_request_takes_the_service_away(models, tmp_path):
    # The machine that this runs on may be busy: a blocked server shows in seconds, not in 50 ms.
    environment = {"HOSTILE_HEALTH_MS": "1000", "HOSTILE_FOUND": str(tmp_path), **os.environ}
    command = [sys.executable, HERE / "run.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    print(done.stdout)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|") and not line.endswith("| – |")]
    # What is wrong last: a cut report ends with it.
    assert done.returncode == 0, done.stdout + done.stderr + "\n".join(["", "NOT AS WANTED:", *rows[2:]])


def test_a_number_is_always_the_same_request():
    code = "import generate as g, whole as w; print([hash(g.generate(i, w.Names()).data()) for i in range(1, 300, 7)])"
    run = lambda: (
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        ).stdout
    )
    assert run() == run()


def test_who_sends_late_is_owed_nothing(monkeypatch):
    """By a server that hangs up at once."""
    monkeypatch.setattr(generate, "LATE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        port = server.getsockname()[1]
        request = ("send", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        prompt = generate.run(Case(1, steps=[request]), port)
        assert prompt.error and not prompt.late
        late = generate.run(Case(1, steps=[("wait", 0.5), request]), port)
        assert not late.error and late.late
