"""Makes the committed run anew, for a contract that changes on purpose: `python tests/contract/make_contract.py`."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from loopback import Loopback  # noqa: E402 - helpers of the tests
from running import WORDS, completion, write_corpus  # noqa: E402 - as above

from synth.cli import main  # noqa: E402 - as above


def run(url, out):
    """Runs job.yaml of the working folder against a server of the tests; its address is not part of the identity."""
    servers = [word for stage in ("llm", "embed") for word in ("-s", f'{stage}.base_urls=["{url}"]')]
    return main(["run", "job.yaml", "-o", str(out), *servers, "--json"])


if __name__ == "__main__":
    write_corpus(HERE / "docs.jsonl", 6, chapter="chapter")
    people = "".join(f"a person who likes the {word}\n" for word in WORDS[:20])
    (HERE / "people.txt").write_text(people, encoding="utf-8")
    home = Path(tempfile.gettempdir(), "contract")  # job.json names the folder, so it is the same for everybody
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(HERE, home, ignore=shutil.ignore_patterns("out"))
    os.chdir(home)
    with Loopback() as server:
        server.chat = completion
        run(server.url, "out")
    shutil.rmtree(HERE / "out", ignore_errors=True)
    shutil.copytree("out", HERE / "out")
