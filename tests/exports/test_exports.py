"""`synth export`: what stands in the files, what never straddles a split, and what is refused."""

import ast
import csv
import json
import re
from collections import Counter
from pathlib import Path

import mining
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from exporting import INSTRUCTION, PLACES, THINGS, pair, pairs

from synth import registry
from synth.cli import main
from synth.cli.export import export_run as export
from synth.cli.mine import mine_run
from synth.errors import InputError, JobError, OutputError, ServerRefused, ServerUnavailable
from synth.exports import Counts, Export, Facts, Shape
from synth.exports.hub import Hub
from synth.exports.jsonl import Jsonl
from synth.exports.mteb import Mteb
from synth.exports.sentence_transformers import SentenceTransformers
from synth.exports.tevatron import Tevatron
from synth.marks import Mark, add
from synth.results.export import ExportArgs, aside, options_of, push
from synth.runners.mining import MineArgs
from synth.shards import OutputFolder
from synth.splits import SplitOptions, components, split, text_key

FORMATS = ["argilla", "beir", "csv", "flagembedding", "hub"]
FORMATS += ["jsonl", "ms-swift", "mteb", "sentence-transformers", "tevatron"]
PREFIX = f"Instruct: {INSTRUCTION}\nQuery:"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """60 pairs with three negatives each, or fewer."""
    mining.asked.clear()
    return pairs(tmp_path_factory.mktemp("run"))


def made(out, target, to, **given):
    export(out, ExportArgs(to, target, **given), as_json=True)
    return target


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(folder, stem="train"):
    return pl.read_parquet(sorted(folder.glob(f"{stem}-*.parquet"))).to_dicts()


def tsv(path):
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_there_is_a_module_for_each_format():
    assert [name.replace("_", "-") for name in registry.names("exports")] == sorted(
        [*FORMATS, "pylate"]
    )  # see test_teacher.py
    assert all(issubclass(registry.find("exports", name), Export) for name in registry.names("exports"))


def test_sentence_transformers_gets_texts_alone_and_the_same_number_of_negatives(out, tmp_path):
    folder = made(out, tmp_path / "st", "sentence-transformers", negatives=2)
    rows, meta = table(folder / "data"), table(folder / "meta")
    assert list(rows[0]) == ["anchor", "positive", "negative_1", "negative_2"]
    assert all(all(row.values()) for row in rows)
    assert len(rows) == len(meta)
    assert [f"{thing}-{place}" for thing in THINGS for place in PLACES][:1] == [meta[0]["passage_id"]]
    for row, known in zip(rows, meta, strict=True):
        assert row["anchor"] == pair(*known["passage_id"].split("-"))["query"]
        assert row["positive"] == pair(*known["positive"].split("-"))["passage"]
        assert [each["source"] for each in known["negatives"]] == ["mined", "mined"]
        assert all(each["score"] <= known["cosine"] for each in known["negatives"])
        named = [pair(*each["passage_id"].split("-"))["passage"] for each in known["negatives"]]
        assert named == [row["negative_1"], row["negative_2"]]


def test_a_row_short_of_negatives_is_left_out_and_counted_or_filled(out, tmp_path, capsys):
    lengths = Counter(len(row["negatives"]) for row in pl.read_parquet(out / "mined/*.parquet").to_dicts())
    with pytest.raises(JobError, match="train would be empty: a row needs 9 negatives"):
        made(out, tmp_path / "b", "sentence-transformers", negatives=9)
    capsys.readouterr()
    folder = made(out, tmp_path / "c", "sentence-transformers", negatives=9, on_short="fill")
    said = json.loads(capsys.readouterr().out)
    rows = table(folder / "data")
    assert said["filled"] == len(rows) == 60
    for row in rows:
        texts = [row["positive"], *(row[f"negative_{n}"] for n in range(1, 10))]
        assert len(set(texts)) == 10
    assert "Filled with random passages: 60." in (folder / "TRAIN.md").read_text(encoding="utf-8")
    assert Counter(each["source"] for each in table(folder / "meta")[0]["negatives"])["random"] == 9 - max(lengths)


