"""Recall@K, MAP@R, R-precision, NMI: worked numbers, plain loops, an oracle, several ranks."""

from types import SimpleNamespace

import pytest
import torch

import recipes.services.neighbors
from foundation.errors import UserError
from recipes.evaluation.retrieval import Retrieval, relevance, retrieval_scores
from recipes.services.clustering import kmeans, normalized_mutual_information
from recipes.services.neighbors import largest, nearest, ranked, ranking_keys
from recipes.step import Output
from tests.support.processes import on_two_ranks

ANGLES = torch.deg2rad(torch.tensor([0.0, 20, 70, 50, 110, 160]))
X, Y = torch.stack([ANGLES.cos(), ANGLES.sin()], 1), torch.tensor([0, 0, 0, 1, 1, 2])


def saying(output):
    """What a probe asks of a recipe, with this output for a view."""
    network = SimpleNamespace(embed=lambda view: view)
    return SimpleNamespace(
        reported=lambda: network, predict_output=lambda view, index: output(view)
    )


def measured(x, labels, order=None, size=7, **settings):
    """The probe fed with batches of `size`, in an order that need not be that of the index."""
    probe = Retrieval(**settings)
    order = torch.arange(len(x)) if order is None else order
    for rows in order.split(size):
        network = saying(lambda view: Output(torch.zeros(len(view), 1), {"embedding": view}))
        targets = labels if isinstance(labels, dict) else {"label": labels}
        probe.update(
            network, x[rows], {task: values[rows] for task, values in targets.items()}, rows
        )
    return {name: float(value) for name, value in probe.compute().items()}


def sample(seed=0, rows=60, classes=6, dim=5):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=source), torch.randint(
        classes, (rows,), generator=source
    )


def test_worked_example():
    relevant = torch.tensor([[1, 0, 1, 1, 0, 1]]).bool()
    scores = retrieval_scores(relevant, torch.tensor([4]), [1])
    expected = {"recall@1": 1.0, "r_precision": 0.75, "map@r": 0.6041666667}
    assert {name: float(value) for name, value in scores.items()} == pytest.approx(expected)


def test_fixture():
    """Five queries; the only sample of its class has nothing to find."""
    values = measured(X, Y, nmi_restarts=0)
    expected = {"recall@1": 0.4, "r_precision": 0.2, "map@r": 0.2, "lone_queries": 1}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert measured(X, Y, lone="miss")["recall@1"] == pytest.approx(1 / 3)


def by_loops(x, labels, k):
    """One query at a time, with a stable sort."""
    x = torch.nn.functional.normalize(x, dim=1)
    recall, precision, mean = [], [], []
    for q in range(len(x)):
        others = [i for i in range(len(x)) if i != q and labels[i] >= 0]
        number = sum(int(labels[i] == labels[q]) for i in others)
        if labels[q] < 0 or number == 0:
            continue
        ranked = sorted(others, key=lambda i: (-float(x[q] @ x[i]), i))
        hits = [int(labels[i] == labels[q]) for i in ranked]
        recall.append(float(any(hits[:k])))
        precision.append(sum(hits[:number]) / number)
        mean.append(sum(hits[j] * sum(hits[: j + 1]) / (j + 1) for j in range(number)) / number)
    return [sum(values) / len(values) for values in (recall, mean, precision)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("block", "few"), [(2**21, 16), (130, 16), (130, 0)], ids=["one", "rows", "tiles"]
)
def test_equals_one_query_at_a_time_whatever_the_block(seed, block, few, monkeypatch):
    monkeypatch.setattr(recipes.services.neighbors, "BLOCK", block)
    monkeypatch.setattr(recipes.services.neighbors, "FEW", few)
    x, labels = sample(seed)
    labels[::7] = -1
    values = measured(x, labels, ks=[1, 3], nmi_restarts=0)
    found = [values[name] for name in ("recall@3", "map@r", "r_precision")]
    assert found == pytest.approx(by_loops(x, labels, 3))


