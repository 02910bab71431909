"""A scorer of the user's own: a short class from public names, treated like any other."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synth.cli import main
from synth.scores import PairBatch, ScoreColumn

OWN = '''
import pyarrow as pa
from synth.scores import ScoreColumn, Scorer

class ExcessWords(Scorer):
    """Words of the query beyond `most`."""

    outputs = (
        ScoreColumn("excess_words", pa.int64(), low=0, better="low"),
        ScoreColumn("excess_group", pa.int64(), better=None),
    )
    most: int = 3

    async def score(self, batch, services):
        excess = [max(0, len(query.split()) - self.most) for query in batch.texts("query")]
        return self.table(excess, [number % 2 for number in excess])
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "own_scorer.py").write_text(OWN)
    lines = [{"query": " ".join(["word"] * n), "passage": f"passage {n}", "good": n < 5} for n in range(1, 9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["filter", "pairs.jsonl", "-o", "out", "--max", "excess_words=2"]
    assert main([*words, "-s", "scores=[{use: 'own_scorer:ExcessWords'}, {use: length}]"]) == 0
    return tmp_path


def test_it_takes_less_than_twenty_lines(place):
    assert len(OWN.strip().splitlines()) < 20
    kept = pq.read_table(place / "out" / "kept")
    assert kept["excess_words"].to_pylist() == [0, 0, 0, 1, 2]


def test_its_folder_has_the_name_by_which_messages_call_it(place):
    (folder,) = (place / "out" / "scores").glob("excesswords-*")
    from own_scorer import ExcessWords

    assert folder.name.rpartition("-")[0] == ExcessWords().name


@pytest.mark.usefixtures("place")
def test_sweep_knows_from_its_columns_which_values_are_the_good_ones(capsys):
    capsys.readouterr()
    assert main(["sweep", "out", "--score", "excess_words", "--label-column", "good", "--at", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lower_is_better"] is True
    assert set(found["auc"]) == {"excess_words", "length_error"}, "neither lengths nor groups are measures"
    assert found["auc"]["excess_words"] > 0.8
    assert found["cuts"][0]["kept"] == 4


def test_a_column_is_a_float_of_which_more_is_better_where_nothing_is_stated():
    column = ScoreColumn("one")
    assert (str(column.type), column.better) == ("double", "high")


def test_scorers_of_a_shard_share_the_lists_of_its_columns():
    batch = PairBatch(pa.table({"query": ["q", "r"], "passage": ["p", "p"]}))
    assert batch.texts("query") is batch.values("query")
    assert batch.documents == ("p",)
