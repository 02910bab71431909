"""The extractive backend behind HTTP, so that its calls can be counted: templates that are JSON, and who reads them.

The backend answers from structured inputs, which a chat request does not carry. A job that uses `write_templates` puts
those inputs into its prompts as JSON, and `answer` builds them again, so the server needs nothing but the request.
"""

import json
import re

from synth.languages import language
from synth.llm.extractive import Extractive
from synth.stage import ChatRequest, ClientSettings, ConfigInputs, QueryInputs, ReplyKey
from synth.types import Candidates, Passage, QueryConfig, Requirement

_CONFIG = """\
{"stage": "config", "passage": {{ passage | tojson }}, "candidates": {{ candidates | tojson }},
 "types": {{ question_types | list | tojson }}, "levels": {{ difficulties | list | tojson }},
 "used": [{{ used | join(", ") }}]}
"""
_QUERY = """\
{"stage": "query", "passage": {{ passage | tojson }}, "character": {{ character | tojson }},
 "type": {{ question_type | tojson }}, "level": {{ difficulty | tojson }}, "length": {{ length | tojson }},
 "language": {{ language | tojson }}, "written": {{ written | list | tojson }}}
"""


def write_templates(folder):
    """A template folder for `task.prompts`."""
    folder.mkdir()
    (folder / "config.j2").write_text(_CONFIG, encoding="utf-8")
    (folder / "query.j2").write_text(_QUERY, encoding="utf-8")
    return folder


class Server:
    """`answer` for Loopback.chat; `code` is the language of all passages."""

    def __init__(self, code):
        self._code = code
        self._model = Extractive().open(ClientSettings())

    def answer(self, body):
        content = body["messages"][-1]["content"]
        schema, inputs = body["response_format"]["json_schema"]["schema"], None  # of another task: filled in
        if content.startswith('{"stage"'):
            values = json.loads(content)
            inputs = self._config(values) if values["stage"] == "config" else self._query(values)
        key = ReplyKey(0, 0, "", 0)
        request = ChatRequest(key, (("user", content),), schema, "", body["seed"], 512, inputs)
        reply = _finish(self._model.complete(request))
        message = {"role": "assistant", "content": reply.text}
        return {
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
            "usage": {"prompt_tokens": len(body["messages"][-1]["content"]), "completion_tokens": len(reply.text)},
        }

    def _candidates(self, values, people=()):
        passage = Passage(0, "", values["passage"], self._code, "")
        return Candidates(passage, tuple(people), tuple(1 - n / 10 for n in range(len(people))))

    def _config(self, values):
        used = tuple(
            QueryConfig(each.get("Character"), each["Question_Type"], each.get("Difficulty")) for each in values["used"]
        )
        offered = self._candidates(values, [sentence for _, sentence in values["candidates"]])
        return ConfigInputs(offered, tuple(values["types"]), tuple(values["levels"]), used)

    def _query(self, values):
        low, high = re.match(r"\D*(\d+)(?: to (\d+))?", values["length"]).groups()
        wanted = language(values["language"])
        config = QueryConfig(values["character"] or None, values["type"], values["level"] or None)
        requirement = Requirement(
            wanted.code, int(low), int(high or low), "characters" if "character" in values["length"] else "words"
        )
        return QueryInputs(self._candidates(values), config, requirement, tuple(values["written"]))


def _finish(coroutine):
    """The result of a coroutine that waits for nothing."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as done:
        return done.value
