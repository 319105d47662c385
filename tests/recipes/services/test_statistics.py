import pytest
import torch

from foundation.distributed import gather_rows
from recipes.services.statistics import ClassStatistics, SampleMemory


def test_prior_is_the_share_of_each_class():
    statistics = ClassStatistics({"label": torch.tensor([6, 3, 1]), "other": torch.tensor([1, 1])})
    torch.testing.assert_close(statistics.log_prior("label").exp(), torch.tensor([0.6, 0.3, 0.1]))
    torch.testing.assert_close(statistics.log_prior("other").exp(), torch.tensor([0.5, 0.5]))
    assert statistics.counts("label").dtype == torch.float32


def test_a_class_without_samples_counts_as_one():
    prior = ClassStatistics({"label": torch.tensor([8, 0])}).log_prior("label")
    assert float(prior[1].exp()) == pytest.approx(1 / 8)
    assert torch.isfinite(ClassStatistics({"label": torch.zeros(3)}).log_prior("label")).all()


def test_counts_lie_in_the_state():
    a = ClassStatistics({"label": torch.tensor([4, 2])})
    b = ClassStatistics({"label": torch.tensor([0, 0])})
    assert b.log_prior("label").exp().tolist() == [1, 1]
    b.load_state_dict(a.state_dict())
    assert b.counts("label").tolist() == [4, 2]
    torch.testing.assert_close(b.log_prior("label").exp(), torch.tensor([4 / 6, 2 / 6]))


def test_the_prior_is_computed_once_until_the_counts_change():
    statistics = ClassStatistics({"label": torch.tensor([6, 3, 1])})
    prior = statistics.log_prior("label")
    assert statistics.log_prior("label") is prior
    assert statistics.double().log_prior("label").dtype == torch.float64
    statistics.counts("label").fill_(1)
    torch.testing.assert_close(
        statistics.log_prior("label").exp(), torch.full((3,), 1 / 3, dtype=torch.float64)
    )


def test_memory_keeps_rows_by_sample():
    memory = SampleMemory(5, (2,), fill=-1.0)
    memory.write(torch.tensor([3, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert memory.read(torch.tensor([0, 1, 3])).tolist() == [[3, 4], [-1, -1], [1, 2]]
    assert memory.writes.tolist() == [1, 0, 0, 1, 0]


def test_a_sample_that_stands_twice_keeps_its_last_value_and_counts_one_visit():
    memory = SampleMemory(3)
    memory.write(torch.tensor([1, 2, 1, 1]), torch.tensor([5.0, 6.0, 7.0, 8.0]))
    assert memory.read(torch.arange(3)).tolist() == [0, 8, 6]
    assert memory.writes.tolist() == [0, 1, 1]
    memory.write(torch.tensor([1, 1]), torch.tensor([9.0, 4.0]))
    assert memory.read(torch.tensor([1])).tolist() == [4]
    assert memory.writes.tolist() == [0, 2, 1]


def test_memory_equals_a_loop():
    source = torch.Generator().manual_seed(0)
    memory, table, visits = (
        SampleMemory(20, (3,)),
        torch.zeros(20, 3),
        torch.zeros(20, dtype=torch.int64),
    )
    for _ in range(10):
        index = torch.randint(20, (16,), generator=source)
        value = torch.randn(16, 3, generator=source)
        memory.write(index, value)
        for i, v in zip(index.tolist(), value, strict=True):
            table[i] = v
        visits[index.unique()] += 1
    assert torch.equal(memory.table, table) and torch.equal(memory.writes, visits)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_rows_that_are_left_out_neither_write_nor_count(shape):
    memory = SampleMemory(5, shape, fill=-1.0)
    index, keep = torch.tensor([3, 1, 3, 2, 1]), torch.tensor([1, 1, 0, 0, 1])
    value = torch.arange(5.0).view(-1, *([1] * len(shape))).expand(5, *shape)
    memory.write(index, value, where=keep)
    expected = torch.tensor([-1.0, 4, -1, 0, -1]).view(-1, *([1] * len(shape))).expand(5, *shape)
    assert torch.equal(memory.table, expected)
    assert memory.writes.tolist() == [0, 1, 0, 1, 0]


def test_memory_takes_no_gradient_its_own_type_and_lies_in_the_state():
    memory = SampleMemory(4, dtype=torch.int64)
    memory.write(torch.tensor([2]), torch.tensor([3.0], requires_grad=True))
    assert memory.table.tolist() == [0, 0, 3, 0] and memory.table.dtype == torch.int64
    other = SampleMemory(4, dtype=torch.int64)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.table, memory.table) and torch.equal(other.writes, memory.writes)


def test_gathering_on_one_process_only_detaches():
    value = torch.ones(2, requires_grad=True)
    assert torch.equal(gather_rows(value), value) and not gather_rows(value).requires_grad
