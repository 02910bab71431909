from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from synth.errors import JobError
from synth.registry import find
from synth.rules import Rules

NAN = float("nan")


def scorer(name, **options):
    return find("scores", name).model_validate(options)


def rules(keep, scorers=None):
    parsed, problems = Rules.parse(keep, scorers)
    assert problems == []
    return parsed


def table(**columns):
    return pa.table(columns)


def kept(keep, **columns):
    return rules(keep).apply(table(**columns)).kept.tolist()


COSINES = [0.0, 0.5, 0.7, 0.9]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"above": 0.7}, [False, False, False, True]),
        ({"min": 0.7}, [False, False, True, True]),
        ({"below": 0.7}, [True, True, False, False]),
        ({"max": 0.7}, [True, True, True, False]),
        ({"above": 0}, [False, True, True, True]),
        ({"max": 0.0}, [True, False, False, False]),
        ({"min": 0.5, "below": 0.9}, [False, True, True, False]),
        ({"above": -1, "max": 1}, [True, True, True, True]),
        ({"is": 0.5}, [False, True, False, False]),
        ({"in": [0.5, 0.9]}, [False, True, False, True]),
    ],
)
def test_operators(rule, expected):
    assert kept({"cosine": rule}, cosine=COSINES) == expected


@pytest.mark.parametrize(
    ("keep", "columns", "expected"),
    [
        ({"language_ok": True}, {"language_ok": [True, False, None]}, [True, False, True]),
        (
            {"language_ok": {"is": True, "missing": "reject"}},
            {"language_ok": [True, False, None]},
            [True, False, False],
        ),
        ({"length_error": {"max": 0.5}}, {"length_error": [0.5, 0.6, None]}, [True, False, True]),
        ({"copied_share": {"max": 0.8}}, {"copied_share": [0.8, 1.0, None]}, [True, False, True]),
        ({"cosine": {"above": 0.7}}, {"cosine": [0.8, None, NAN]}, [True, False, False]),
        ({"cosine": {"above": 0.7, "missing": "keep"}}, {"cosine": [0.6, None, NAN]}, [False, True, True]),
        (
            {"difficulty": {"in": ["phd", "university"]}},
            {"difficulty": ["phd", "high_school", None]},
            [True, False, False],
        ),
        ({"query_language": {"is": "English"}}, {"query_language": ["en", "de", "en"]}, [True, False, True]),
        ({"query_language": {"in": ["German", "und"]}}, {"query_language": ["en", "de", "und"]}, [False, True, True]),
        ({"stars": {"is": 5}}, {"stars": pa.array([5, 4, None])}, [True, False, False]),
        ({"cosine": {"min": 0}}, {"cosine": pa.nulls(2)}, [False, False]),
        ({"difficulty": {"is": "phd"}}, {"difficulty": pa.array(["phd", "x"]).dictionary_encode()}, [True, False]),
        ({}, {"cosine": [0.1, None]}, [True, True]),
    ],
)
def test_values_and_nulls(keep, columns, expected):
    assert kept(keep, **columns) == expected


GROUPED = {"by": "query_language", "German": 0.62, "zh_Hans": 0.45, "default": 0.7}
NESTED = {
    "by": ["passage_language", "query_language"],
    "zh-Hans": {"en": 0.45, "default": 0.5},
    "de": 0.6,
    "default": 0.7,
}


@pytest.mark.parametrize(
    ("limit", "columns", "expected"),
    [
        (GROUPED, {"query_language": ["de", "zh-Hans", "en", None]}, [True, True, False, False]),
        (
            NESTED,
            {"passage_language": ["zh-Hans", "zh-Hans", "de", "en"], "query_language": ["en", "de", "en", "en"]},
            [True, True, True, False],
        ),
        ({"by": "flag", True: 0.9, False: 0.1}, {"flag": [True, False, True, False]}, [False, True, False, True]),
        ({"by": "tier", "1": 0.9, "2": 0.1}, {"tier": [1, 2, 2, 1]}, [False, True, True, False]),
    ],
)
def test_thresholds_by_group(limit, columns, expected):
    assert kept({"cosine": {"above": limit}}, cosine=[0.65] * 4, **columns) == expected


@pytest.mark.parametrize(("inner", "outer", "expected"), [(0.5, 0.7, [False, True]), (0.7, 0.5, [True, False])])
def test_the_nearest_default_counts(inner, outer, expected):
    limit = {"by": ["a", "b"], "x": {"y": 0.99, "default": inner}, "default": outer}
    assert kept({"cosine": {"above": limit}}, cosine=[0.6, 0.6], a=["w", "x"], b=["q", "q"]) == expected


def test_a_group_without_threshold_is_named():
    wanted = rules({"cosine": {"above": {"by": ["passage_language", "query_language"], "de": {"en": 0.5}}}})
    rows = table(cosine=[0.6, 0.6], passage_language=["de", "de"], query_language=["en", "fr"])
    with pytest.raises(JobError, match="passage_language de, query_language fr"):
        wanted.apply(rows)


