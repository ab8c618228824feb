"""The OpenAI Python SDK's own tests, unmodified, against the real binary.

They were made for a mock that makes its answers up from OpenAI's document, so they ask for things
that no conversation holds, and use every field at once. What may fail is listed with the error it
must fail with; everything else must pass, and what is listed must fail.
"""

import os
import re
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

import openai
import pytest

from conftest import Server, required

KEY = "My API Key"  # The one in the SDK's conftest.py.
FILES = [
    "test_models.py",
    "test_completions.py",
    "test_embeddings.py",
    "chat/test_completions.py",
    "test_responses.py",
    "responses",
    "test_conversations.py",
    "conversations",
]
# Deleted things are gone for the tests after them.
LEFT_OUT = "not ((delete or cancel) and (Responses or Conversations or Items))"
NOT_KEPT = "40[45] - (Invalid URL|Not allowed to)"
REFUSED = [
    # What OpenAI does with accounts, and what is not there.
    (r"test_models.*delete", "405 - Not allowed to DELETE on /v1/models/"),
    (r"chat.test_completions.*_(list|retrieve|update|delete)", NOT_KEPT),
    (r"test_responses.*_compact", "405 - Not allowed to POST on /v1/responses/compact"),
    # Fields that cannot be honoured are named, and so are those that go with nothing else.
    (r"chat.test_completions.*create_with_all_params", "400 - 'audio' is not supported"),
    (r"[^t].test_completions.*create_with_all_params", "400 - 'suffix' is not supported"),
    (r"test_embeddings.*create_with_all_params", "400 - 'dimensions' is not supported by the model"),
    (r"create_with_all_params|count_with_all_params", "400 - 'conversation' and 'previous_response_id' cannot both"),
    # The document allows 1 to 100; they ask for none.
    (r"_items.*list_with_all_params", "400 - 'limit' must be between 1 and 100"),
    # A response is asked for, or counted, of no model.
    (r"(test_responses.*_create|_count)", "400 - Missing required parameter: 'model'"),
    # Not an error of the server's: the SDK asks for base64, and then its strict client, which
    # checks before it decodes, wants numbers.
    (r"test_embeddings.*(strict|aiohttp)", "APIResponseValidationError"),
]


@pytest.fixture(scope="module")
def accepting(models, tmp_path_factory):
    """A server that takes any model's name, and keeps what the tests ask for."""
    folder = tmp_path_factory.mktemp("sdk")
    config = folder / "forebay.toml"
    config.write_text(
        f"""
        [server]
        drain_delay_s = 0
        [store]
        path = "{folder}/store.sqlite"
        [[model]]
        name = "smollm2"
        path = "{models['chat']}"
        aliases = ["*"]
        parallel = 8
        # Many of the tests set no bound, and some answers go on to the end of the context.
        ctx_size = 512
        long_slot = false
        [[model]]
        name = "minilm"
        path = "{models['embedding']}"
        aliases = ["text-embedding-3-small"]
        """
    )
    server = Server("--config", str(config))
    names = keep_something(server)
    server.stop()
    rename(folder / "store.sqlite", names)
    server = Server("--config", str(config))
    yield server
    server.stop()


def keep_something(server):
    """Two responses and a conversation with an item: their ids, and those that the tests use."""
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)
    names = {}
    for name in ("resp_677efb5139a88190b512bc3fef8e535d", "response_id"):
        events = client.responses.create(model="m", input="Hello", max_output_tokens=8, background=True, stream=True)
        names[[event for event in events][-1].response.id] = name
    conversation = client.conversations.create(items=[{"role": "user", "content": "Hello"}])
    names[conversation.id] = "conv_123"
    names[client.conversations.items.list(conversation.id).data[0].id] = "msg_abc"
    return names


def rename(file, names):
    with sqlite3.connect(file) as store:
        # Python's SQLite may be older than the server's, which counts with it.
        store.create_function("octet_length", 1, lambda text: len((text or "").encode()))
        for old, new in names.items():
            for table, columns in {"holder": ["id", "body"], "item": ["id", "holder", "body"], "event": ["holder", "body"]}.items():
                for column in columns:
                    store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))
    store.close()


def test_they_pass_but_for_what_is_refused(accepting, tmp_path):
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-W", "default", f"--junit-xml={report}", "-k", LEFT_OUT]
        + [f"tests/api_resources/{file}" for file in FILES],
        cwd=required("TEST_SDK"),
        env=os.environ | {"TEST_API_BASE_URL": accepting.url + "/v1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode in (0, 1), done.stdout[-4000:] + done.stderr[-4000:]
    outcomes, surprises = Counter(), []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        failed = [each for each in case if each.tag in ("failure", "error")]
        text = "".join(f"{each.get('message')} {each.text}" for each in failed)
        listed = [entry for entry in REFUSED if re.search(entry[0], name) and re.search(entry[1], text)]
        if failed and not listed:
            surprises.append(f"{name}: {text[-300:]}")
        outcomes[listed[0] if listed else "failed" if failed else "passed"] += 1
    print("\n".join(f"{count:4} {what}" for what, count in outcomes.items()))
    assert not surprises, "\n".join(surprises)
    assert outcomes["passed"] > 300
    assert not [entry for entry in REFUSED if entry not in outcomes], "listed, and passes"
