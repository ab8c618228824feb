"""Starts the container and looks at it from outside: drive.py CONTAINER PORT."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import openai

name, port = sys.argv[1:]
url = f"http://127.0.0.1:{port}"


def docker(*arguments):
    # Logs come from where the program wrote them: its standard error.
    done = subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}"
    return done.stdout.strip()


def health():
    try:
        return json.load(urllib.request.urlopen(url + "/health", timeout=1))["status"]
    except urllib.error.HTTPError as error:
        return json.load(error)["status"]
    except OSError:
        return "down"


start = time.monotonic()
docker("start", name)
seen = []
while (now := health()) != "ok":
    assert time.monotonic() - start < 60, docker("logs", name)
    if now not in seen:
        seen.append(now)
    time.sleep(0.002)
print(f"ready after {time.monotonic() - start:.2f} s; health was {', '.join(seen)}, ok")

facts = json.loads(docker("inspect", name))[0]
assert facts["Config"]["User"] == "10001:10001" and facts["HostConfig"]["ReadonlyRootfs"]
labels = facts["Config"]["Labels"]
assert labels["org.opencontainers.image.revision"] != "unknown", labels
user = docker("exec", name, "id", "-u")
assert user == "10001", user
docker("exec", name, "/usr/bin/forebay", "healthcheck")
for _ in range(30):
    state = json.loads(docker("inspect", name))[0]["State"]["Health"]["Status"]
    if state == "healthy":
        break
    time.sleep(1)
assert state == "healthy", state
for tool in ("g++", "cargo", "cmake", "curl"):
    found = subprocess.run(["docker", "exec", name, "sh", "-c", f"command -v {tool}"], capture_output=True)
    assert found.returncode != 0, f"{tool} is in the image"

client = openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0)
ask = {"model": "smollm2", "messages": [{"role": "user", "content": "Name three colours."}]}
whole = client.chat.completions.create(**ask, max_tokens=16, temperature=0)
streamed = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(
    **ask, max_tokens=16, temperature=0, stream=True))
assert whole.choices[0].message.content == streamed != "", (whole, streamed)
print("the SDK's answers, whole and streamed, are the same")

# An answer that runs when the signal comes ends as it would have.
ended = {}


def long_answer():
    chunks = list(client.chat.completions.create(**ask, max_tokens=200, stream=True, extra_body={"ignore_eos": True}))
    ended["reason"] = chunks[-1].choices[0].finish_reason


thread = threading.Thread(target=long_answer)
thread.start()
time.sleep(0.5)
docker("kill", "--signal", "TERM", name)
thread.join()
code = docker("wait", name)
assert ended["reason"] == "length" and code == "0", (ended, code, docker("logs", name)[-2000:])
print("SIGTERM: the running answer was finished, exit 0")
logs = [json.loads(line) for line in docker("logs", name).splitlines()]
assert logs and all("level" in line for line in logs)
