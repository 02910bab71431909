"""What each threshold would keep, against brute force; calibrated rules that `synth keep` reads."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from synth.cli import main
from synth.results import calibration
from synth.results import sweep as sweeping
from synth.rules import Rules, ruleset
from synth.shards import Origin, OutputFolder
from synth.steps import keep

NAN = float("nan")
COSINE, RANK = "scores/cosine-00000000", "scores/round_trip-00000000"
ROWS = 300


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = OutputFolder.open(tmp_path_factory.mktemp("sweep") / "out", write=True)
    rng = np.random.default_rng(5)
    folder.put_if_absent("job.json", json.dumps(RECORD).encode())
    for index in range(3):
        ids = [f"{index * 100 + n}-0" for n in range(100)]
        cosine = np.round(rng.normal(0.6, 0.2, 100).clip(-1, 1), 2)
        languages = [("en", "de", None)[n % 7 % 3] for n in range(100)]
        pairs = {
            "id": ids,
            "query": [f"query {each}" for each in ids],
            "passage": [f"passage {each}" for each in ids],
            "query_language": pa.array(languages, pa.string()),
            "passage_language": ["en"] * 100,
            "label": pa.array([None if n % 10 == 0 else int(rng.random() < cosine[n]) for n in range(100)], pa.int64()),
        }
        commit(folder.step("generated"), index, pairs)
        scores = {"cosine": [None if n % 50 == 0 else cosine[n] for n in range(100)], "cosine_shuffled": cosine - 0.5}
        commit(folder.step(COSINE), index, {"id": ids, **scores})
        commit(folder.step(RANK), index, {"id": ids, "round_trip_rank": rng.integers(1, 9, 100)})
    return folder.path


RECORD = {
    "format": 1,
    "identity": {},
    "job": {"data": {"path": "a.jsonl"}, "scores": []},
    "base": ".",
    "inputs": [],
    "sample": None,
}
RECORD["sha256"] = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}


def commit(step, index, columns):
    table = pa.table(columns)
    rows = table.num_rows
    step.commit(index, table, Origin(identity="x", input="", first=index, rows_in=rows, rows_out=rows, schema="1"))


def everything(out):
    folder = OutputFolder.open(out)
    steps = [folder.step(name) for name in ("generated", COSINE, RANK)]
    parts = [[step.read(n).table for step in steps] for n in range(3)]
    return pa.concat_tables([keep.joined(pairs, scores) for pairs, *scores in parts]).to_pylist()


def told(capsys, out, *arguments):
    assert main(["sweep", str(out), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_yield_precision_and_recall_equal_a_brute_force_loop(out, capsys):
    found = told(capsys, out, "--by", "query_language", "--label-column", "label", "--at", "0.3,0.62,0.9")
    rows = everything(out)
    tables = [(None, found["cuts"]), *((each["group"][0], each["cuts"]) for each in found["groups"])]
    assert {name for name, _ in tables} == {None, "en", "de", ""}
    for name, made in tables:
        mine = [row for row in rows if name is None or (row["query_language"] or "") == name]
        for cut in made:
            kept = [row for row in mine if row["cosine"] is not None and row["cosine"] > cut["threshold"]]
            known = [row for row in kept if row["label"] is not None]
            right = sum(row["label"] for row in known)
            assert cut["kept"] == len(kept)
            assert cut["share"] == pytest.approx(len(kept) / len(mine))
            assert cut["precision"] == (pytest.approx(right / len(known)) if known else None)
            assert cut["recall"] == pytest.approx(right / sum(row["label"] or 0 for row in mine))
            assert cut["shuffled_share"] == pytest.approx(
                sum(row["cosine_shuffled"] > cut["threshold"] for row in mine) / len(mine)
            )


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_counting_all_pairs(seed, lower):
    rng = np.random.default_rng(seed)
    score, labels = np.round(rng.random(60), 1), (rng.random(60) < 0.4).astype(float)
    score[:3], labels[5:8] = NAN, NAN
    wins = [
        0.5 if a == b else float((a < b) if lower else (a > b))
        for a, one in zip(score, labels, strict=True)
        for b, other in zip(score, labels, strict=True)
        if one > 0 and other == 0 and not np.isnan(a) and not np.isnan(b)
    ]
    assert sweeping.auc(score, labels, lower=lower) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("goal", [("precision", 0.7), ("f1", 1.0)])
def test_thresholds_by_labels_equal_a_brute_force_search(goal, lower):
    rng = np.random.default_rng(9)
    score = np.round(rng.random(200), 2)
    labels = (rng.random(200) < (1 - score if lower else score)).astype(float)
    score[:5], labels[5:15] = NAN, NAN
    found = calibration.fit(score, labels, goal, lower=lower)
    tried = {}
    for threshold in np.append(np.unique(score[~np.isnan(score)]), [-1, 2]):
        kept = (score < threshold if lower else score > threshold) & ~np.isnan(labels)
        right, total = np.nansum(labels[kept]), np.nansum(labels)
        if kept.any():
            tried[kept.sum()] = (right / kept.sum(), right / total, 2 * right / (kept.sum() + total))
    wanted = max(n for n, row in tried.items() if row[0] >= 0.7) if goal[0] == "precision" else None
    wanted = wanted or max(tried, key=lambda n: tried[n][2])
    assert [found.precision.value, found.recall.value, found.f1.value] == pytest.approx(tried[wanted])
    kept = score < found.threshold.value if lower else score > found.threshold.value
    assert (kept & ~np.isnan(labels)).sum() == wanted
    for each in (found.threshold, found.precision, found.recall, found.f1):
        assert each.low <= each.value <= each.high
        assert each.low < each.high
    assert calibration.fit(score, labels, goal, lower=lower) == found


def test_an_interval_by_wilson():
    found = calibration.wilson(8, 10)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert calibration.wilson(0, 5).low == pytest.approx(0)
    assert calibration.wilson(5, 5).high == pytest.approx(1)


def test_the_interval_of_a_threshold_covers_the_true_one():
    rng, covered = np.random.default_rng(2), 0
    for _ in range(20):  # the labels turn at 0.6, where F1 is best
        score = rng.random(150)
        labels = (rng.random(150) < np.where(score > 0.6, 0.9, 0.1)).astype(float)
        found = calibration.fit(score, labels, ("f1", 1.0), lower=False, seed=1)
        covered += found.threshold.low - 0.02 <= 0.6 <= found.threshold.high + 0.02
    assert covered >= 17


def test_rules_by_labels_are_proposed_for_each_group(out, capsys, tmp_path):
    flags = ["--by", "query_language", "--label-column", "label", "--target", "precision=0.75"]
    found = told(capsys, out, *flags, "--write", str(tmp_path / "rules.yaml"))
    first, *groups = found["proposed"]
    assert first["fit"]["precision"]["value"] >= 0.75
    assert {each["group"][0]: each["own"] for each in groups}[""] is False
    assert Rules.parse(ruleset.load_document(tmp_path / "rules.yaml").data["keep"], None)[1] == []
    assert main(["sweep", str(out), "--label-column", "label", "--best", "f1"]) == 0
    assert "bootstrap" in capsys.readouterr().out
    for wrong, word in (
        (["--best", "f1"], "--label-column"),
        (["--best", "f2", "--label-column", "label"], "--best f1"),
        (["--target", "recall=0.9", "--label-column", "label"], "precision=0.95"),
        (["--target", "precision=0.99", "--label-column", "label", "--lower"], "no threshold reaches"),
        (["--best", "f1", "--target", "precision=0.9", "--label-column", "label"], "Name one"),
    ):
        assert main(["sweep", str(out), *wrong]) == 2
        assert word in capsys.readouterr().err


def test_auc_without_both_kinds_is_not_defined():
    assert sweeping.auc(np.array([0.1, 0.2]), np.array([1.0, 1.0])) is None
    assert sweeping.auc(np.array([NAN, 0.2]), np.array([0.0, 1.0])) is None


def test_auc_is_told_for_every_scorer_with_its_own_direction(out, capsys):
    found = told(capsys, out, "--label-column", "label")
    rows = [row for row in everything(out) if row["label"] is not None]
    assert set(found["auc"]) == {"cosine", "round_trip_rank"}
    ranks, labels = (np.array([float(row[name]) for row in rows]) for name in ("round_trip_rank", "label"))
    assert found["auc"]["round_trip_rank"] == pytest.approx(sweeping.auc(ranks, labels, lower=True))
    assert found["auc"]["cosine"] > 0.6


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_at_most_the_share_lies_beyond_and_no_looser_value_would_do(share, lower):
    values = np.round(np.random.default_rng(1).random(173), 2)
    values[:4] = NAN
    known = values[4:]
    threshold = calibration.at_most(values, share, lower=lower)
    beyond = (lambda t: (known < t).mean()) if lower else (lambda t: (known > t).mean())
    assert beyond(threshold) <= share
    looser = [t for t in known if (t > threshold if lower else t < threshold)]
    assert all(beyond(t) > share for t in looser)


def test_random_pairs_lets_through_at_most_the_share_in_every_group(out, capsys):
    found = told(capsys, out, "--by", "query_language", "--calibrate", "random-pairs=0.05")
    assert found["proposed"][0]["group"] == []
    for each in found["proposed"]:
        assert each["own"] == (each["group"] != [""])
        assert not each["own"] or each["shuffled_share"] <= 0.05


def test_a_small_group_takes_the_threshold_of_all(out, capsys):
    found = told(capsys, out, "--by", "query_language", "--calibrate", "random-pairs=0.005")
    overall, *groups = found["proposed"]
    assert all(not each["own"] and each["threshold"] == overall["threshold"] for each in groups)


def test_the_written_rules_are_read_by_keep_and_keep_what_was_told(out, tmp_path, capsys):
    file = tmp_path / "rules.yaml"
    found = told(
        capsys, out, "--by", "passage_language,query_language", "--calibrate", "keep=0.5", "--write", str(file)
    )
    rules = ruleset.chosen({}, file)
    verdicts = rules.apply(pa.Table.from_pylist(everything(out))).kept
    rows = everything(out)
    for each in found["proposed"][1:]:
        if each["own"]:
            mine = [kept for row, kept in zip(rows, verdicts, strict=True) if row["query_language"] == each["group"][1]]
            assert sum(mine) == pytest.approx(each["share"] * (len(mine) - missing(rows, each["group"][1])))
            assert sum(mine) / len(mine) <= 0.5


def missing(rows, language):
    return sum(row["cosine"] is None for row in rows if row["query_language"] == language)


def test_other_rules_stay_in_the_proposal():
    current, _ = Rules.parse({"cosine": {"above": 0.7, "missing": "keep"}, "language_ok": True}, None)
    proposed = [calibration.Threshold((), 9, 0.25, own=True, share=0.5, shuffled_share=None)]
    keep = calibration.as_keep(proposed, current, "cosine", (), lower=False)
    assert keep == {
        "cosine": {"above": 0.25, "missing": "keep"},
        "language_ok": {"is": True, "missing": "keep"},
    }
    assert "above: 0.25" in calibration.as_yaml(keep, "from a sweep")


def test_samples_are_the_pairs_nearest_to_each_cut(out, capsys):
    found = told(capsys, out, "--at", "0.6", "--examples", "-n", "3")
    (sample,) = found["samples"]
    known = [row for row in everything(out) if row["cosine"] is not None]
    above = sorted(row["cosine"] for row in known if row["cosine"] > 0.6)[:3]
    below = sorted((row["cosine"] for row in known if row["cosine"] <= 0.6), reverse=True)[:3]
    assert [each["score"] for each in sample["kept"]] == above
    assert [each["score"] for each in sample["dropped"]] == below
    assert sample["kept"][0]["passage"] == f"passage {sample['kept'][0]['id']}"


def test_histogram_counts_every_known_score_once(out, capsys):
    found = told(capsys, out)
    assert sum(found["histogram"]["counts"]) == found["rows"] - found["missing"] == ROWS - 6
    assert found["histogram"]["edges"] == sorted(found["histogram"]["edges"])


def test_a_lower_score_can_be_the_better_one(out, capsys):
    found = told(capsys, out, "--score", "round_trip_rank", "--at", "2")
    assert found["lower_is_better"]
    assert found["cuts"][0]["kept"] == sum(row["round_trip_rank"] < 2 for row in everything(out))


def test_a_sweep_for_people_names_what_matters(out, capsys):
    assert (
        main(["sweep", str(out), "--by", "query_language", "--label-column", "label", "--calibrate", "keep=0.5"]) == 0
    )
    shown = capsys.readouterr().out
    for part in ("cosine >", "precision", "AUC against label", "proposed for keep=0.5", "null"):
        assert part in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--score", "judge"], "has no column judge"),
        (["--score", "query"], "not numbers"),
        (["--by", "nothing"], "has no column nothing"),
        (["--at", "high"], "expected numbers"),
        (["--calibrate", "keep=2"], "a share between 0 and 1"),
        (["--calibrate", "most"], "a share between 0 and 1"),
        (["--score", "round_trip_rank", "--calibrate", "random-pairs=0.1"], "no column for shuffled pairs"),
        (["--write", "rules.yaml"], "needs a proposal"),
    ],
)
def test_mistakes_are_named(out, capsys, arguments, message):
    assert main(["sweep", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_proposal_that_cannot_be_written_is_no_bug(out, capsys, tmp_path):
    words = ["--calibrate", "keep=0.5", "--write", str(tmp_path / "nowhere" / "rules.yaml")]
    assert main(["sweep", str(out), *words]) == 7
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_thresholds_over_one_value_stand_on_either_side_of_it(value):
    low, high = sweeping.even_steps(np.full(5, value))
    assert low < value <= high


def test_a_sweep_writes_nothing_into_the_folder(out, capsys):
    before = sorted((file, file.stat().st_mtime_ns) for file in out.rglob("*"))
    told(capsys, out, "--calibrate", "keep=0.5")
    assert sorted((file, file.stat().st_mtime_ns) for file in out.rglob("*")) == before
