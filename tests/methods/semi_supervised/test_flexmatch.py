from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from methods.regularization.sam import SAM
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.flexmatch import UNUSED, FlexMatch, class_thresholds, learning_status
from tests.support.harness import UNLABELED_SAMPLES, Setup, build, fit, train, values_differ


def status(*counts: int, unused: int = 0) -> torch.Tensor:
    return torch.tensor([*counts, unused], dtype=torch.float32)


@pytest.mark.parametrize(
    ("unused", "expected"),
    [(4, [0.95, 0.316667, 0.0]), (14, [0.158333, 0.073077, 0.0])],
    ids=["N=10", "N=20"],
)
def test_worked_example(unused, expected):
    limits = class_thresholds(status(4, 2, 0, unused=unused), 0.95)
    torch.testing.assert_close(limits, torch.tensor(expected), atol=1e-6, rtol=0)


def test_without_warmup_the_best_class_has_the_full_threshold_from_its_first_sample_on():
    limits = class_thresholds(status(4, 2, 0, unused=14), 0.95, warmup=False)
    torch.testing.assert_close(limits, torch.tensor([0.95, 0.316667, 0.0]), atol=1e-6, rtol=0)
    assert class_thresholds(status(0, 0, unused=9), 0.95, warmup=False).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("mapping", "expected"), [("convex", 1 / 3), ("linear", 0.5), ("concave", 0.5849625)]
)
def test_mappings_half_way_and_at_their_ends(mapping, expected):
    limits = class_thresholds(status(4, 2, 0), 1.0, mapping)
    torch.testing.assert_close(limits, torch.tensor([1.0, expected, 0.0]))


def test_equally_learnt_classes_have_the_threshold_of_fixmatch():
    assert torch.equal(class_thresholds(status(5, 5, 5, unused=3), 0.95), torch.full((3,), 0.95))


def test_no_class_has_a_threshold_below_the_lowest():
    limits = class_thresholds(status(4, 2, 0), 0.8, lowest=0.5)
    torch.testing.assert_close(limits, torch.tensor([0.8, 0.4, 0.4]))
    assert class_thresholds(status(4, 2, 0), 0.8, lowest=1.0).tolist() == [pytest.approx(0.8)] * 3


def test_with_the_lowest_at_its_largest_it_is_fixmatch():
    flex = train({"flexmatch": FlexMatch(threshold=0.4, lowest=1.0)}, steps=4)
    fix = train({"flexmatch": FixMatch(threshold=0.4)}, steps=4)
    assert values_differ(flex.parameters, fix.parameters) == []


@pytest.mark.parametrize(
    ("threshold", "lowest", "idle"), [(1.2, 0.75, False), (1.2, 0.9, True), (0.95, 0.75, False)]
)
def test_a_threshold_above_one_is_idle_only_where_the_lowest_is(threshold, lowest, idle):
    assert ("threshold" in FlexMatch(threshold, lowest=lowest).idle_settings()) is idle


def test_status_counts_classes_and_the_unused():
    table = torch.tensor([0, 2, UNUSED, 2, 2, UNUSED, 1])
    assert learning_status(table, 4).tolist() == [1, 1, 3, 0, 2]


def by_hand(rounds, rows, classes, tau):
    """A loop over samples, with a Counter and without warm-up of its own: thresholds seen by every
    round."""
    beliefs, seen = [UNUSED] * rows, []
    for index, q in rounds:
        counts = Counter(beliefs)
        beta = [counts[c] / max(*counts.values(), 1) for c in range(classes)]
        seen.append([tau * b / (2 - b) for b in beta])
        for i, row in zip(index.tolist(), q.tolist(), strict=True):
            if max(row) >= tau:
                beliefs[i] = row.index(max(row))
    return seen, beliefs


def test_equals_a_loop_over_samples():
    source, method, setup = (
        torch.Generator().manual_seed(0),
        FlexMatch(threshold=0.6, lowest=0.0),
        Setup(),
    )
    recipe = build({"flexmatch": method}, setup)
    memory = recipe.method_modules["flexmatch"]["label"]
    rounds, thresholds = [], []
    for _ in range(12):
        index = torch.randint(UNLABELED_SAMPLES, (16,), generator=source)
        q = torch.softmax(2 * torch.randn(16, 3, generator=source) + torch.tensor([1.0, 0, 0]), 1)
        rounds.append((index, q))
        thresholds.append(method.mask("label", recipe).keywords["threshold"])
        memory.write(index, q.argmax(1), where=q.amax(1) >= 0.6)
    seen, beliefs = by_hand(rounds, UNLABELED_SAMPLES, 3, 0.6)
    torch.testing.assert_close(torch.stack(thresholds), torch.tensor(seen))
    assert memory.table.tolist() == beliefs
    assert len(set(beliefs)) == 4