def test_without_mining_pairs_go_as_they_are_where_the_format_allows(tmp_path):
    out = pairs(tmp_path, negatives=0)
    rows = table(made(out, tmp_path / "st", "sentence-transformers") / "data")
    assert list(rows[0]) == ["anchor", "positive"]
    assert len(rows) == 60
    swift = made(out, tmp_path / "swift", "ms-swift")
    assert {*lines(swift / "embedding/train.jsonl")[0]} == {"messages", "positive_messages"}
    assert not (swift / "reranker").exists()
    assert lines(made(out, tmp_path / "tev", "tevatron") / "train.jsonl")[0]["negative_passages"] == []
    with pytest.raises(JobError, match="needs a negative in every row"):
        made(out, tmp_path / "flag", "flagembedding")
    filled = lines(made(out, tmp_path / "flag", "flagembedding", negatives=2, on_short="fill") / "train/train.jsonl")
    assert all(len({*row["pos"], *row["neg"]}) == 3 for row in filled)


def test_the_prompt_stands_where_each_trainer_puts_it(out, tmp_path):
    swift = made(out, tmp_path / "swift", "ms-swift")
    query = pair(THINGS[0], PLACES[0])["query"]
    embedding, reranker = (lines(swift / form / "train.jsonl")[0] for form in ("embedding", "reranker"))
    assert embedding["messages"] == [{"role": "user", "content": PREFIX + query}]
    assert [each[0]["role"] for each in embedding["positive_messages"] + embedding["negative_messages"]] == ["user"] * 4
    assert reranker["messages"] == [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": query}]
    assert [each[0]["role"] for each in reranker["negative_messages"]] == ["assistant"] * 3
    flag = made(out, tmp_path / "flag", "flagembedding")
    row = lines(flag / "train/train.jsonl")[0]
    assert (row["query"], row["prompt"]) == (query, INSTRUCTION)
    assert "pos_scores" not in row
    page = (flag / "TRAIN.md").read_text(encoding="utf-8")
    assert "--query_instruction_format $'Instruct: {}\\nQuery:{}'" in page
    assert "--knowledge_distillation True" not in page
    assert lines(made(out, tmp_path / "tev", "tevatron") / "train.jsonl")[0]["query"] == PREFIX + query
    trained = made(out, tmp_path / "st", "sentence-transformers")
    assert INSTRUCTION not in (trained / "train.py").read_text()  # the model's own prompt, unless one is asked for
    assert f"--prompt $'Instruct: {INSTRUCTION}\\nQuery:'" in (trained / "TRAIN.md").read_text()
    assert lines(made(out, tmp_path / "beir", "beir") / "queries.jsonl")[0]["text"] == query


def test_a_template_of_ones_own(out, tmp_path):
    bare = made(out, tmp_path / "bare", "flagembedding", settings=["query_template={query}"])
    assert "prompt" not in lines(bare / "train/train.jsonl")[0]
    assert "--query_instruction_format" not in (bare / "TRAIN.md").read_text(encoding="utf-8")
    e5 = made(out, tmp_path / "e5", "tevatron", settings=["query_template=query: {query}"])
    assert lines(e5 / "train.jsonl")[0]["query"].startswith("query: when")
    with pytest.raises(JobError, match="must end with"):
        options_of(ExportArgs("hub", tmp_path, settings=["query_template=a {query} b"]))
    with pytest.raises(JobError, match="query_template"):
        options_of(ExportArgs("hub", tmp_path, settings=["query_tmplate={query}"]))


def test_a_reranker_that_graded_everything_becomes_the_teacher(tmp_path):
    rows = [pair(thing, place) for thing in THINGS[:4] for place in PLACES]
    for n, row in enumerate(rows):
        row["passage"] += f" P=0.{90 + n % 5} "
    given = {"scores": [{"use": "cosine"}, {"use": "reranker", "model": {"use": "mining:Verdicts"}}]}
    out = pairs(tmp_path, rows, negatives=0, **given)
    options = {"range": "0:20", "num_negatives": "2", "max_score": "null", "absolute_margin": "0.01"}
    options |= {"reranker": "{use: mining:Verdicts}", "reject_above": "0.99", "promote_above": "null"}
    mine_run(out, MineArgs(options=options), as_json=True)
    row = lines(made(out, tmp_path / "flag", "flagembedding") / "train/train.jsonl")[0]
    assert len(row["pos_scores"]) == len(row["pos"])
    assert len(row["neg_scores"]) == len(row["neg"]) > 0
    assert row["pos_scores"][0] == pytest.approx(2.197225, abs=1)
    assert "--knowledge_distillation True" in (tmp_path / "flag/TRAIN.md").read_text(encoding="utf-8")


def test_beir_and_mteb_say_the_same(out, tmp_path):
    beir, mteb = (
        made(out, tmp_path / to, to, split=["test=0.3"], group="doc", document="doc") for to in ("beir", "mteb")
    )
    corpus, queries = lines(beir / "corpus.jsonl"), lines(beir / "queries.jsonl")
    assert {each["_id"] for each in corpus} == {f"{thing}-{place}" for thing in THINGS for place in PLACES}
    found = table(mteb / "corpus", "corpus")
    assert [(each["_id"], each["title"], each["text"]) for each in corpus] == [tuple(each.values()) for each in found]
    assert [tuple(each.values()) for each in queries] == [
        tuple(each.values()) for each in table(mteb / "queries", "queries")
    ]
    for name in ("train", "test"):
        rows = tsv(beir / f"qrels/{name}.tsv")
        assert rows[0] == ["query-id", "corpus-id", "score"]
        assert [(q, d, int(s)) for q, d, s in rows[1:]] == [tuple(each.values()) for each in table(mteb / "data", name)]
    assert (made(out, tmp_path / "all", "beir") / "qrels/test.tsv").exists()


def test_equal_queries_are_one_and_equal_passages_are_one(tmp_path):
    same = pair("ferry", "Cork")
    rows = [same, {**pair("bakery", "Cork"), "query": same["query"]}, {**same, "query": "another", "passage_id": "x"}]
    rows += [
        {**pair("violin", "Graz"), "passage_id": same["passage_id"]},
        {**pair("quarry", "Graz"), "passage_id": None},
    ]
    folder = made(pairs(tmp_path, rows, negatives=0), tmp_path / "beir", "beir")
    judged = tsv(folder / "qrels/test.tsv")[1:]
    ids = [each["_id"] for each in lines(folder / "corpus.jsonl")]
    assert ids[:2] == ["ferry-Cork", "bakery-Cork"]
    assert re.fullmatch(r"ferry-Cork#[0-9a-f]{8}", ids[2])
    assert re.fullmatch(r"p-[0-9a-f]{16}", ids[3])
    assert judged[:3] == [["0-0", "ferry-Cork", "1"], ["0-0", "bakery-Cork", "1"], ["2-0", "ferry-Cork", "1"]]
    assert len(lines(folder / "queries.jsonl")) == 4


def test_labels_say_what_is_no_answer(tmp_path):
    rows = [{**pair(thing, "Cork"), "label": n % 3} for n, thing in enumerate(THINGS)]
    data = {"path": str(tmp_path / "pairs.jsonl"), "label": "label"}
    out = pairs(tmp_path, rows, negatives=0, data=data)
    judged = tsv(made(out, tmp_path / "b", "beir") / "qrels/test.tsv")[1:]
    assert [score for _, _, score in judged] == ["1", "2"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("group", ["passage_id", "doc", "cluster"])
def test_no_group_stands_in_two_splits(tmp_path, group):
    rows = [pair(thing, place) for thing in THINGS for place in PLACES]
    rows += [{**row, "query": f"{row['query']}, please tell", "passage_id": f"{n}"} for n, row in enumerate(rows[::3])]
    rows += [{**row, "passage": row["passage"].replace(".", ", they say."), "doc": "copy"} for row in rows[:20]]
    out = pairs(tmp_path, rows)
    given = {"split": ["test=0.2", "dev=0.2"], "group": group, "document": "doc" if group == "doc" else None}
    folder = made(out, tmp_path / "hub", "hub", **given)
    found = {name: table(folder / "data", name) for name in ("train", "test", "dev")}
    assert sum(map(len, found.values())) == len(rows)
    keys = {"passage_id": ["query", "passage", "passage_id"], "doc": ["passage", "doc"], "cluster": ["passage"]}[group]
    for key in keys:
        sides = [{row[key] for row in each} for each in found.values()]
        assert sum(map(len, sides)) == len(set.union(*sides)), key
    if group == "cluster":
        stems = [{row["passage"].replace(", they say.", ".") for row in each} for each in found.values()]
        assert sum(map(len, stems)) == len(set.union(*stems))
    hidden = {row["passage"] for name in ("test", "dev") for row in found[name]}
    assert not hidden & {each["passage"] for row in found["train"] for each in row["negatives"]}
    assert json.loads((folder / "export.json").read_text())["counts"]["held_out"] > 0


@pytest.mark.slow
def test_a_split_stays_as_it_is_when_rows_are_added_and_in_every_view(tmp_path):
    rows = [pair(thing, place) for thing in THINGS for place in PLACES]
    options = SplitOptions.parse(["test=0.3"], "cluster", None, 5)
    sides = []
    for n, count in enumerate((40, 60)):
        (tmp_path / str(n)).mkdir()
        out = pairs(tmp_path / str(n), rows[:count], negatives=0)
        found = split(OutputFolder.open(out), options)
        sides.append([side for index in range(3) for side in _sides(out, found, index)][:40])
    assert sides[0] == sides[1]
    assert {*sides[0]} == {"train", "test"}
    assert main(["keep", str(out), "--above", "cosine=0.5", "--as", "strict"]) == 0
    strict = table(made(out, tmp_path / "s", "hub", view="strict", split=["test=0.3"]) / "data", "test")
    kept = table(made(out, tmp_path / "k", "hub", split=["test=0.3"]) / "data", "test")
    assert {row["id"] for row in strict} <= {row["id"] for row in kept}


def _sides(out, found, index):
    return found.of(index, pq.read_table(out / f"generated/{index:08d}.parquet")["id"].to_pylist())


def test_groups_hang_together_over_any_key():
    keys = [[text_key(c) for c in word] for word in ("aabcdd", "xyyzwq")]
    assert components([np.array(each, np.uint64) for each in keys]).tolist() == [0, 0, 0, 3, 4, 4]


def test_shares_and_groups_are_checked():
    for text in ("test", "test=2", "train=0.1", "test=x", "a/b=0.1", "test=0.1,test=0.2"):
        with pytest.raises(JobError, match="--split"):
            SplitOptions.parse([text], "doc", None, 0)
    with pytest.raises(JobError, match="nothing to train on"):
        SplitOptions.parse(["a=0.5", "b=0.5"], "doc", None, 0)
    with pytest.raises(JobError, match="--group"):
        SplitOptions.parse(["a=0.5"], "docs", None, 0)


@pytest.mark.slow
def test_the_same_export_gives_the_same_bytes_and_replaces_only_itself(out, tmp_path):
    folder = made(out, tmp_path / "x", "hub", split=["test=0.3"])
    first = contents(folder)
    assert contents(made(out, tmp_path / "x", "hub", split=["test=0.3"])) == first
    made(out, tmp_path / "x", "beir")
    assert (folder / "corpus.jsonl").exists()
    assert not (folder / "data").exists()
    (folder / "checkpoint").write_text("mine")
    with pytest.raises(OutputError, match="holds checkpoint"):
        made(out, folder, "hub")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no export"):
        made(out, tmp_path / "theirs", "hub")
    with pytest.raises(JobError, match="folder of the run"):
        made(out, out / "export", "hub")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["theirs", "x"]


def test_nothing_shows_when_an_export_fails(out, tmp_path):
    with pytest.raises(JobError, match="test would be empty"):
        made(out, tmp_path / "x", "hub", split=["test=0.000001"])
    assert list(tmp_path.iterdir()) == []


def test_a_format_of_ones_own_and_one_that_fails(out, tmp_path):
    folder = made(out, tmp_path / "x", "exporting:Tsv")
    assert len(tsv(folder / "train.tsv")) == 60
    before = contents(folder)
    with pytest.raises(InputError, match="half"):
        made(out, folder, "exporting:Broken")
    assert contents(folder) == before
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_what_a_killed_export_left_is_cleared_away(out, tmp_path):
    (tmp_path / ".x.partial/data").mkdir(parents=True)
    (tmp_path / ".x.partial/data/.train-00000").write_text("half")
    assert "half" not in {*map(str, contents(made(out, tmp_path / "x", "hub")).values())}
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_two_exports_never_write_the_same_folder(out, tmp_path):
    with aside(tmp_path / "x"), pytest.raises(OutputError, match="another process is writing it"):
        made(out, tmp_path / "x", "hub")


def test_parquet_parts_follow_their_size(out, tmp_path):
    folder = made(out, tmp_path / "hub", "hub", settings=["part_size=1kB"])
    names = [each.name for each in sorted((folder / "data").iterdir())]
    assert names == [f"train-{n:05d}-of-00004.parquet" for n in range(4)]
    assert len(table(folder / "data")) == 60


def test_negatives_that_are_out_of_date_are_refused(tmp_path):
    out = pairs(tmp_path)
    assert main(["keep", str(out), "--above", "cosine=0.5"]) == 0
    with pytest.raises(JobError, match="mined/ does not fit kept"):
        made(out, tmp_path / "a", "hub")
    assert "negatives" in table(made(out, tmp_path / "b", "hub", negatives=0) / "data")[0]


def test_a_column_of_the_users_called_negatives_is_kept_as_theirs(tmp_path):
    out = pairs(tmp_path, [{**pair(thing, "Cork"), "negatives": "none"} for thing in THINGS], negatives=0)
    row = table(made(out, tmp_path / "hub", "hub") / "data")[0]
    assert (row["input_negatives"], row["negatives"]) == ("none", [])


@pytest.mark.slow
def test_the_hub_layouts_name_their_files(out, tmp_path):
    for to in FORMATS:
        folder = made(out, tmp_path / to, to)
        assert (folder / "TRAIN.md").read_text(encoding="utf-8").startswith("# ")
        assert (folder / "README.md").exists() == registry.find("exports", to.replace("-", "_")).hub
        listed = {*json.loads((folder / "export.json").read_text())["files"]} | {"export.json"}
        assert listed == {*contents(folder)}


def test_a_push_says_why_it_fails(out, tmp_path, monkeypatch):
    with pytest.raises(JobError, match="cannot show"):
        made(out, tmp_path / "a", "beir", push="me/pairs")
    with pytest.raises(JobError, match="owner/name"):
        push(tmp_path, "no name")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "none")
    with pytest.raises((ServerUnavailable, ServerRefused)):
        push(tmp_path, "me/pairs")


def test_the_command_line_says_what_it_made(out, tmp_path, capsys):
    assert main(["export", str(out), "--to", "ms-swift", "-o", str(tmp_path / "x"), "--split", "test=0.3"]) == 0
    said = capsys.readouterr()
    assert "train" in said.out
    assert "how to train on them" in said.out
    assert main(["export", str(out), "--to", "msswift", "-o", str(tmp_path / "y")]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_what_a_pair_of_another_shard_gives_for_the_query_fills_no_row(tmp_path):
    said = [pair("ferry", place) for place in PLACES]
    asked = [{**each, "query": "Which things  were founded?"} for each in (said[0], said[3])]
    asked[1]["query"] = "which things were founded?"
    again = {**said[0], "query": "the ferry of Bergen"}
    out = pairs(tmp_path, [asked[0], *said[:3], asked[1], again, *said[4:]], size=4, negatives=0)
    options = {"negatives": 2, "on_short": "fill"}
    rows = lines(made(out, tmp_path / "two", "flagembedding", **options) / "train/train.jsonl")
    assert [{*row["neg"]} for row in rows if row["pos"] == [said[3]["passage"]]] == [
        {said[4]["passage"], said[5]["passage"]}
    ]
    with_three = lines(
        made(out, tmp_path / "three", "flagembedding", **options | {"negatives": 3}) / "train/train.jsonl"
    )
    assert not [row for row in with_three if row["pos"] == [said[3]["passage"]]]


def test_pairs_without_negatives_do_not_cost_the_others_theirs():
    few = Counts(lengths=Counter({0: 39, 1: 4, 5: 161}))
    assert SentenceTransformers().shape(few, 5) == Shape(5, 5, "drop")
    assert SentenceTransformers().shape(Counts(lengths=Counter({0: 39, 1: 40, 5: 161})), 5) == Shape(1, 1, "drop")


def test_judgements_without_splits_are_called_test_everywhere(out, tmp_path, capsys):
    for to in ("beir", "mteb"):
        page = (made(out, tmp_path / to, to) / "TRAIN.md").read_text(encoding="utf-8")
        assert json.loads(capsys.readouterr().out)["rows"] == {"test": 60}
        assert "Rows: test 60;" in page


@pytest.mark.parametrize("title", ["2026 runs", "a.b-c_d", "données", "数据"])
def test_the_task_for_mteb_has_a_name_that_python_accepts(out, title):
    facts = _facts(out, title=title)
    code = re.search(r"```python\n(.*?)```", Mteb().train(facts), re.DOTALL)
    (task,) = [each for each in ast.parse(code[1]).body if isinstance(each, ast.ClassDef)]
    assert f"[{task.name}()]" in code[1]


def test_a_flag_that_would_do_nothing_is_refused(out, tmp_path):
    for flags in ({"group": "doc"}, {"document": "doc"}):
        with pytest.raises(JobError, match="there is nothing to split"):
            made(out, tmp_path / "x", "hub", **flags)
    with pytest.raises(JobError, match="has no view mild"):
        made(out, tmp_path / "x", "hub", view="mild")


def test_a_view_without_pairs_is_not_blamed_on_the_split(tmp_path):
    rows = [{**pair(thing, "Cork"), "label": 0} for thing in THINGS]
    out = pairs(tmp_path, rows, negatives=0, keep={"label": None, "cosine": {"min": -1}})
    with pytest.raises(JobError, match="kept: 10 of 10 pairs have label 0 or less"):
        made(out, tmp_path / "x", "hub")


def test_tevatrons_model_is_not_given_more_than_it_can_read(out):
    page = Tevatron().train(_facts(out, counts=Counts(passage_bytes=9_000, query_bytes=60)))
    assert "--p_max_len 512" in page


def test_pages_of_what_is_pushed_name_the_hub(out):
    facts = _facts(out, address="owner/name")
    for options in (Hub(), Jsonl(), Mteb()):
        assert "owner/name" in options.train(facts)
        assert "here" not in re.findall(r"['\"](\S+?)['\"]", options.train(facts))


def _facts(out, **own):
    plain = {"title": out.name, "view": "kept", "folder": Path("here"), "address": "here", "instruction": INSTRUCTION}
    plain |= {"seed": 1, "languages": ("en",), "embedder": None, "mined": True}
    plain |= {"counts": Counts(rows={"test": 6}, pairs=6), "shape": Shape()}
    return Facts(**plain | own)


AWKWARD = ['all "in quotes"', "two\nlines", "windows\r\nlines", "a, comma", "=1+1", "«ä» 漢字 🙂", "NA", "007", ""]


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    """Pairs whose columns hold what breaks careless readers of CSV, and what is kept of them."""
    rows = [
        {
            "query": f"{text} is asked",
            "passage": f"passage {n} answers it",
            "note": text,
            "number": None if n == 3 else n,
        }
        for n, text in enumerate(AWKWARD)
    ]
    out = pairs(tmp_path_factory.mktemp("awkward"), rows, negatives=0, scores=[{"use": "near_duplicate"}], keep={})
    return out, pl.read_parquet(f"{out}/kept/*.parquet")


def test_csv_is_read_back_equal(awkward, tmp_path):
    out, kept = awkward
    folder = made(out, tmp_path / "csv", "csv")
    code = re.search(r"```python\n(.*?)```", (folder / "TRAIN.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    read: dict = {}
    exec(code.replace("pairs = pd", "other = pd"), read)  # noqa: S102 - the code that TRAIN.md gives
    plain = kept.with_columns(pl.col(pl.Int32, pl.Int64).cast(pl.Int64))
    assert read["pairs"].equals(plain)
    assert sorted(read["pairs"]["note"]) == sorted(AWKWARD)
    found = pl.from_pandas(read["other"]).with_columns(pl.col("note").fill_null(""))
    assert found.to_dicts() == plain.to_dicts()
    ends = len(AWKWARD) + 1 + 2  # of rows, of the header, and in the texts of one row
    assert (folder / "train.csv").read_bytes().count(b"\r\n") == ends


def test_csv_has_lists_and_records_as_json(out, tmp_path):
    rows = pl.read_csv(made(out, tmp_path / "csv", "csv") / "train.csv", infer_schema=False)
    mined = stored(out, "mined")
    assert rows.height == len(mined)
    for row in rows.to_dicts():
        assert json.loads(row["negatives"]) == mined[row["id"]]["negatives"]


def test_csv_keeps_columns_of_the_data_that_are_named_as_ours(tmp_path):
    rows = [pair(THINGS[0], place) | {"negatives": [f"none of {place}"], "refused": place} for place in PLACES]
    out = pairs(tmp_path, rows, negatives=0)
    read = pl.read_csv(made(out, tmp_path / "csv", "csv") / "train.csv", infer_schema=False)
    assert sorted(read["input_refused"]) == sorted(PLACES)
    assert sorted(map(json.loads, read["input_negatives"])) == sorted([f"none of {place}"] for place in PLACES)


def stored(out, step):
    return {row["id"]: row for row in pl.read_parquet(f"{out}/{step}/*.parquet").to_dicts()}


def test_argilla_has_scores_as_metadata_and_marks_as_suggestions(awkward, tmp_path):
    out, kept = awkward
    first, second = kept["id"][:2]
    folder = OutputFolder.open(out)
    for mark in (Mark(first, "bad", "why?"), Mark(second, "good")):
        add(folder, mark)
    made(out, tmp_path / "argilla", "argilla")
    records = json.loads((tmp_path / "argilla" / "records.json").read_text())
    rows = stored(out, "kept")
    assert {each["id"]: each["fields"] for each in records} == {
        name: {"query": row["query"], "passage": row["passage"]} for name, row in rows.items()
    }
    for each in records:
        numbers = {name: rows[each["id"]][name] for name in ("number", "query_cluster")}
        known = {name: value for name, value in numbers.items() if value is not None}
        assert {name: value for name, value in each["metadata"].items() if name in numbers} == known
    given = {each["id"]: {name: one["value"] for name, one in each["suggestions"].items()} for each in records}
    assert {name: marks for name, marks in given.items() if marks} == {
        first: {"verdict": "bad", "comment": "why?"},
        second: {"verdict": "good"},
    }