def test_a_query_is_excluded_by_its_index_and_not_by_its_distance():
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert measured(x, torch.tensor([0, 0, 1, 1]))["recall@1"] == 1
    assert measured(x, torch.tensor([0, 1, 0, 1]))["recall@1"] == 0


def test_ties_go_to_the_smaller_index():
    x = torch.ones(5, 2) / 2**0.5
    nearest = relevance(x, torch.tensor([0, 1, 2, 3, 3]), torch.arange(5), 4)
    assert nearest.nonzero().tolist() == [[3, 3], [4, 3]], (
        "the other one of class 3 comes last of four"
    )
    assert ranking_keys(torch.tensor([[0.5, 0.7, 0.5, -0.1, -0.2, 0.0, -0.0]])).argsort(
        descending=True
    ).tolist() == [[1, 0, 2, 5, 6, 3, 4]]


@pytest.mark.parametrize("depth", [1, 5, 40, 250, 500])
@pytest.mark.parametrize("levels", [3, 40, 100_000])
def test_ranking_equals_a_stable_sort(depth, levels):
    """Few levels: most similarities have equals, also at the end of the ranking."""
    source = torch.Generator().manual_seed(depth)
    similarity = torch.randint(levels, (30, 501), generator=source) / levels - 0.5
    expected = similarity.sort(dim=1, descending=True, stable=True).indices[:, :depth]
    assert torch.equal(ranked(similarity, depth), expected)


@pytest.mark.parametrize("levels", [2, 100_000])
@pytest.mark.parametrize("depth", [1, 9, 40])
@pytest.mark.parametrize("wanted", [slice(0, 61), slice(7, 30), slice(60, 61)])
def test_neighbors_by_tiles_equal_a_stable_sort(depth, wanted, levels, monkeypatch):
    """Of two levels most similarities have equals, within tiles and across them."""
    monkeypatch.setattr(recipes.services.neighbors, "BLOCK", 130)
    x = torch.randint(levels, (61, 3), generator=torch.Generator().manual_seed(depth)).double()
    similarity = (
        (x @ x.T).fill_diagonal_(-torch.inf).float()
    )  # whole numbers: every sum of them is exact
    expected = similarity.sort(dim=1, descending=True, stable=True).indices[wanted, :depth]
    assert torch.equal(nearest(x, wanted, depth), expected)


def test_the_largest_are_found_by_groups():
    similarity = torch.randn(20, 1003, generator=torch.Generator().manual_seed(0))
    similarity[:, -3:] += torch.arange(20)[:, None] % 5  # columns that fill no group
    values, index = largest(similarity, 9)
    torch.testing.assert_close(values, similarity.topk(9, 1).values, rtol=0, atol=0)
    assert torch.equal(similarity.gather(1, index), values)


def test_the_order_of_batches_does_not_matter():
    x, labels = sample(1)
    x[10:20] = x[0]  # many ties
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    assert measured(x, labels, shuffled, size=11) == pytest.approx(measured(x, labels))


def test_every_task_is_measured():
    x, labels = sample(2)
    values = measured(x, {"a": labels, "b": labels % 2}, nmi_restarts=0)
    assert values["a/recall@1"] == pytest.approx(measured(x, labels)["recall@1"])
    assert values["recall@1"] == pytest.approx((values["a/recall@1"] + values["b/recall@1"]) / 2)


def test_without_an_embedding_the_features_are_measured():
    probe, x = Retrieval(), sample(3)[0]
    probe.update(saying(lambda view: Output(x, {})), x, {"label": sample(3)[1]}, torch.arange(60))
    assert float(probe.compute()["recall@1"]) == pytest.approx(measured(*sample(3))["recall@1"])


def test_the_slate_is_clean_after_a_reset():
    probe = Retrieval()
    network = saying(lambda view: Output(view, {}))
    for x, labels in (sample(0), sample(1)):
        probe.update(network, x, {"label": labels}, torch.arange(len(x)))
        assert float(probe.compute()["recall@1"]) == pytest.approx(measured(x, labels)["recall@1"])
        probe.reset()


def test_recall_at_one_is_always_there():
    with pytest.raises(UserError, match=r"evaluate\.retrieval\.ks"):
        Retrieval(ks=[2, 4])


