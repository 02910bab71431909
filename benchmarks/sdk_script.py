"""A simple script as a baseline: asyncio, the openai package, a semaphore, two calls per passage, JSON lines.

python benchmarks/sdk_script.py URL PASSAGES PERSONAS SYSTEM OUT IN_FLIGHT
"""

# ruff: noqa: ASYNC230, ASYNC240, S311 - a simple script on purpose
import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

MODEL = "Qwen/Qwen3-32B"
TYPES = ["keywords", "acquire_knowledge", "summary", "yes_or_no", "background"]
LEVELS = ["high_school", "university", "phd"]


def shape(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


async def ask(client: Any, system: str, text: str, wanted: Any, seed: int) -> dict[str, str]:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": system}, {"role": "user", "content": text}],
        response_format=wanted,
        seed=seed,
        temperature=0.7,
        top_p=0.8,
        max_completion_tokens=512,
        extra_body={"top_k": 20, "min_p": 0, "chat_template_kwargs": {"enable_thinking": False}},
    )
    return json.loads(answer.choices[0].message.content)


async def main(url: str, passages: str, personas: str, prompt: str, out: str, in_flight: str) -> None:
    system = Path(prompt).read_text(encoding="utf-8")
    people = [json.loads(line)["persona"] for line in Path(personas).read_text(encoding="utf-8").splitlines()]
    room = asyncio.Semaphore(int(in_flight))
    with Path(out).open("w", encoding="utf-8") as lines:
        async with AsyncOpenAI(base_url=url, api_key="EMPTY", max_retries=2, timeout=600) as client:

            async def one(number: int, row: dict[str, str]) -> None:
                async with room:
                    five = random.Random(number).sample(people, 5)
                    enums = {"Character": five, "Question_Type": TYPES, "Difficulty": LEVELS}
                    wanted = {key: {"type": "string", "enum": choices} for key, choices in enums.items()}
                    shown = f"<passage>\n{row['text']}\n</passage>\n\nStage one.\n" + "\n".join(f"- {p}" for p in five)
                    config = await ask(client, system, shown, shape("query_config", wanted), number)
                    shown = f"<passage>\n{row['text']}\n</passage>\n\nStage two.\n{json.dumps(config)}\n8 to 24 words"
                    wanted = {"Query": {"type": "string", "maxLength": 2000}}
                    query = await ask(client, system, shown, shape("query", wanted), number)
                    lines.write(json.dumps({**row, **config, "query": query["Query"]}) + "\n")

            rows = [json.loads(line) for line in Path(passages).read_text(encoding="utf-8").splitlines()]
            await asyncio.gather(*(one(number, row) for number, row in enumerate(rows)))


asyncio.run(main(*sys.argv[1:]))
