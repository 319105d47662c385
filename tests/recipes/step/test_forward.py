import pytest
import torch

from recipes.step import Embedded, Input, Output
from recipes.step.batchnorm import BatchNorms
from recipes.step.forward import concatenate, forward_inputs, split
from tests.support.harness import LENGTH, SmallNetwork


def small(kind: str = "image", norm: bool = False) -> SmallNetwork:
    torch.manual_seed(0)
    return SmallNetwork(kind, {"label": 3, "other": 2}, norm)


def embedded(kind: str, rows: int, seed: int, length: int = LENGTH) -> Embedded:
    source = torch.Generator().manual_seed(seed)
    if kind == "image":
        return Embedded(torch.rand(rows, 3, 8, 8, generator=source))
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1), generator=source)
    return Embedded(torch.randn(rows, length, 16, generator=source), mask)


def inputs(*entries: Input) -> dict[str, Input]:
    return {entry.name: entry for entry in entries}


@pytest.mark.parametrize("kind", ["image", "text"])
def test_concatenated_equals_separate_forwards(kind):
    """Texts of several lengths are padded; without batch norm nothing else changes."""
    net = small(kind)
    parts = {
        name: embedded(kind, n, n, length)
        for name, n, length in (("a", 4, 7), ("b", 2, 3), ("c", 5, 5))
    }
    outputs = forward_inputs(
        inputs(*(Input(n, e) for n, e in parts.items())), net, None, BatchNorms(net)
    )
    assert net.sizes == [11]
    for name, part in parts.items():
        alone = net(part)
        torch.testing.assert_close(outputs[name].features, alone.features, atol=1e-6, rtol=0)
        for task in ("label", "other"):
            torch.testing.assert_close(
                outputs[name].logits[task], alone.logits[task], atol=1e-6, rtol=0
            )


def test_splitting_undoes_concatenating():
    parts = [embedded("image", n, n) for n in (3, 1, 4)]
    joint = concatenate(parts)
    back = split(Output(joint.x, {"label": joint.x.flatten(1)}), [3, 1, 4])
    for part, output in zip(parts, back, strict=True):
        assert torch.equal(output.features, part.x)
        assert torch.equal(output.logits["label"], part.x.flatten(1))
    assert concatenate(parts[:1]) is parts[0]


def test_inputs_that_hold_one_tensor_are_forwarded_once():
    net, shared = small(), embedded("image", 4, 0)
    outputs = forward_inputs(
        inputs(
            Input("labeled", shared),
            Input("labeled/weak", shared),
            Input("x", embedded("image", 2, 1)),
        ),
        net,
        None,
        BatchNorms(net),
    )
    assert net.sizes == [6]
    assert outputs["labeled"].features is outputs["labeled/weak"].features


def test_without_batch_norm_inputs_without_gradient_run_apart_and_make_no_graph():
    net = small()
    entries = inputs(
        Input("a", embedded("image", 4, 0)), Input("b", embedded("image", 3, 1), grad=False)
    )
    outputs = forward_inputs(entries, net, None, BatchNorms(net))
    assert net.sizes == [4, 3]
    assert outputs["a"].features.requires_grad and not outputs["b"].features.requires_grad


def test_with_batch_norm_all_counted_inputs_share_one_forward():
    net = small(norm=True)
    entries = inputs(
        Input("a", embedded("image", 4, 0)), Input("b", embedded("image", 3, 1), grad=False)
    )
    outputs = forward_inputs(entries, net, None, BatchNorms(net))
    assert net.sizes == [7] and int(net.body[1].num_batches_tracked) == 1
    again = small(norm=True)
    joint = again(concatenate([entry.embedded for entry in entries.values()]))
    torch.testing.assert_close(outputs["b"].logits["label"], joint.logits["label"][4:])
    torch.testing.assert_close(net.body[1].running_mean, again.body[1].running_mean)


def test_with_batch_norm_in_evaluation_mode_company_does_not_matter():
    net = small(norm=True).eval()
    entries = inputs(
        Input("a", embedded("image", 4, 0)), Input("b", embedded("image", 3, 1), grad=False)
    )
    forward_inputs(entries, net, None, BatchNorms(net))
    assert net.sizes == [4, 3]


def test_uncounted_inputs_use_their_own_statistics_and_leave_none():
    net, alone = small(norm=True), small(norm=True)
    a, b = embedded("image", 4, 0), embedded("image", 3, 1)
    outputs = forward_inputs(
        inputs(Input("a", a), Input("b", b, updates_bn_stats=False)), net, None, BatchNorms(net)
    )
    torch.testing.assert_close(outputs["a"].logits["label"], alone(a).logits["label"])
    torch.testing.assert_close(net.body[1].running_mean, alone.body[1].running_mean)
    assert int(net.body[1].num_batches_tracked) == 1
    torch.testing.assert_close(outputs["b"].logits["label"], alone(b).logits["label"])
    assert outputs["b"].features.requires_grad


def test_the_teacher_forwards_its_inputs_once_and_without_a_graph():
    student, teacher = small(), small()
    entries = inputs(
        Input("labeled", embedded("image", 4, 0)),
        Input("teacher:a", embedded("image", 2, 1), network="teacher"),
        Input("teacher:b", embedded("image", 3, 2), network="teacher"),
    )
    outputs = forward_inputs(entries, student, teacher, BatchNorms(student))
    assert student.sizes == [4] and teacher.sizes == [5]
    assert not outputs["teacher:a"].features.requires_grad
    assert set(outputs) == set(entries)