# -- clusters --------------------------------------------------------------------------------------
def test_mutual_information_of_renamed_clusters_is_one_and_of_a_single_one_none():
    a = torch.randint(5, (200,), generator=torch.Generator().manual_seed(0))
    assert float(normalized_mutual_information(a, (a + 1) % 5)) == pytest.approx(1)
    assert float(normalized_mutual_information(a, torch.zeros_like(a))) == pytest.approx(0)


def test_kmeans_finds_clusters_and_repeats_itself():
    source = torch.Generator().manual_seed(0)
    truth = torch.randint(7, (300,), generator=source)
    x = 10 * torch.randn(7, 4, generator=source)[truth] + torch.randn(300, 4, generator=source)
    found = kmeans(x, 7, restarts=3)
    assert float(normalized_mutual_information(truth, found)) > 0.98
    assert torch.equal(found, kmeans(x, 7, restarts=3))
    assert measured(x, truth)["nmi"] > 0.9


def test_more_clusters_than_rows():
    assert kmeans(torch.eye(3), 5).unique().numel() == 3


# -- ranks -----------------------------------------------------------------------------------------
def observe(rank: int, world: int) -> dict[str, float]:
    x, labels = sample(5, rows=61)
    return measured(x, labels, order=torch.arange(61).tensor_split(world)[rank])


def test_ranks_of_uneven_shares_agree_with_one_process():
    x, labels = sample(5, rows=61)
    for seen in on_two_ranks(observe):
        assert seen == pytest.approx(measured(x, labels))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_an_error(value):
    x, labels = sample()
    x[7, 2] = value
    with pytest.raises(UserError, match=r"evaluate.retrieval: .* of 1 of 60 samples are NaN"):
        measured(x, labels, nmi_restarts=0)


# -- queries and gallery ---------------------------------------------------------------------------
def parted(x, labels, queries, gallery, size=7, cameras=None, **settings):
    """The probe fed with a gallery and its queries, positions in the same samples."""
    probe = Retrieval(**settings)
    network = saying(lambda view: Output(torch.zeros(len(view), 1), {"embedding": view}))
    for rows in () if cameras is None else torch.cat([gallery, queries]).split(size):
        probe.see_cameras(cameras[rows], rows)
    for rows in gallery.split(size):
        probe.see_gallery(network, x[rows], {"label": labels[rows]}, rows)
    for rows in queries.split(size):
        probe.update(network, x[rows], {"label": labels[rows]}, rows)
    found = {name: float(value) for name, value in probe.compute().items()}
    return found, probe


def gallery_by_loops(x, labels, queries, gallery, ks, cameras=None):
    """The same, query by query."""
    seen_by = torch.arange(len(x)) if cameras is None else cameras
    x = torch.nn.functional.normalize(x, dim=1)
    sums, asked = {f"recall@{k}": 0.0 for k in ks} | {"map@r": 0.0, "r_precision": 0.0}, 0
    for query in queries.tolist():
        others = []
        for g in sorted(gallery.tolist()):
            junk = labels[g] == labels[query] and seen_by[g] == seen_by[query]
            if g != query and not junk:
                others.append(g)
        order = sorted(others, key=lambda g: (-float(x[query] @ x[g]), g))
        right = [bool(labels[g] == labels[query]) for g in order]
        number = sum(right)
        if not number:
            continue
        asked += 1
        for k in ks:
            sums[f"recall@{k}"] += any(right[:k])
        sums["r_precision"] += sum(right[:number]) / number
        precisions = [sum(right[: i + 1]) / (i + 1) for i in range(number) if right[i]]
        sums["map@r"] += sum(precisions) / number
    return {name: value / asked for name, value in sums.items()}, asked


