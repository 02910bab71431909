"""`synth export --push` against a Hub on the loopback interface: what is created, and what is uploaded."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from exporting import pairs

from synth.cli.export import export_run as export
from synth.errors import ServerRefused, ServerUnavailable
from synth.results.export import ExportArgs, push


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload meets; `seen` holds (path, body), `status` is what a commit gets."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b"".join(self._chunks())
        self.server.seen.append((self.path, body, self.headers.get("Authorization")))
        base = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            self._say(200, {"url": f"{base}/datasets/me/pairs", "name": "me/pairs"})
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self._say(200, {"files": files})
        elif self.path.endswith("/commit/main"):
            told = {"commitUrl": f"{base}/datasets/me/pairs/commit/0", "commitOid": "0" * 40}
            self._say(self.server.status, told if self.server.status == 200 else {"error": "said so"})
        else:
            self._say(200, {"errors": [], "warnings": []})  # the check of the card

    def do_GET(self):
        self.server.seen.append((self.path, b"", None))
        self._say(404, {"error": "not found"})

    def _chunks(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _say(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_push_uploads_every_file_to_a_private_data_set(hub, tmp_path):
    out = pairs(tmp_path, negatives=0)
    export(out, ExportArgs("hub", tmp_path / "x", push="me/pairs"), as_json=True)
    (created,) = [json.loads(body) for path, body, _ in hub.seen if path == "/api/repos/create"]
    wanted = {"name": "pairs", "organization": "me", "type": "dataset", "visibility": "private"}
    assert wanted.items() <= created.items()
    assert {token for path, _, token in hub.seen if path.startswith("/api/repos")} == {"Bearer hf_secret"}
    ((path, body),) = [(path, body) for path, body, _ in hub.seen if path.endswith("/commit/main")]
    assert path == "/api/datasets/me/pairs/commit/main"
    lines = [json.loads(line) for line in body.splitlines()]
    sent = {
        each["value"]["path"]: base64.b64decode(each["value"]["content"]) for each in lines if each["key"] == "file"
    }
    there = {str(each.relative_to(tmp_path / "x")): each for each in (tmp_path / "x").rglob("*") if each.is_file()}
    assert sent == {name: each.read_bytes() for name, each in there.items()}
    assert {"README.md", "TRAIN.md", "data/train-00000-of-00001.parquet"} <= {*sent}


@pytest.mark.parametrize("status", [400, 403])
def test_what_the_hub_refuses_is_said_and_the_files_stay(hub, tmp_path, status):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/README.md").write_text("# Pairs\n", encoding="utf-8")
    hub.status = status
    with pytest.raises(ServerRefused, match=f"the Hub answers {status}"):
        push(tmp_path / "x", "me/pairs")
    assert (tmp_path / "x/README.md").exists()


def test_a_hub_that_is_away_is_worth_another_try(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        push(tmp_path, "me/pairs")
    assert hub.seen == []
