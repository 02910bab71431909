"""Does training on these pairs make the model better on people's queries? Arms, several seeds, and an honest answer.

Every arm starts from the same model, takes the same number of steps, and is tested on the same queries before and
after. A model that was tested is not trained again: its figures are in `OUT/arms/ARM-SEED.json` and `.parquet`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

from synth.errors import JobError, OutputError
from synth.shards import OutputFolder, disk
from synth.training.arms import Arms, read_arms
from synth.training.evaluate import EvaluateArgs, Model, measure
from synth.training.fit import TrainSettings, fit
from synth.training.testsets import Retrieval, Sentences, TestSet, heldout, read_test
from synth.types import Notify

RECORD = "proof.json"
_ENOUGH_STEPS, _MOST_PASSES = 20, 3
BEFORE, AVERAGED, MERGED = "before", "averaged", "merged"
CONTROLS = frozenset({"random", "dropped", "no-llm"})
"""Arms that nobody would use: they are trained for comparison alone."""


@dataclass(frozen=True, slots=True)
class ProveArgs:
    """What to prove, on what, and how the arms are trained."""

    test: str
    """A folder of queries and judgements, or `heldout`: pairs of the run itself."""
    off_domain: Sequence[str] = ()
    """Further tests, on which training should do no harm."""
    arms: Sequence[str] = ()
    """Names of arms and views; none: all that there are."""
    views: Sequence[str] = ()
    """Views of `synth keep --as`, an arm each."""
    seeds: int = 3
    settings: TrainSettings = field(default_factory=TrainSettings)
    max_tokens: int | None = None
    """Texts are cut after this many tokens in tests, as in training; None: the model's own limit."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One model, trained and tested."""

    arm: str
    model: str
    """The number of its seed, `averaged` or `merged`; `before` for the model that training starts from."""
    pairs: int
    steps: int
    seconds: float
    cpu_seconds: float
    """Both of training alone."""
    rows: pl.DataFrame
    """`test`, `id`, `value` (nDCG@10 or accuracy) and `recall@100`, a row for each query."""


@dataclass(frozen=True, slots=True)
class Proof:
    """All that the report is made of."""

    before: Outcome
    models: Sequence[Outcome]
    tests: Sequence[TestSet]
    """The test, then the off-domain ones."""
    seeds: int
    settings: TrainSettings
    data: Arms
    runs: Sequence[str]


def prove(runs: Sequence[Path], args: ProveArgs, out: Path, notify: Notify) -> Proof:
    """Train and test every arm in `out`, or do what is left of it.

    Raises JobError, InputError; OutputError where `out` has another proof, or anything else.
    """
    folders = [OutputFolder.open(run) for run in runs]
    tests, held = _tests(folders, args, notify)
    data = read_arms(folders, args.views, tests, held, notify)
    names = data.names(args.arms)
    for name, why in data.left_out.items():
        notify(f"no arm {name}: {why}")
    settings = args.settings.model_copy(update={"max_steps": args.settings.max_steps or _steps(data, args.settings)})
    _claim(out, _identity(data, args, settings, tests))
    work = _Work(out, args.seeds, settings, args.max_tokens, tests, data, notify)
    before = work.tested(BEFORE, BEFORE, lambda: Path(settings.model))
    models = [each for name in names for each in work.arm(name)]
    return Proof(before, models, tests, args.seeds, settings, data, [str(each.path) for each in folders])


