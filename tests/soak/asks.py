"""The requests whose answers are known: a fixed list, asked once without faults and then again and again."""

from dataclasses import dataclass

CHAT, EMBED = "smollm2", "minilm"

ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 16},
        "colour": {"enum": ["red", "green", "blue"]},
        "price": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "colour", "price"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": {"enum": ["sea", "hill", "wood", "town"]}, "minItems": 3, "maxItems": 6}
PLACES = {"type": "object", "properties": {"places": LIST}, "required": ["places"], "additionalProperties": False}
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
KIND = "You are a kind teacher who likes short words. " * 6


@dataclass(frozen=True)
class Ask:
    """A greedy request. `kind`: text, schema, tool (a call that has to be made) or prompt (raw)."""

    name: str
    kind: str
    turns: tuple = ()
    system: str = ""
    tokens: int = 64
    schema: dict | None = None
    prompt: object = ""

    def __hash__(self):
        return hash(self.name)

    def messages(self):
        """User and assistant in turn; the last one is the user's."""
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(self.turns)]

    def with_system(self):
        return [{"role": "system", "content": self.system}] * bool(self.system) + self.messages()


def text(name, *turns, system="", tokens=64):
    return Ask(name, "text", turns, system, tokens)


TEXTS = [
    text("sea", "Why is the sea salty?"),
    text("bread", "How is bread made?", tokens=96),
    text("train", "Write a story about a train.", tokens=160),
    text("poem", "Write a poem about winter.", tokens=80),
    text("hello", "Say hello.", tokens=24),
    text("count", "Count from one to twenty in words.", tokens=100),
    text("python", "Write a Python function that adds two numbers.", tokens=120),
    text("unicode", "Repeat this: 🌊 café, naïve, 東京, Ελλάδα.", tokens=48),
    text("moon", "How far away is the moon?", system="You are a pirate.", tokens=72),
    text("judge", "Is it right to tell a lie?", system=KIND, tokens=90),
    text("teacher", "What is a fraction?", system=KIND, tokens=90),
    text("planets", "Name the planets.", system=KIND, tokens=48),
    text("name", "My name is Ada.", "Hello Ada! How can I help?", "What is my name?", tokens=32),
    text("colour", "I like blue.", "Blue is a calm colour.", "Why do people like it?", tokens=80),
    text("cook", "I have eggs.", "Then make an omelette.", "How long does it take?", system=KIND, tokens=80),
    text("long", "Sum this up: " + "The old clock in the hall strikes twelve and nobody is awake. " * 30, tokens=60),
    # More than one slot's share of the KV cache.
    text("longer", "What is this about? " + "A lighthouse stands on a rock, ships go by at night. " * 90, tokens=40),
    text("one", "Answer with one word: what is the capital of France?", tokens=1),
]
SHAPED = [
    Ask("item", "schema", ("Invent a product.",), tokens=80, schema=ITEM),
    Ask("fruit", "schema", ("Describe a fruit as JSON.",), KIND, tokens=80, schema=ITEM),
    Ask("places", "schema", ("Where shall we go?",), tokens=60, schema=PLACES),
    Ask("paris", "tool", ("What is the weather in Paris?",), tokens=80, schema=WEATHER),
    Ask("oslo", "tool", ("Will it rain in Oslo this week?",), tokens=80, schema=WEATHER),
    Ask("trip", "tool", ("I go to Rome for five days.",), KIND, tokens=80, schema=WEATHER),
]
PROMPTS = [
    Ask("once", "prompt", prompt="Once upon a time", tokens=100),
    Ask("recipe", "prompt", prompt="Recipe for a soup:\n\n1.", tokens=80),
    Ask("code", "prompt", prompt="def fibonacci(n):\n", tokens=60),
    Ask("letter", "prompt", prompt="Dear Sir or Madam,\n", tokens=120),
    Ask("ids", "prompt", prompt=[12390, 2024, 253, 655, 28, 281], tokens=50),
    Ask("news", "prompt", prompt="The news of today: " * 20, tokens=40),
]
GENERATED = TEXTS + SHAPED + PROMPTS

EMBEDDED = [
    "a cat",
    "Das ist ein Satz auf Deutsch, mit Umlauten: äöü.",
    "word " * 150,
    ["a kitten", "a dog", "the sea"],
    ["one " * n for n in range(1, 9)],
    [f"A sentence with the number {n} in it." for n in range(24)],
    ["short", "long " * 200],
    [[7592, 2088], [1037, 4937, 2006, 1037, 13523]],
]
RANKED = [
    {"query": "a pet", "documents": ["a cat", "a bridge", "a dog", "the tax office"]},
    {"query": "weather", "documents": ["rain", "sun and wind", "a loaf of bread"]},
]
FOLLOW_UPS = ["Why?", "Tell me more.", "Say it in other words."]
