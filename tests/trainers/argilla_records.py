"""Argilla's own `Dataset.from_disk`, against a server that accepts everything; prints what it was sent, as JSON."""

import json
import sys
import threading
import uuid
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import argilla as rg

warnings.simplefilter("ignore")
NOW = "2026-01-01T00:00:00"
WORKSPACE = {"id": str(uuid.UUID(int=1)), "name": "mine", "inserted_at": NOW, "updated_at": NOW}
sent: dict[str, list] = {"datasets": [], "fields": [], "questions": [], "metadata-properties": [], "records": []}


class Agreeing(BaseHTTPRequestHandler):
    """A new thing gets an id, a list has what was posted."""

    def answer(self) -> None:
        path = urlsplit(self.path).path.rstrip("/")
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        text = json.dumps(self.found(path.rsplit("/", 1)[-1], path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815 - the names that http.server asks for

    def found(self, what: str, path: str, body: dict) -> dict:
        if path.endswith("/me"):
            return {"id": str(uuid.uuid4()), "username": "me", "role": "owner", "first_name": "me"}
        if "workspaces" in path:
            return WORKSPACE | {"items": [WORKSPACE]}
        if what == "bulk":
            sent["records"] += body["items"]
            items = [{**each, "id": str(uuid.uuid4()), "responses": [], "suggestions": []} for each in body["items"]]
            return {"items": items, "updated_item_ids": []}
        if self.command == "POST":
            sent[what].append(body | {"id": str(uuid.uuid4()), "inserted_at": NOW, "updated_at": NOW})
            return sent[what][-1]
        if self.command == "GET" and what in (*sent, "vectors-settings"):
            return {"items": sent.get(what, [])}
        return sent["datasets"][0] | {"status": "ready"}

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Agreeing)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = rg.Argilla(api_url=f"http://127.0.0.1:{server.server_port}", api_key="any")
dataset = rg.Dataset.from_disk(sys.argv[1], workspace="mine", client=client)
sys.stdout.write(json.dumps(sent))