def _steps(data: Arms, settings: TrainSettings) -> int:
    """One pass over all pairs; where that is less than 20 steps, up to three passes: more of them overfit."""
    once = -(-len(data.generated) // settings.batch_size)
    return max(once, min(_ENOUGH_STEPS, _MOST_PASSES * once))


def _identity(data: Arms, args: ProveArgs, settings: TrainSettings, tests: Sequence[TestSet]) -> dict[str, Any]:
    """What decides the figures. Names of arms and the number of seeds do not: both can grow."""
    frames = {"generated": data.generated, "dropped": data.dropped, "no-llm": data.by_rules, **data.views}
    return {
        "settings": settings.identity(),
        "max_tokens": args.max_tokens,
        "tests": {test.name: test.digest for test in tests},
        "pairs": {name: sha256(frame.write_json().encode()).hexdigest()[:16] for name, frame in frames.items()},
    }


def _tests(folders: Sequence[OutputFolder], args: ProveArgs, notify: Notify) -> tuple[list[TestSet], frozenset[str]]:
    """The test and the off-domain tests, and ids of pairs that must not be trained on."""
    held: frozenset[str] = frozenset()
    if args.test == "heldout":
        if len(folders) > 1:
            raise JobError("--test heldout: holds out pairs of one run, and several are named.", "Prove one at a time.")
        first, held = heldout(folders[0])
        tests: list[TestSet] = [first]
    else:
        tests = [read_test(args.test, notify)]
    tests += [read_test(each, notify) for each in args.off_domain]
    for test in tests:
        if isinstance(test, Sentences) and test.scores is not None:
            what = f"{test.name}: a correlation (STS) is not a mean over queries, so it has no paired interval here."
            raise JobError(what, "Compare models with synth evaluate.")
    if len({test.name for test in tests}) < len(tests):
        raise JobError("two tests have the same name.", "Rename one of the folders.")
    return tests, held


@dataclass(frozen=True, slots=True)
class _Work:
    """Trains and tests models, unless that is done: a record in `arms/` says so."""

    out: Path
    seeds: int
    settings: TrainSettings
    max_tokens: int | None
    tests: Sequence[TestSet]
    data: Arms
    notify: Notify

    def arm(self, name: str) -> Iterator[Outcome]:
        """The models of an arm: one for each seed; unless it is a control, also their average and the merged one."""
        models: list[Path] = []
        for seed in range(self.seeds):
            models.append(self.out / "models" / f"{name}-{seed}")
            yield self.tested(name, str(seed), partial(self._fit, name, seed, models[-1]))
        if name in CONTROLS:
            return
        whole = models[0]
        if self.seeds > 1:
            whole = self.out / "models" / f"{name}-{AVERAGED}-{self.seeds}"
            yield self.tested(name, f"{AVERAGED}-{self.seeds}", partial(self._mean, models, whole))
        merged = self.out / "models" / f"{name}-{MERGED}-{self.seeds}"
        both = [Path(self.settings.source()), whole]
        yield self.tested(name, f"{MERGED}-{self.seeds}", partial(self._mean, both, merged))

    def tested(self, arm: str, model: str, make: Callable[[], Path]) -> Outcome:
        """Train what `make` trains, test it, and record that. Raises OutputError where a record is damaged."""
        record = self.out / "arms" / f"{arm}-{model}.json"
        if not disk.exists(record):
            began, cpu = time.monotonic(), time.process_time()
            path = make()
            spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
            size = {"pairs": 0, "steps": 0}
            if arm != BEFORE:
                size = {"pairs": len(self.data.pairs(arm, 0)), "steps": self.settings.max_steps or 0}
            self.notify(f"{arm} {model}: testing")
            rows = self._rows(str(path))
            with disk.disk_errors(record):
                rows.write_parquet(record.with_suffix(".parquet"))
                text = json.dumps({"arm": arm, "model": model, **size, **spent}, indent=2) + "\n"
                disk.replace(record.parent, record, text.encode())
        try:
            facts = json.loads(record.read_bytes())
            return Outcome(rows=pl.read_parquet(record.with_suffix(".parquet")), **facts)
        except (OSError, ValueError, TypeError, pl.exceptions.PolarsError) as exc:
            hint = "Remove it; the same command then makes it again."
            raise OutputError(f"{record}: is damaged: {exc}.", hint) from exc

    def _fit(self, arm: str, seed: int, path: Path) -> Path:
        self.notify(f"{arm} {seed}: training, {self.settings.max_steps} steps")
        return fit(self.data.pairs(arm, seed), self.settings.model_copy(update={"seed": seed}), path)

    def _mean(self, models: Sequence[Path], path: Path) -> Path:
        """The mean of all weights: of fine-tunes of one model it equals slerp to four digits."""
        from synth.training.merge import merge  # noqa: PLC0415 - loads torch

        return path if disk.exists(path) else merge(models, path, by="mean")

    def _rows(self, path: str) -> pl.DataFrame:
        model, args = Model(path, self.max_tokens, self.settings.device), EvaluateArgs()
        frames = []
        for test in self.tests:
            found = measure(model, test, args, path)
            recall = pl.col("recall@100") if isinstance(test, Retrieval) else pl.lit(None, pl.Float64)
            frames.append(
                found.rows.select(
                    pl.lit(test.name).alias("test"), "id", pl.col(found.main).alias("value"), recall.alias("recall@100")
                )
            )
        return pl.concat(frames)


def _claim(out: Path, identity: Mapping[str, Any]) -> None:
    """Make `out`, and record what is proven there. Views can join later.

    Raises OutputError where something else is proven there.
    """
    record = out / RECORD
    with disk.disk_errors(out):
        (out / "arms").mkdir(parents=True, exist_ok=True)
    identity = json.loads(json.dumps(identity))  # as it will be read
    if disk.exists(record):
        try:
            earlier = json.loads(record.read_bytes())
            joined = {**earlier, "pairs": {**identity["pairs"], **earlier["pairs"]}}
            identity = {**identity, "pairs": {**earlier["pairs"], **identity["pairs"]}}
        except (ValueError, TypeError, KeyError) as exc:
            raise OutputError(f"{record}: is damaged: {exc}.", "Choose another -o, or remove that folder.") from exc
        if identity != joined:
            what = f"{out}: holds a proof with other pairs, tests or settings."
            raise OutputError(what, "Choose another -o, or remove that folder.")
    elif {each.name for each in disk.entries(out)} - {"arms"}:
        raise OutputError(f"{out}: is not empty and holds no proof.", "Choose an empty or a new folder with -o.")
    disk.replace(out, record, (json.dumps(identity, indent=2, sort_keys=True) + "\n").encode())
