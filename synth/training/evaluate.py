"""How good a model is on a test: retrieve and optionally rerank, similarity, translations, classification.

Figures of retrieval are those of trec_eval, by pytrec-eval. Texts are encoded with the prompts that the model itself
defines for queries and documents, so that a model is compared with what was made of it on equal terms.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from synth.embed.sentence_transformers import SentenceTransformersEmbedder
from synth.errors import JobError, OutputError
from synth.process import loading
from synth.registry import read_stage
from synth.shards import disk
from synth.sources import INSTRUCTION
from synth.stage import ClientSettings, RerankStage
from synth.training.statistics import change
from synth.training.testsets import Labelled, Retrieval, Sentences, TestSet, read_test
from synth.types import Notify

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

Run = dict[str, dict[str, float]]
"""By query, the documents that were found, with their scores."""

_TREC = {"ndcg@10": "ndcg_cut_10", "recall@100": "recall_100", "mrr@10": "recip_rank"}
_DEPTH = 100
_BATCH = 64
RECORD = "evaluation.json"


@dataclass(frozen=True, slots=True)
class EvaluateArgs:
    """How to evaluate; None means the model's own, or no reranker."""

    rerank: RerankStage | None = None
    top_k: int = 50
    """Documents of each query that are reranked."""
    max_tokens: int | None = None
    """Texts are cut after this many tokens."""
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one model reached on one test."""

    model: str
    test: TestSet
    rows: pl.DataFrame
    """`id` of each query, and a column for each metric; of STS the score and the cosine of each pair."""
    figures: Mapping[str, float]
    run: Run

    @property
    def main(self) -> str:
        """The metric to compare by."""
        return next(iter(self.figures))


class Model:
    """A sentence-transformers model: a folder, a name on the hub, or all-MiniLM-L6-v2 of the extra `local`.

    Raises JobError where it cannot be loaded.
    """

    def __init__(self, name: str, max_tokens: int | None = None, device: str | None = None) -> None:
        self.name = name
        folder = SentenceTransformersEmbedder(model=name).folder()
        with loading("synth evaluate", name):
            from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - takes seconds

            self.inner: SentenceTransformer = SentenceTransformer(folder, device=device, trust_remote_code=False)
        if max_tokens is not None:
            self.inner.max_seq_length = max_tokens

    def queries(self, texts: Sequence[str]) -> Tensor:
        return self._encoded(self.inner.encode_query, texts)

    def documents(self, texts: Sequence[str]) -> Tensor:
        return self._encoded(self.inner.encode_document, texts)

    def _encoded(self, encode: Any, texts: Sequence[str]) -> Tensor:
        return encode(list(texts), batch_size=_BATCH, show_progress_bar=False, convert_to_tensor=True).float().cpu()


def evaluate(
    models: Sequence[str], tests: Sequence[str], args: EvaluateArgs, out: Path | None, notify: Notify
) -> list[dict[str, Any]]:
    """Evaluate every model on every test; one record for each, models after the first compared with it.

    In `out`, unless None, are `per_query.parquet`, `runs/MODEL__TEST.trec` and `evaluation.json`. Raises JobError,
    InputError, OutputError where `out` is not empty and not an evaluation.
    """
    if out is not None:
        _require_ours(out)
    read = [read_test(test, notify) for test in tests]
    names = [_unique(name, models[:n]) for n, name in enumerate(models)]
    found: list[Evaluation] = []
    for name, path in zip(names, models, strict=True):
        model = Model(path, args.max_tokens, args.device)
        for test in read:
            notify(f"{name}: {test.name}")
            found.append(measure(model, test, args, name))
    first = {each.test.name: each for each in found if each.model == names[0]}
    records = [_record(each, first[each.test.name]) for each in found]
    if out is not None:
        _write(out, found, records)
    return records


def measure(model: Model, test: TestSet, args: EvaluateArgs, name: str) -> Evaluation:
    """One model on one test."""
    if isinstance(test, Retrieval):
        run = _retrieve(model, test)
        if args.rerank is not None:
            with ThreadPoolExecutor(1) as pool:  # an event loop may be running here
                run = pool.submit(asyncio.run, _reranked(run, test, args.rerank, args.top_k)).result()
        rows = trec_figures(run, test.relevant)
        return Evaluation(name, test, rows, {each: float(rows[each].mean()) for each in _TREC}, run)  # type: ignore[arg-type] # floats
    if isinstance(test, Labelled):
        right = _probe(model, test)
    elif test.scores is None:
        right = _matched(model, test)
    else:
        from scipy.stats import spearmanr  # noqa: PLC0415 - only here

        cosines = model.inner.similarity_pairwise(model.queries(test.first), model.queries(test.second)).numpy()
        ids = [str(n) for n in range(len(test.first))]
        rows = pl.DataFrame({"id": ids, "score": test.scores, "cosine": cosines})
        return Evaluation(name, test, rows, {"spearman": float(spearmanr(test.scores, cosines).statistic)}, {})
    rows = pl.DataFrame({"id": [str(n) for n in range(len(right))], "accuracy": right})
    return Evaluation(name, test, rows, {"accuracy": float(np.mean(right))}, {})


def trec_figures(run: Run, relevant: Mapping[str, Mapping[str, int]]) -> pl.DataFrame:
    """nDCG@10, recall@100 and MRR@10 of each judged query, as trec_eval computes them."""
    try:
        import pytrec_eval  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise JobError("pytrec-eval-terrier is not installed.", "Run `pip install 'synth[local,train]'`.") from exc
    judged = {query: dict(documents) for query, documents in relevant.items()}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut_10", "recall_100"})
    figures = evaluator.evaluate(run)
    first_ten = {query: dict(sorted(docs.items(), key=lambda each: each[1])[-10:]) for query, docs in run.items()}
    for query, found in pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(first_ten).items():
        figures[query] |= found
    columns = {name: [figures[query][trec] for query in run] for name, trec in _TREC.items()}
    return pl.DataFrame({"id": list(run), **columns})


def _retrieve(model: Model, test: Retrieval) -> Run:
    from sentence_transformers.util import semantic_search  # noqa: PLC0415 - takes seconds

    documents = list(test.documents)
    queries = model.queries(list(test.queries.values()))
    hits = semantic_search(
        queries,
        model.documents(list(test.documents.values())),
        top_k=_DEPTH,
        score_function=model.inner.similarity,
    )
    found = ({documents[hit["corpus_id"]]: float(hit["score"]) for hit in each} for each in hits)
    return dict(zip(test.queries, found, strict=True))


async def _reranked(run: Run, test: Retrieval, stage: RerankStage, top_k: int) -> Run:
    """The first `top_k` of each query get 1 + P(relevant), 1 where the reranker gives none, the others less than 1."""
    top = {query: sorted(docs, key=docs.__getitem__, reverse=True) for query, docs in run.items()}
    pairs = [(query, document) for query, docs in top.items() for document in docs[:top_k]]
    reranker = stage.open(ClientSettings(), INSTRUCTION)
    try:
        scores = await reranker.score([(test.queries[query], test.documents[document]) for query, document in pairs])
    finally:
        await reranker.close()
    found: Run = {query: {each: 1 / (2 + n) for n, each in enumerate(docs)} for query, docs in top.items()}
    for (query, document), score in zip(pairs, np.nan_to_num(scores).tolist(), strict=True):
        found[query][document] = 1 + score
    return found


def _matched(model: Model, test: Sentences) -> list[float]:
    """Whether the nearest of all second sentences of the group is the row's own, or one with the same text."""
    right = np.zeros(len(test.first))
    groups = np.array(test.groups)
    for group in dict.fromkeys(test.groups):
        rows = np.flatnonzero(groups == group)
        second = [test.second[n] for n in rows]
        likeness = model.inner.similarity(model.queries([test.first[n] for n in rows]), model.queries(second))
        nearest = likeness.argmax(dim=1).tolist()
        right[rows] = [second[near] == second[n] for n, near in enumerate(nearest)]
    return [float(each) for each in right]


