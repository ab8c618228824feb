"""The quick form of `make soak`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_nothing_is_lost_or_doubled_while_engines_die(models, tmp_path):
    command = [sys.executable, HERE / "run.py", "--minutes", "0.6", "--kills", "3", "--streams", "6"]
    command += ["--threads", "1", "--write", tmp_path / "soak.md", "--plot", tmp_path / "soak.svg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("lost", "wrong", "doubled"):
        assert f"| **{kind}** | 0 |" in (tmp_path / "soak.md").read_text()
    assert (tmp_path / "soak.svg").read_text().startswith("<svg")
