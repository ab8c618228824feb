"""The calls that templates spell are read as what they are, whole and split at every character."""

import json
import os
import subprocess
from pathlib import Path

CALLS = Path(os.environ["TEST_RENDER"]).with_name("calls")
# Tags named after keys; two kinds of message in one template; the name twice.
NOT_LEARNED = {"MiniMax-M3", "meetkai-functionary-medium-v3.2", "muse-glimmer"}


def test_spelled_calls_are_read():
    done = subprocess.run([CALLS, os.environ["TEST_TEMPLATES"]], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    spelled = [each for each in found if each["spells"]]
    assert len(found) == 71 and len(spelled) == 60
    wrong = {each["template"]: each for each in spelled if not each["read"]}
    assert set(wrong) == NOT_LEARNED, {name: wrong[name] for name in set(wrong) - NOT_LEARNED}