@pytest.mark.parametrize(
    ("keep", "path", "says"),
    [
        (0.7, (), "For example"),
        ({"cosine": 0.7}, ("cosine",), "above: 0.7"),
        ({"cosine": "0.7"}, ("cosine",), "no comparison"),
        ({"difficulty": ["phd"]}, ("difficulty",), "in:"),
        ({"cosine": None}, ("cosine",), "above"),
        ({"cosine": {}}, ("cosine",), "has no comparison"),
        ({"cosine": {"missing": "keep"}}, ("cosine",), "has no comparison"),
        ({"cosine": {"abov": 0.7}}, ("cosine", "abov"), "Did you mean above?"),
        ({"cosine": {"above": "0.7"}}, ("cosine", "above"), "a number"),
        ({"cosine": {"above": True}}, ("cosine", "above"), "a number"),
        ({"cosine": {"above": NAN}}, ("cosine", "above"), "finite"),
        ({"cosine": {"above": math.inf}}, ("cosine", "above"), "finite"),
        ({"cosine": {"above": 1.2}}, ("cosine", "above"), "-1 to 1"),
        ({"cosine": {"min": -1.5}}, ("cosine", "min"), "-1 to 1"),
        ({"copied_share": {"max": 80}}, ("copied_share", "max"), "0 to 1"),
        ({"length_error": {"max": -0.5}}, ("length_error", "max"), "outside"),
        ({"cosine": {"above": 0.7, "below": 0.5}}, ("cosine",), "nothing is above 0.7 and below 0.5"),
        ({"cosine": {"above": 0.7, "max": 0.7}}, ("cosine",), "nothing is"),
        ({"cosine": {"above": 0.7, "missing": "maybe"}}, ("cosine", "missing"), "keep or reject"),
        ({"cosine": {"above": {"de": 0.6}}}, ("cosine", "above"), "need `by`"),
        ({"cosine": {"above": {"by": "query_language"}}}, ("cosine", "above"), "neither a group nor a default"),
        ({"cosine": {"above": {"by": "query_language", "xq": 0.6}}}, ("cosine", "above", "xq"), "unknown language"),
        ({"cosine": {"above": {"by": "query_language", False: 0.6}}}, ("cosine", "above", "False"), "not a language"),
        ({"cosine": {"above": {"by": "query_language", "False": 0.6}}}, ("cosine", "above", "False"), "unknown"),
        ({"cosine": {"above": {"by": "query_language", "de": 2}}}, ("cosine", "above", "de"), "-1 to 1"),
        (
            {"cosine": {"above": {"by": "query_language", "de": 0.5, "German": 0.6}}},
            ("cosine", "above", "German"),
            "twice",
        ),
        ({"cosine": {"above": {"by": "a", "x": {"y": 0.5}}}}, ("cosine", "above", "x"), "deeper"),
        ({"language_ok": {"is": None}}, ("language_ok", "is"), "missing"),
        ({"difficulty": {"in": []}}, ("difficulty", "in"), "a list"),
        ({"difficulty": {"in": ["phd", 3]}}, ("difficulty", "in"), "mixes"),
        ({"query_language": {"is": "Germn"}}, ("query_language", "is"), "unknown language"),
        ({"unique": {"by": "cluster"}}, ("unique",), "`by` and `best`"),
    ],
)
def test_each_mistake_has_its_path_and_cure(keep, path, says):
    parsed, (problem,) = Rules.parse(keep, None)
    assert parsed is None
    assert problem.path == path
    assert says in f"{problem.message} {problem.cure}"


def test_all_mistakes_come_at_once():
    _, problems = Rules.parse({"cosine": 0.7, "copied_share": {"max": 2}, "length_error": {"most": 1}}, None)
    assert [problem.path[0] for problem in problems] == ["cosine", "copied_share", "length_error"]


def test_without_keep_a_cosine_must_be_above_seven_tenths():
    scorers = [scorer("language"), scorer("cosine")]
    assert rules(None, scorers).canonical() == {"cosine": {"above": 0.7, "missing": "reject"}}
    assert rules(None, [scorer("cosine", **{"as": "mini"})]).columns() == {"mini"}
    assert rules(None, [scorer("language")]).columns() == set()
    assert rules({}, scorers).describe() == "every pair"


def test_a_renamed_scorer_keeps_its_limits_and_its_treatment_of_nulls():
    scorers = [scorer("cosine", **{"as": "mini"}), scorer("language", **{"as": "other"})]
    _, (problem,) = Rules.parse({"mini": {"above": 2}}, scorers)
    assert "-1 to 1" in problem.message
    verdict = rules({"other_ok": True}, scorers).apply(table(other_ok=pa.array([None, False])))
    assert verdict.kept.tolist() == [True, False]


def test_a_column_of_a_scorer_that_the_job_lacks_names_the_scorer():
    _, (problem,) = Rules.parse({"copied_share": {"max": 0.8}}, [scorer("cosine")])
    assert problem.path == ("copied_share",)
    assert "use: copying" in problem.cure
    with pytest.raises(JobError, match="use: copying"):
        rules({"copied_share": {"max": 0.8}}).apply(table(cosine=[0.5]))
    with pytest.raises(JobError, match="Did you mean cosine"):
        rules({"cosin": {"max": 0.8}}).apply(table(cosine=[0.5]))