def _probe(model: Model, test: Labelled) -> list[float]:
    """Whether logistic regression over the vectors, trained on the training rows, names the label of each test row."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes seconds
    from sklearn.preprocessing import normalize  # noqa: PLC0415 - as above

    train, held = (normalize(model.queries(texts).numpy()) for texts, _ in (test.train, test.test))
    guessed = LogisticRegression(max_iter=1000, C=10).fit(train, test.train[1]).predict(held)
    return [float(guess == label) for guess, label in zip(guessed, test.test[1], strict=True)]


def _unique(name: str, before: Sequence[str]) -> str:
    """The last part of a path, with a number where a model before it has the same."""
    short = Path(name).name
    count = sum(Path(each).name == short for each in before)
    return f"{short}-{count + 1}" if count else short


def _record(found: Evaluation, first: Evaluation) -> dict[str, Any]:
    test = found.test
    record = {"model": found.model, "test": test.name, **found.figures, "queries": len(found.rows)}
    if isinstance(test, Retrieval):
        record |= {"documents": len(test.documents), "synthetic_queries": test.synthetic}
    if found is not first and found.main in found.rows.columns:
        before, after = (each.rows[found.main].to_numpy() for each in (first, found))
        record["change"] = asdict(change(before, after))
    return record


def _require_ours(out: Path) -> None:
    if disk.exists(out) and disk.entries(out) and not disk.exists(out / RECORD):
        raise OutputError(f"{out}: is not empty and holds no evaluation.", "Choose an empty or a new folder with -o.")


def _write(out: Path, found: Sequence[Evaluation], records: Sequence[Mapping[str, Any]]) -> None:
    with disk.disk_errors(out):
        (out / "runs").mkdir(parents=True, exist_ok=True)
        named = [
            each.rows.select(pl.lit(each.model).alias("model"), pl.lit(each.test.name).alias("test"), pl.all())
            for each in found
        ]
        pl.concat(named, how="diagonal").write_parquet(out / "per_query.parquet")
        for each in (one for one in found if one.run):
            write_run(out / "runs" / f"{each.model}__{each.test.name}.trec", each.run, each.model)
        (out / RECORD).write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def write_run(path: Path, run: Run, tag: str) -> None:
    """A TREC run file: query, Q0, document, rank, score, tag. White space within ids becomes `_`."""
    lines = []
    for query, documents in run.items():
        ranked = sorted(documents.items(), key=lambda each: -each[1])
        for rank, (document, score) in enumerate(ranked, 1):
            fields = (query, "Q0", document, str(rank), repr(score), tag)
            lines.append(" ".join("_".join(field.split()) for field in fields) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def reranker(spec: Mapping[str, Any] | str | None) -> RerankStage | None:
    """The stage that `{"use": …}` names; a string is short for that. Raises JobError naming every mistake."""
    if spec is None:
        return None
    stage, problems = read_stage("rerank", spec if isinstance(spec, Mapping) else {"use": spec})
    if problems:
        raise JobError("; ".join(f"--rerank: {'.'.join(each.path)}: {each.text}" for each in problems))
    found: RerankStage = stage
    return found
