"""What is kept: conversations, responses, background."""

import threading
import time

import frames
from attacks.core import attack, pipelined
from frames import h1, request
from server import CHAT


def fill_conversation(context):
    made = request(context.port, "POST", "/v1/conversations", {"items": []}).json()
    for _ in range(6):
        items = [{"type": "message", "role": "user", "content": "many words " * 91_000} for _ in range(20)]
        reply = request(context.port, "POST", f"/v1/conversations/{made['id']}/items", {"items": items})
        if reply.status != 200:
            context.notes["filled"] = f"{reply.status} {reply.body[:100]}"
            break
    context.kept["conversation"] = made["id"]


@attack("7", "a request that names a conversation of 120 MB, two at once", setup=fill_conversation, quick=True)
def big_conversation(context):
    body = {"model": CHAT, "input": "Hi", "conversation": context.kept["conversation"], "max_output_tokens": 16}
    begin = time.monotonic()
    long = []
    waiter = threading.Thread(target=lambda: long.append(context.server.chat("word " * 1500, 1)), daemon=True)
    waiter.start()
    context.post("/v1/responses", body, at_once=2)
    waiter.join(30)
    taken = long[0].seconds if long else time.monotonic() - begin
    context.notes["long_prompt_s"] = round(max(taken, context.notes.get("long_prompt_s", 0)), 1)


@attack("7", "the items of a conversation of 120 MB, listed, four at once", setup=fill_conversation)
def list_big_conversation(context):
    path = f"/v1/conversations/{context.kept['conversation']}/items?limit=100"
    raw = h1("GET", path)
    context.together([lambda: frames.exchange(context.port, raw)] * 4)


@attack("", "2,000 empty conversations a round: what the store holds beside what it counts")
def many_conversations(context):
    one = h1("POST", "/v1/conversations", {}, close=False)
    context.together([lambda: pipelined(context.port, one, 500)] * 4)


def keep_item(context):
    body = {"items": [{"type": "message", "role": "user", "content": "many words " * 190_000}]}
    made = request(context.port, "POST", "/v1/conversations", body).json()
    listed = request(context.port, "GET", f"/v1/conversations/{made['id']}/items").json()
    context.kept["item"] = listed["data"][0]["id"]


@attack("7", "60 kB of references to one stored item of 2 MB", setup=keep_item, quick=True)
def item_references(context):
    reference = {"type": "item_reference", "id": context.kept["item"]}
    context.post("/v1/responses", {"model": CHAT, "input": [reference] * 900, "max_output_tokens": 16})


def keep_response(context):
    body = {"model": CHAT, "input": "word " * 100, "max_output_tokens": 16, "store": True}
    context.kept["response"] = request(context.port, "POST", "/v1/responses", body).json()["id"]


@attack("7", "responses that each follow on the last, 8 at once", setup=keep_response)
def long_chain(context):
    body = {
        "model": CHAT,
        "input": "word " * 20,
        "max_output_tokens": 16,
        "store": True,
        "previous_response_id": context.kept["response"],
    }
    replies = context.post("/v1/responses", body, at_once=8)
    for reply in replies:
        if reply.status == 200:
            context.kept["response"] = reply.json()["id"]


@attack("", "50 background responses at once, of 2,000 tokens each, deleted while they run")
def background_flood(context):
    body = {"model": CHAT, "input": "Tell a long story.", "background": True, "store": True, "max_output_tokens": 2000}
    replies = context.post("/v1/responses", body, at_once=50)
    for reply in replies:
        if reply.status == 200:
            request(context.port, "DELETE", f"/v1/responses/{reply.json()['id']}", timeout=20)