@pytest.mark.parametrize(
    ("keep", "columns"),
    [
        ({"cosine": {"above": 0.7}}, {"cosine": ["high"]}),
        ({"cosine": {"above": 0.7}}, {"cosine": [True]}),
        ({"stars": {"is": "five"}}, {"stars": [5]}),
    ],
)
def test_a_column_of_the_wrong_type_is_refused(keep, columns):
    with pytest.raises(JobError, match=r"keep: \w+"):
        rules(keep).apply(table(**columns))


def test_the_verdict_tells_all_failed_rules():
    verdict = rules({"cosine": {"above": 0.7}, "language_ok": True, "length_error": {"max": 0.5}}).apply(
        table(cosine=[0.9, 0.5, None, 0.9], language_ok=[True, False, False, True], length_error=[0.0, 2.0, 0.0, 0.75])
    )
    assert verdict.failed.to_pylist() == [
        [],
        ["cosine above 0.7", "language_ok is true", "length_error at most 0.5"],
        ["cosine missing", "language_ok is true"],
        ["length_error at most 0.5"],
    ]


@pytest.mark.parametrize(
    ("keep", "cluster", "cosine", "expected"),
    [
        ({}, [1, 1, 2, 2], [0.8, 0.9, 0.7, 0.7], [False, True, True, False]),
        ({}, [None, None, 2, 2], [0.8, 0.9, 0.1, 0.2], [True, True, False, True]),
        ({"cosine": {"max": 0.85}}, [1, 1, 1, 1], [0.8, 0.9, 0.81, 0.7], [False, False, True, False]),
        ({}, [1, 1, 1, 1], [None, 0.1, None, NAN], [False, True, False, False]),
        ({}, ["b", "a", "b", "a"], [0.5, 0.5, 0.5, 0.6], [True, False, False, True]),
    ],
)
def test_unique_keeps_the_best_of_each_cluster_among_rows_that_passed(keep, cluster, cosine, expected):
    keep = {"unique": {"by": "query_cluster", "best": "cosine"}, **keep}
    assert kept(keep, query_cluster=cluster, cosine=pa.array(cosine, pa.float64())) == expected


def test_unique_over_several_columns_and_no_row():
    keep = {"unique": {"by": ["a", "b"], "best": "cosine"}}
    assert kept(keep, a=[1, 1, 2, 1], b=["x", "y", "x", "x"], cosine=[0.1, 0.2, 0.3, 0.4]) == [False, True, True, True]
    empty = table(a=pa.array([], pa.int64()), b=pa.array([], pa.string()), cosine=pa.array([], pa.float64()))
    verdict = rules({**keep, "cosine": {"above": {"by": "b", "x": 0.5}}}).apply(empty)
    assert (verdict.kept.tolist(), verdict.failed.to_pylist()) == ([], [])


@pytest.mark.parametrize(
    "keep",
    [
        {},
        {"cosine": {"above": 0.7}, "language_ok": True, "length_error": {"max": 1, "missing": "reject"}},
        {"cosine": {"above": GROUPED}},
        {"cosine": {"min": NESTED}, "difficulty": {"in": ["phd"]}, "unique": {"by": "c", "best": "cosine"}},
    ],
)
def test_the_canonical_form_is_json_and_reads_back_as_the_same_rules(keep):
    parsed = rules(keep)
    assert rules(json.loads(json.dumps(parsed.canonical()))) == parsed
    assert hash(parsed) == hash(rules(keep))


def test_rules_name_their_columns_and_describe_themselves():
    parsed = rules(
        {"cosine": {"above": GROUPED}, "length_error": {"max": 0.5}, "unique": {"by": "c", "best": "copied_share"}}
    )
    assert parsed.columns() == {"cosine", "query_language", "length_error", "c", "copied_share"}
    assert "length_error at most 0.5" in parsed.describe()
    assert "\n" not in parsed.describe()


def test_one_column_of_the_rules_can_be_held_against_other_values():
    parsed = rules({"cosine": {"above": GROUPED}, "language_ok": True, "unique": {"by": "c", "best": "cosine"}})
    part = parsed.only({"cosine"})
    assert part.columns() == {"cosine", "query_language"}
    assert part.share(table(cosine=[0.65, 0.65, None, 0.1], query_language=["de", "en", "de", "de"])) == 0.25
    assert part.share(table(cosine=pa.array([], pa.float64()), query_language=pa.array([], pa.string()))) is None
    assert parsed.only({"copied_share"}).share(table(copied_share=[0.1])) == 1.0


def test_chunked_tables_are_judged_row_by_row():
    one = table(cosine=[0.6, 0.8], query_language=["de", "en"])
    two = table(cosine=[0.65, 0.1], query_language=["en", "de"])
    verdict = rules({"cosine": {"above": GROUPED}}).apply(pa.concat_tables([one, two, one]))
    np.testing.assert_array_equal(verdict.kept, [False, True, False, False, False, True])
