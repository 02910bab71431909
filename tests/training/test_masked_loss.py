"""The masked loss against loops in numpy, against itself in parts, and against the library's own loss without masks."""

import numpy as np
import pytest
import tiny_qwen3

QUERIES = ["how do wings flutter", "why do shells buckle", "heat of a nose cone", "mach number of tunnels"]
PASSAGES = [
    "Flutter is an aeroelastic instability.",
    "Thin shells buckle at low load.",
    "Nose cones get hot on re-entry.",
    "Flutter is an aeroelastic instability.",
]
NEGATIVES = ["Bread is baked in ovens.", "Columns yield.", PASSAGES[2], "Thin shells buckle at low load."]
"""The third pair has none: it repeats its positive. The last one is another pair's positive."""


def unit(row):
    return row / np.linalg.norm(row)


def by_hand(queries, documents, same, temperature, margin):
    """The loss and its gradients, term by term, from the formula of the report."""
    n, texts = len(queries), [*queries, *(row for column in documents for row in column)]
    padding = {j for j in range(n, len(texts) - n) if same[j % n, j]}
    gradients = np.zeros_like(texts)
    total = 0.0
    for i in range(n):
        own = unit(texts[i]) @ unit(texts[n + i])
        near = np.inf if margin is None else own + margin
        terms = [(i, n + i)]
        for j in range(len(texts) - n):
            if same[i, j] or j in padding:
                continue
            if unit(texts[i]) @ unit(texts[n + j]) <= near:
                terms.append((i, n + j))
            if margin is not None and j % n != i and unit(texts[n + i]) @ unit(texts[n + j]) <= near:
                terms.append((n + i, n + j))
        if margin is not None:
            terms += [(i, j) for j in range(n) if j != i and unit(texts[i]) @ unit(texts[j]) <= near]
        weights = np.exp([unit(texts[a]) @ unit(texts[b]) / temperature for a, b in terms])
        weights /= weights.sum()
        total -= np.log(weights[0])
        weights[0] -= 1
        for weight, (a, b) in zip(weights / temperature / n, terms, strict=True):
            cosine = unit(texts[a]) @ unit(texts[b])
            gradients[a] += weight * (unit(texts[b]) - cosine * unit(texts[a])) / np.linalg.norm(texts[a])
            gradients[b] += weight * (unit(texts[a]) - cosine * unit(texts[b])) / np.linalg.norm(texts[b])
    return total / n, gradients


@pytest.mark.parametrize("seed", range(200))
def test_loss_and_gradients_are_those_of_loops_in_numpy(seed):
    import torch

    from synth.training.masked_loss import masked_info_nce

    draw = np.random.default_rng(seed)
    n, columns, width = draw.integers(2, 7), draw.integers(1, 5), 5
    queries = draw.normal(size=(n, width))
    documents = [draw.normal(size=(n, width)) for _ in range(columns)]
    documents[0] += queries * draw.choice([0.0, 1.0, 3.0])
    same = np.tile(np.eye(n, dtype=bool), columns)
    same[:, n:] = False
    if seed % 2:  # two queries with one passage
        documents[0][1] = documents[0][0]
        same[0, 1] = same[1, 0] = True
    if columns > 1 and seed % 3 == 0:  # the last query has no negative in this column
        documents[1][n - 1] = documents[0][n - 1]
        same[:, 2 * n - 1] = same[:, n - 1]
    if columns > 2 and seed % 5 == 0:  # a negative of the last query is the passage of the first
        documents[2][n - 1] = documents[0][0]
        same[:, 3 * n - 1] = same[:, 0]
    temperature, margin = draw.choice([0.02, 0.05, 0.3]), draw.choice([None, 0.0, 0.1, 0.3])
    leaves = [torch.tensor(each, requires_grad=True) for each in (queries, *documents)]
    loss = masked_info_nce(leaves[0], leaves[1:], torch.tensor(same), temperature=temperature, margin=margin)
    loss.backward()
    expected, gradients = by_hand(queries, documents, same, temperature, margin)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert np.abs(torch.cat([each.grad for each in leaves]).numpy() - gradients).max() < 1e-8


def test_half_precision_outside_changes_nothing_inside():
    import torch

    from synth.training.masked_loss import masked_info_nce

    draw = torch.Generator().manual_seed(0)
    queries, passages = (torch.randn(16, 8, generator=draw) for _ in range(2))
    same = torch.eye(16, dtype=torch.bool)
    plain = masked_info_nce(queries, [passages], same, temperature=0.01, margin=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert masked_info_nce(queries, [passages], same, temperature=0.01, margin=0.1) == plain


@pytest.fixture(scope="module", name="model")
def tiny_model(tmp_path_factory):
    folder = tiny_qwen3.write(tmp_path_factory.mktemp("tiny"), QUERIES + PASSAGES)
    return tiny_qwen3.load(folder).double().eval()


def computed(model, loss, *columns):
    import torch

    model.zero_grad()
    value = loss([model.preprocess(texts) for texts in columns], None)
    value.backward()
    return value.item(), torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


@pytest.mark.parametrize("dims", [None, [128, 64, 32]], ids=["one width", "matryoshka"])
def test_in_parts_it_is_the_same(model, dims):
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    from synth.training.masked_loss import MaskedLoss

    def wrapped(loss):
        return MatryoshkaLoss(model, loss, dims) if dims else loss

    whole = computed(model, wrapped(MaskedLoss(model, 0.05, 0.1)), QUERIES, PASSAGES, NEGATIVES)
    parts = computed(model, wrapped(MaskedLoss(model, 0.05, 0.1, 2)), QUERIES, PASSAGES, NEGATIVES)
    assert parts[0] == pytest.approx(whole[0], rel=1e-10)
    assert (parts[1] - whole[1]).abs().max() < 1e-8


@pytest.mark.parametrize(
    ("margin", "directions"),
    [(None, ("query_to_doc",)), (9.0, ("query_to_doc", "query_to_query", "doc_to_doc"))],
    ids=["plain", "masked by nothing"],
)
def test_without_masks_it_is_the_librarys_loss(model, margin, directions):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from synth.training.masked_loss import MaskedLoss

    columns = (QUERIES, [*PASSAGES[:3], "Slotted walls avoid choking."], ["Cats purr.", "Bread.", "Rain.", "Columns."])
    ours = computed(model, MaskedLoss(model, 0.05, margin), *columns)
    theirs = computed(model, MultipleNegativesRankingLoss(model, scale=20, directions=directions), *columns)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert (ours[1] - theirs[1]).abs().max() < 1e-5
