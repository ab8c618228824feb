"""instructor, in its own environment (it holds older versions than the SDK's newest wants).

Usage: client.py BASE_URL; prints "ok" at the end. No retries: each answer must be valid at once.
"""

import sys
from typing import Literal

import instructor
import openai
from instructor import Mode
from pydantic import BaseModel, ConfigDict, Field


class Closed(BaseModel):
    """Without this a model may add members of its own, for as long as it likes."""

    model_config = ConfigDict(extra="forbid")


class Place(Closed):
    city: Literal["Paris", "Rome"]
    hotels: int = Field(ge=0, le=99)


class Verdict(Closed):
    """What the text says."""

    mood: Literal["glad", "sad"]
    score: int = Field(ge=0, le=9)
    places: list[Place] = Field(min_length=1, max_length=2)


base_url = sys.argv[1]
messages = [{"role": "user", "content": "Paris was lovely, and Rome too."}]
ask = {"model": "smollm2", "messages": messages, "max_retries": 0, "temperature": 0}
client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0)

for mode in (Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA):
    patched = instructor.from_openai(client, mode=mode)
    verdict, completion = patched.create_with_completion(response_model=Verdict, max_tokens=300, **ask)
    assert isinstance(verdict, Verdict) and completion.usage.completion_tokens > 5, mode
    partials = list(patched.create_partial(response_model=Verdict, max_tokens=300, **ask))
    assert len(partials) > 3, mode
    Verdict.model_validate(partials[-1].model_dump())

answered = instructor.from_openai(client, mode=Mode.RESPONSES_TOOLS)
verdict = answered.responses.create(
    model="smollm2", input=messages[0]["content"], response_model=Verdict, max_retries=0, max_output_tokens=300
)
assert isinstance(verdict, Verdict)
print("ok")
