"""curl, the Node SDK, LangChain, a browser, and the tools that read the OpenAPI document."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import required
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

REPO = Path(__file__).resolve().parents[2]
NODE = REPO / "tests/node"


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_curl(server):
    body = json.dumps({"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3})
    for prefix in ("/v1", ""):
        out = run("curl", "-sS", f"{server.url}{prefix}/chat/completions", "-H", "content-type: application/json", "-d", body)
        assert json.loads(out)["choices"][0]["message"]["role"] == "assistant"
    streamed = json.dumps(json.loads(body) | {"stream": True})
    out = run("curl", "-sSN", f"{server.url}/v1/chat/completions", "-H", "content-type: application/json", "-d", streamed)
    assert out.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("script", ["client", "helpers", "vercel"])
def test_node(script, server):
    assert run("node", f"{script}.mjs", server.url + "/v1", cwd=NODE).strip() == "ok"


def test_instructor(server):
    client = REPO / "tests/instructor/client.py"
    assert run(required("TEST_INSTRUCTOR"), str(client), server.url + "/v1").strip() == "ok"


def test_langchain(server):
    chat = ChatOpenAI(base_url=server.url + "/v1", api_key="x", model="smollm2", max_tokens=20, temperature=0, max_retries=0)
    whole = chat.invoke("Name three colours.")
    assert whole.content and whole.usage_metadata["total_tokens"] > 20
    assert "".join(chunk.content for chunk in chat.stream("Name three colours.")) == whole.content
    # It sends token arrays, and longer texts in several requests.
    embeddings = OpenAIEmbeddings(
        base_url=server.url + "/v1", api_key="x", model="minilm", check_embedding_ctx_length=False, max_retries=0
    )
    vectors = embeddings.embed_documents(["a cat", "a kitten", "the stock market"])
    near, far = (sum(a * b for a, b in zip(vectors[0], vectors[i])) for i in (1, 2))
    assert len(vectors[0]) == 384 and near > far


def test_redocly_accepts_the_document(server, tmp_path):
    (tmp_path / "openapi.json").write_text(run("curl", "-sS", server.url + "/openapi.json"))
    config = REPO / "tests/node/redocly.yaml"
    run("npx", "--no-install", "redocly", "lint", "--config", str(config), str(tmp_path / "openapi.json"),
        cwd=NODE, env=os.environ | {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"})


def test_schemathesis_finds_no_contradiction(server):
    run(
        "schemathesis", "run", server.url + "/openapi.json", "--max-examples", "40", "--seed", "1",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance,unsupported_method",
        "--request-timeout", "60", cwd="/tmp",
        env=os.environ | {"SCHEMATHESIS_HOOKS": "forebay_hooks", "PYTHONPATH": str(REPO / "tests/clients")},
    )


def test_the_documentation_page_shows_the_endpoints(server):
    page = run(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000",
        "--dump-dom", server.url + "/docs/",
    )
    for text in ("/v1/chat/completions", "/v1/embeddings", "Answer a conversation"):
        assert text in page, page[:2000]