def test_everything_passes_at_first_and_thresholds_follow_what_was_learnt_before_the_batch():
    """The mask of every step against one computed from its own outputs and the table as it was
    before."""
    setup = Setup(steps=25, lr=0.3)
    found = []

    class Watch(FlexMatch):
        def terms(self, step, recipe):
            before = self.module(recipe)["label"].table.clone()
            super().terms(step, recipe)
            found.append((before, step.pseudo["label"], step.terms[self.key]))

    method = Watch(threshold=0.6, threshold_warmup=False, lowest=0.0)
    fit(build({"flexmatch": method}, setup), setup)
    assert found[0][1].mask.tolist() == [1.0] * 12
    for before, believed, term in found:
        limits = class_thresholds(learning_status(before, 3), 0.6, warmup=False)
        best, label = believed.probabilities.max(1)
        assert torch.equal(term.mask, best >= limits[label])
    masks = torch.stack([believed.mask for _, believed, _ in found])
    assert 0 < float(masks.float().mean()) < 1
    assert (found[-1][0] != UNUSED).any()


def test_the_loss_is_that_of_fixmatch_under_the_same_mask():
    logits = {}

    class Watch(FlexMatch):
        def terms(self, step, recipe):
            super().terms(step, recipe)
            logits["weak"], logits["strong"] = (
                step.logits(f"unlabeled/{v}", "label") for v in ("weak", "strong")
            )

    history = train({"flexmatch": Watch(align=0, lowest=0.0)}, steps=1).history
    expected = F.cross_entropy(logits["strong"], logits["weak"].argmax(1))
    assert history[0]["train/flexmatch"] == pytest.approx(expected.item(), abs=1e-6)


def test_a_sample_once_sure_is_never_forgotten():
    recipe = build({"flexmatch": FlexMatch()}, Setup())
    memory = recipe.method_modules["flexmatch"]["label"]
    index = torch.tensor([3, 3])
    memory.write(index, torch.tensor([1, 2]), where=torch.tensor([1.0, 0.0]))
    memory.write(index, torch.tensor([0, 0]), where=torch.tensor([0.0, 0.0]))
    assert memory.table[3] == 1 and int(memory.table.sum()) == 1 - (UNLABELED_SAMPLES - 1)


def test_above_one_nobody_is_learnt_and_everybody_teaches():
    """All thresholds are τ · 0: the published behaviour at the start, for ever."""
    flex = train({"flexmatch": FlexMatch(threshold=1.1, lowest=0.0, align=0)}, steps=4)
    fix = train({"flexmatch": FixMatch(threshold=0.0, align=0)}, steps=4)
    assert values_differ(flex.parameters, fix.parameters) == []


def test_a_replayed_batch_sees_the_thresholds_of_its_first_pass_and_counts_once():
    seen = []

    class Watch(FlexMatch):
        def mask(self, task, recipe):
            mask = super().mask(task, recipe)
            seen.append(mask.keywords["threshold"])
            return mask

    result = train({"flexmatch": Watch(threshold=0.5, lowest=0.0, align=0), "sam": SAM()}, steps=6)
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert len(pairs) == 6 and all(torch.equal(a, b) for a, b in pairs)
    assert float(pairs[-1][0].max()) > 0
    writes = result.recipe.method_modules["flexmatch"]["label"].writes
    assert 0 < int(writes.max()) <= 6


def test_every_micro_batch_is_remembered():
    plain = train({"flexmatch": FlexMatch(threshold=0.0)}, steps=2, accumulate=3, lr=0.0)
    table = plain.recipe.method_modules["flexmatch"]["label"].table
    seen = torch.cat(
        [b["unlabeled"]["index"] for b in Setup(steps=2, accumulate=3).batches({"unlabeled"})]
    )
    assert sorted((table != UNUSED).nonzero().flatten().tolist()) == sorted(set(seen.tolist()))


def test_every_task_has_its_own_table():
    result = train({"flexmatch": FlexMatch(threshold=0.0)}, tasks={"a": 3, "b": 2}, steps=2)
    tables = result.recipe.method_modules["flexmatch"]
    assert set(tables) == {"a", "b"}
    assert int(tables["b"].table.max()) <= 1 and int(tables["a"].table.max()) <= 2
    assert {"train/flexmatch/a", "train/flexmatch/b"} <= result.history[0].keys()