@pytest.mark.parametrize(
    ("queries", "gallery"),
    [
        (range(20), range(20, 60)),  # apart
        (range(0, 60, 2), range(60)),  # a query is in the gallery, and no neighbor of itself
        (range(60), range(60)),  # as without a gallery
        (range(50, 60), range(52, 56)),  # a gallery smaller than K
    ],
    ids=["apart", "within", "all", "small"],
)
def test_queries_are_looked_up_in_the_gallery(queries, gallery):
    x, labels = sample(7)
    queries, gallery = torch.tensor(queries), torch.tensor(gallery)
    shuffle = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(1))
    found, _ = parted(x, labels, queries, gallery[shuffle])
    expected, asked = gallery_by_loops(x, labels, queries, gallery, [1, 2, 4, 8])
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["lone_queries"] == len(queries) - asked


CAMERAS = torch.randint(4, (60,), generator=torch.Generator().manual_seed(11))
APART = (range(20), range(20, 60))
WITHIN = (range(0, 60, 2), range(60))


@pytest.mark.parametrize(("queries", "gallery"), [APART, WITHIN, (range(50, 60), range(52, 56))])
@pytest.mark.parametrize("factor", [1, 10**9])
def test_matches_of_one_camera_do_not_count(queries, gallery, factor):
    x, labels = sample(7)
    queries, gallery = torch.tensor(queries), torch.tensor(gallery)
    shuffle = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(1))
    found, probe = parted(x, labels, queries, gallery[shuffle], cameras=factor * CAMERAS)
    expected, asked = gallery_by_loops(x, labels, queries, gallery, [1, 2, 4, 8], CAMERAS)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["lone_queries"] == len(queries) - asked
    assert "without pictures of their class and camera" in probe.describe()
    for query, *others in probe.exhibit().rows if probe.exhibit() else ():
        junk = (labels == query.label) & (CAMERAS[query.index] == CAMERAS)
        assert not any(junk[shown.index] for shown in others)


def test_one_camera_for_each_sample_is_none():
    x, labels = sample(3)
    rows = torch.arange(len(x))
    found, _ = parted(x, labels, rows, rows, cameras=rows)
    assert found == pytest.approx(measured(x, labels))


def test_the_cameras_of_an_evaluation_do_not_reach_into_the_next():
    x, labels = sample(3)
    rows = torch.arange(len(x))
    _, probe = parted(x, labels, rows, rows, cameras=CAMERAS)
    probe.reset()
    assert not probe.cameras


def observe_cameras(rank, world):
    x, labels = sample(5, rows=61)
    cameras = torch.arange(61) % 3
    queries, gallery = torch.arange(0, 61, 2), torch.arange(61)
    mine = [rows.tensor_split(world)[rank] for rows in (queries, gallery)]
    return parted(x, labels, *mine, cameras=cameras, nmi_restarts=0)[0]


def test_ranks_with_cameras_agree_with_loops():
    x, labels = sample(5, rows=61)
    queries, gallery = torch.arange(0, 61, 2), torch.arange(61)
    expected, asked = gallery_by_loops(
        x, labels, queries, gallery, [1, 2, 4, 8], torch.arange(61) % 3
    )
    for seen in on_two_ranks(observe_cameras):
        assert {name: seen[name] for name in expected} == pytest.approx(expected)
        assert seen["lone_queries"] == len(queries) - asked


def test_a_gallery_of_all_samples_is_none():
    x, labels = sample(3)
    rows = torch.arange(len(x))
    found, probe = parted(x, labels, rows, rows)
    assert found == pytest.approx(measured(x, labels))
    assert "looked up in the gallery" in probe.describe()


def test_a_gallery_without_labels_finds_nothing():
    x, labels = sample(4)
    labels[:30] = -1
    found, probe = parted(x, labels, torch.arange(30, 60), torch.arange(30), nmi_restarts=0)
    assert found["recall@1"] == 0 and found["lone_queries"] == 30
    assert probe.exhibit() is None


def test_examples_show_the_neighbors_in_the_gallery():
    x, labels = sample(5)
    _, probe = parted(x, labels, torch.arange(20), torch.arange(20, 60))
    for row in probe.exhibit().rows:
        query, *others = row
        assert query.index < 20 and all(shown.index >= 20 for shown in others)
        assert all(shown.right == (shown.label == query.label) for shown in others)
