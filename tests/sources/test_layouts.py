"""Folders as corpus and as pairs: which of their files are read, and what is said of the others."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

import catalogue
import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synth.cli import main
from synth.errors import InputError, JobError, SystemFault
from synth.sources import (
    Corpus,
    PairData,
    ReadLimits,
    RejectedRow,
    inspect,
    inspect_pairs,
    pairs_schema,
    read_pairs,
    read_passages,
)

LIMITS = ReadLimits()
PAIRS = [(f"who keeps lighthouse {n}?", f"The lighthouse number {n} is kept by nobody any more.") for n in range(4)]


def rows(*numbers):
    return [dict(zip(("query", "passage"), PAIRS[n], strict=True)) for n in numbers]


def passages_of(path, folder):
    corpora = [Corpus(path=path, language="en")]
    return list(read_passages(corpora, inspect(corpora, folder, LIMITS), LIMITS))


def write(path, found=None, *, text=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is not None:
        path.write_text(text, encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(found), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


class Found:
    """What the folder gives as a corpus and as pairs, and what is said."""

    def __init__(self, folder, **corpus):
        self.said, limits = [], LIMITS
        corpora = [Corpus(path=str(folder), language="en", **corpus)]
        files = inspect(corpora, folder, limits, notify=self.said.append)
        outcomes = [each for block in read_passages(corpora, files, limits) for each in block.outcomes]
        assert not [each for each in outcomes if isinstance(each, RejectedRow) and each.reason != "duplicate"]
        self.passages = sorted(each.text for each in outcomes if not isinstance(each, RejectedRow))
        self.pairs, self.own, self.sets = pairs_of(folder, self.said.append)


def pairs_of(folder, notify=None):
    data = [PairData(path=str(folder), query_language="en", passage_language="en")]
    sets = inspect_pairs(data, folder, LIMITS, notify=notify)
    blocks = list(read_pairs(sets, pairs_schema(sets, LIMITS), LIMITS))
    outcomes = [each for block in blocks for each in block.outcomes]
    assert not [each for each in outcomes if isinstance(each, RejectedRow)]
    own = [row for block in blocks for row in block.carried.to_pylist()]
    return sorted((each.query, each.passage) for each in outcomes), own, sets


def holds(folder, *, unread=(), numbers=range(4)):
    """Both readings give these pairs, and the only files left out are those."""
    found = Found(folder)
    assert found.pairs == sorted(PAIRS[n] for n in numbers)
    assert found.passages == sorted(PAIRS[n][1] for n in numbers)
    for line in found.said:
        assert all(name in line for name in unread)
    assert len(found.said) == (2 if unread else 0)
    return found


def test_a_clone_of_a_hub_data_set_is_its_data_and_not_its_readme(tmp_path):
    write(tmp_path / "README.md", text="---\nlicense: mit\n---\n# A card, which is long enough for a passage\n")
    write(tmp_path / "data" / "train-00000-of-00001.parquet", rows(0, 1))
    write(tmp_path / "data" / "test-00000-of-00001.parquet", rows(2, 3))
    write(tmp_path / "notes.md", text="Notes on how this data set was made, which are no passage.")
    write(tmp_path / ".git" / "x.parquet", rows(0))
    found = holds(tmp_path, unread=["README.md", "notes.md"])
    assert "reads 2 of 4 files" in found.said[0]


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "main/train.parquet"])
def test_a_hub_data_set_without_a_data_folder(tmp_path, name):
    write(tmp_path / "README.md", text="# A readme that is long enough for a passage")
    write(tmp_path / "LICENSE.txt", text="All of this is free, and this sentence is long.")
    write(tmp_path / "dataset_infos.json", text="{}")
    path = tmp_path / name
    if path.suffix == ".csv":
        pl.DataFrame(rows(*range(4))).write_csv(path)
    else:
        write(path, rows(*range(4)))
    holds(tmp_path, unread=["README.md", "LICENSE.txt", "dataset_infos.json"])


def test_a_clone_is_its_data_whatever_pages_it_has(tmp_path):
    write(tmp_path / ".gitattributes", text="*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    write(tmp_path / "docs" / "guidelines.md", text="Guidelines for annotators, which are not a passage.")
    write(tmp_path / "train.jsonl", rows(*range(4)))
    holds(tmp_path, unread=["docs/guidelines.md"])


def test_pages_beside_files_that_cannot_be_read_are_not_a_corpus(tmp_path):
    write(tmp_path / "README.md", text="# A readme that is long enough for a passage")
    write(tmp_path / "data.zip", text="PK")
    with pytest.raises(JobError, match=r"no \.txt, \.md or data file") as caught:
        inspect([Corpus(path=str(tmp_path))], tmp_path, LIMITS)
    assert "a README or LICENSE is not counted" in caught.value.hint


CARDS = {
    "text": "data_files: 'parts/*.jsonl'",
    "list": "data_files: [parts/a.jsonl, parts/b.jsonl]",
    "splits": "data_files: [{split: train, path: parts/a.jsonl}, {split: test, path: [parts/b.*]}]",
    "mapping": "data_files: {train: parts/a.jsonl, test: parts/b.jsonl}",
    "folder": "data_dir: parts",
}


@pytest.mark.parametrize("name", CARDS)
def test_the_default_configuration_of_a_card_is_read(tmp_path, name):
    other = "- config_name: other\n  data_files: more/*.jsonl\n"
    card = f"---\nconfigs:\n{other}- config_name: main\n  default: true\n  {CARDS[name]}\n---\n# Card\n"
    write(tmp_path / "README.md", text=card)
    write(tmp_path / "parts" / "a.jsonl", rows(0, 1))
    write(tmp_path / "parts" / "b.jsonl", rows(2, 3))
    write(tmp_path / "more" / "c.jsonl", [{"x": 1}])
    holds(tmp_path, unread=["README.md", "more/c.jsonl"])


@pytest.mark.parametrize(
    ("configs", "error", "said"),
    [
        ("[{config_name: a}, {config_name: b}]", JobError, "the configurations a, b, and no default"),
        ("[{config_name: a, data_files: 'x/*'}]", InputError, r"no file is called x/\*"),
        ("[{config_name: a, data_files: '../*'}]", InputError, "no file is called"),
        ("[{config_name: a, data_files: /etc/passwd}]", InputError, "no file is called"),
        ("[{config_name: a, data_files: 'a: b: c'", InputError, "is not YAML"),
    ],
)
def test_a_card_that_leads_nowhere_is_an_error(tmp_path, configs, error, said):
    write(tmp_path / "in" / "README.md", text=f"---\nconfigs: {configs}\n---\n")
    write(tmp_path / "in" / "a.jsonl", rows(0))
    write(tmp_path / "b.jsonl", rows(1))
    for pairs in (False, True):
        with pytest.raises(error, match=said):
            pairs_of(tmp_path / "in") if pairs else inspect([Corpus(path=str(tmp_path / "in"))], tmp_path, LIMITS)


def test_what_datasets_saved_to_disk(tmp_path):
    whole = datasets.Dataset.from_list([row | {"n": n} for n, row in enumerate(rows(*range(4)))])
    whole.save_to_disk(tmp_path / "one", num_shards=2)
    found = holds(tmp_path / "one", unread=["dataset_info.json", "state.json"])
    assert [row["n"] for row in found.own] == [0, 1, 2, 3]
    whole.select([3, 1]).save_to_disk(tmp_path / "some")
    holds(tmp_path / "some", numbers=[1, 3], unread=["state.json"])
    split = datasets.DatasetDict({"train": whole.select([0, 1, 2]), "test": whole.select([3])})
    split.save_to_disk(tmp_path / "all")
    holds(tmp_path / "all", unread=["dataset_dict.json", "test/dataset_info.json"])


def test_arrow_files_in_both_formats(tmp_path):
    table = pl.DataFrame(rows(*range(4)))
    table.write_ipc(tmp_path / "a.arrow", compression="zstd")
    table.write_ipc_stream(tmp_path / "b.arrow")
    assert pairs_of(tmp_path / "a.arrow")[0] == pairs_of(tmp_path / "b.arrow")[0] == PAIRS
    for name in ("a.arrow", "b.arrow"):
        whole = (tmp_path / name).read_bytes()
        for content in (whole[:-100], b"nothing of the kind", whole[:40] + bytes(200) + whole[240:]):
            (tmp_path / "cut.arrow").write_bytes(content)
            with pytest.raises(InputError, match=r"cut\.arrow"):
                pairs_of(tmp_path / "cut.arrow")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_names_of_columns_that_are_not_utf8_are_damage(tmp_path, name):
    found = pl.DataFrame([{"text": PAIRS[0][1], "wxyz": 1}])
    found.write_parquet(tmp_path / name) if name.endswith("parquet") else found.write_ipc(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"wxyz", b"wx\xffz"))
    with pytest.raises(InputError, match=name):
        passages_of(name, tmp_path)


def test_offsets_that_lead_outside_of_an_arrow_file_are_damage(tmp_path):
    text = PAIRS[0][1]
    for column in (pa.array([text]), pa.array([[text]])):
        batch = pa.record_batch({"text": column})
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
            writer.write_batch(batch)
        whole = (tmp_path / "a.arrow").read_bytes()
        end = whole.rindex(struct.pack("<ii", 0, len(text))) + 4
        (tmp_path / "a.arrow").write_bytes(whole[:end] + struct.pack("<i", -9) + whole[end + 4 :])
        with pytest.raises(InputError, match=r"a\.arrow"):
            inspect([Corpus(path="a.arrow")], tmp_path, LIMITS)


def test_beir_and_mteb_folders_are_a_corpus_too(tmp_path):
    corpus = [{"_id": f"d{n}", "title": "", "text": PAIRS[n][1]} for n in range(4)]
    queries = [{"_id": f"q{n}", "text": PAIRS[n][0]} for n in range(4)]
    judged = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(4)]
    beir, mteb = tmp_path / "beir", tmp_path / "mteb"
    write(beir / "corpus.jsonl", corpus)
    write(beir / "queries.jsonl", queries)
    write(beir / "qrels" / "test.tsv", text="query-id\tcorpus-id\tscore\n")
    with (beir / "qrels" / "test.tsv").open("a") as file:
        file.writelines(f"q{n}\td{n}\t1\n" for n in range(4))
    for part, found in {"corpus": corpus, "queries": queries}.items():
        write(mteb / part / f"{part}-00000-of-00001.parquet", found)
    write(mteb / "data" / "test-00000-of-00001.parquet", judged)
    write(mteb / "README.md", text="---\nconfigs: [{config_name: corpus, data_files: 'corpus/*'}]\n---\n")
    for folder in (beir, mteb):
        found = Found(folder)
        assert found.pairs == PAIRS
        assert found.passages == sorted(each for _, each in PAIRS)
        assert {row["split"] for row in found.own} == {"test"}
    assert "queries" in found.said[0]
    assert "README.md" in found.said[1]


def test_a_folder_of_texts_stays_one_and_says_what_it_leaves_out(tmp_path):
    write(tmp_path / "README.md", text=PAIRS[0][1])
    write(tmp_path / "a" / "b.txt", text=PAIRS[1][1])
    write(tmp_path / "index.csv", text="a,b\n")
    (tmp_path / "elsewhere").symlink_to(tmp_path.parent)
    said = []
    files = inspect([Corpus(path=str(tmp_path))], tmp_path, LIMITS, notify=said.append)
    assert [each.relative for each in files] == ["README.md", "a/b.txt"]
    assert said == [f"{tmp_path}: reads 2 of 4 files; not elsewhere, index.csv"]


def test_the_pages_of_a_site_stay_a_folder_of_texts(tmp_path):
    write(tmp_path / "README.md", text=PAIRS[0][1])
    write(tmp_path / "pages" / "a.md", text=PAIRS[1][1])
    write(tmp_path / "data" / "menu.json", text="[]")
    files = inspect([Corpus(path=str(tmp_path))], tmp_path, LIMITS)
    assert [each.relative for each in files] == ["README.md", "pages/a.md"]


def test_a_pointer_of_git_lfs_is_no_data(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n"
    for name in ("a.parquet", "a.jsonl", "a.csv", "a.txt", "a.arrow"):
        write(tmp_path / name, text=pointer)
        with pytest.raises(InputError, match=f"{name}: a pointer of Git LFS") as caught:
            inspect([Corpus(path=name)], tmp_path, LIMITS)
        assert caught.value.hint == "Fetch it: git lfs pull"


@contextmanager
def ordinary_user():
    """As root nothing is forbidden."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("path", "named"),
    [("", "secret"), ("**/*.txt", "secret"), ("*/*.txt", "secret"), ("secret", "secret"), ("secret/b.txt", "secret")],
)
def test_a_folder_that_cannot_be_read_is_a_fault_and_not_left_out(path, named):
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        tree.chmod(0o755)
        for name in ("a.txt", "open/a.txt", "secret/b.txt"):
            write(tree / name, text=PAIRS[0][1])
        inspect([Corpus(path=str(tree / path))], tree, LIMITS)
        (tree / "secret").chmod(0)
        try:
            with ordinary_user(), pytest.raises(SystemFault, match=named):
                inspect([Corpus(path=str(tree / path))], tree, LIMITS)
        finally:
            (tree / "secret").chmod(0o755)


@pytest.mark.parametrize("command", ["run", "check", "preview"])
def test_every_command_says_what_it_leaves_out(tmp_path, capsys, command):
    write(tmp_path / "in" / "README.md", text="# A readme that is long enough for a passage")
    write(tmp_path / "in" / "data" / "train.jsonl", rows(0, 1))
    job = catalogue.job(tmp_path) | {"corpus": {"path": str(tmp_path / "in"), "language": "en"}}
    write(tmp_path / "job.yaml", text=json.dumps(job))
    out = ["-o", str(tmp_path / "out")] if command == "run" else []
    assert main([command, str(tmp_path / "job.yaml"), *out]) == 0, capsys.readouterr()
    assert "reads 1 of 2 files; not README.md" in " ".join("".join(capsys.readouterr()).split())
