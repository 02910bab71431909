"""`synth view` of a run in this process, for clients that know the token."""

import contextlib
import http.client
import json
from urllib.parse import urlsplit

from aiohttp import web
from faults.serving import LoopThread, end
from running import completion

from synth.shards import OutputFolder
from synth.view.server import Viewer, application

TOKEN = "a-token-of-this-test"  # noqa: S105 - one for tests
HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\"> & \u202e"


def spoiled(body):
    """A server's reply that is none for the passages 3 and 7."""
    found = completion(body)
    prompt = body["messages"][-1]["content"]
    asked = "Query" in body["response_format"]["json_schema"]["schema"]["properties"]
    if asked and ("report number 3 " in prompt or "report number 7 " in prompt):
        found["choices"][0]["message"]["content"] = f"no JSON {HOSTILE}"
    return found


@contextlib.contextmanager
def served(out):
    """Its address, without the token."""
    loop = LoopThread()
    runner = web.AppRunner(application(Viewer(OutputFolder.open(out), print), TOKEN, local=True))
    try:
        loop.do(runner.setup())
        loop.do(web.TCPSite(runner, "127.0.0.1", 0).start())
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        loop.do(end(runner))
        loop.close()


def fetched(url, body=None, **headers):
    """(status, headers, text) of a GET, or of a POST with the token."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    with contextlib.closing(connection):
        if body is None:
            connection.request("GET", parts.path, headers=headers)
        else:
            connection.request("POST", parts.path, json.dumps(body), {"X-Synth-Token": TOKEN} | headers)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read().decode()


def asked(url, question, **body):
    """What a question of the page is answered."""
    status, _, text = fetched(f"{url}/{question}", body)
    return status, json.loads(text)


def rows(url, part="kept", *, page=1, size=50, search="", filters=(), sort=None):
    """Whole rows of a page of the table by the names of their columns, and how many there are."""
    about = asked(url, "about")[1]
    names = [each["name"] for each in next(p for p in about["parts"] if p["name"] == part)["columns"]]
    what = {"part": part, "page": page, "size": size, "search": search, "filters": filters, "sort": sort}
    status, found = asked(url, "rows", **what)
    assert status == 200, found
    return [{name: row[f"c{n}"] for n, name in enumerate(names)} for row in found["rows"]], found["total"]
