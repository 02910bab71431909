"""Does `synth plan --pilot` foretell a whole run? Kept pairs and tokens on three corpora, forecast and true.

The language model is the extractive double behind a loopback server that counts characters as tokens, the embedder a
bag of words hashed to 64 dimensions. SYNTH_RETRIEVAL_DATA names a folder with the corpora.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from measure import HERE

TESTS = HERE.parent / "tests"
CORPORA = ("covid_faq", "xquad_en", "cranfield")
PILOT, QUERIES = 40, 2
KEEP = {"round_trip_rank": {"below": 4}, "cosine": {"above": 0.4}}


def synth(*arguments: str) -> str:
    command = [sys.executable, "-m", "synth", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent).stdout


def report(folder: Path) -> list[str]:
    data = os.environ.get("SYNTH_RETRIEVAL_DATA")
    if not data:
        return [f"Skipped: set SYNTH_RETRIEVAL_DATA to a folder with {', '.join(CORPORA)}."]
    sys.path.insert(0, str(TESTS))
    from faults.extractive_server import Server, write_templates  # noqa: PLC0415 - lies with the tests
    from loopback import Loopback  # noqa: PLC0415 - as above

    model = Server("en")
    counted = {"prompt_tokens": 0, "completion_tokens": 0}

    def answer(body):  # noqa: ANN001, ANN202 - as the server calls it
        found = model.answer(body)
        for name in counted:
            counted[name] += found["usage"][name]
        return found

    templates = write_templates(folder / "templates")
    lines = [
        f"Pilots of {PILOT} passages, {QUERIES} queries each; rules: {json.dumps(KEEP)}.",
        "",
        "| corpus | passages | pilot keeps (own ranks) | forecast of all | true | tokens forecast | counted | off |",
        "|-|-|-|-|-|-|-|-|",
    ]
    with Loopback() as server:
        server.chat = answer
        for corpus in CORPORA:
            job = {
                "seed": 7,
                "corpus": {"path": str(Path(data) / corpus / "corpus.parquet"), "language": "en"},
                "llm": {"use": "vllm_server", "model": "tiny", "base_urls": [server.url]},
                "embed": {"use": "vllm_server", "model": "tiny", "base_urls": [server.url]},
                "task": {"use": "retrieval", "prompts": str(templates), "queries_per_passage": QUERIES},
                "scores": [{"use": "cosine"}, {"use": "round_trip"}],
                "keep": KEEP,
                "limits": {"max_unusable_share": 1},
            }
            path, out = folder / f"{corpus}.yaml", folder / corpus
            path.write_text(yaml.safe_dump(job), encoding="utf-8")
            found = json.loads(synth("plan", str(path), "-o", str(out), "--pilot", str(PILOT), "--json"))
            counted.update(prompt_tokens=0, completion_tokens=0)
            synth("run", str(path), "-o", str(out), "--json")
            kept = sum(pq.read_metadata(each).num_rows for each in (out / "kept").glob("*.parquet"))
            alone = sum(
                pq.read_metadata(each).num_rows
                for each in out.with_name(f"{corpus}.sample-{PILOT}").glob("kept/*.parquet")
            )
            costs, (expected, low, high) = found["costs"], found["kept"]
            tokens, true = costs["prompt_tokens"] + costs["completion_tokens"], sum(counted.values())
            lines.append(
                f"| {corpus} | {costs['passages']:,} | {found['pilot']['kept']} of {found['pilot']['pairs']} ({alone}) "
                f"| {expected:,} ({low:,} to {high:,}) | {kept:,} "
                f"| {tokens:,} | {true:,} | {tokens / true - 1:+.1%} |"
            )
    return lines


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        print("\n".join(report(Path(temporary))))
