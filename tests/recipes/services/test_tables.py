"""Tables of samples: buffers as ever up to a size, above it on the host in half precision, with the
same names in checkpoints."""

import copy
import pickle

import pytest
import torch

from methods.semi_supervised.noisy_student import TeacherPredictions
from recipes.services import tables
from recipes.services.statistics import SampleMemory
from recipes.services.tables import SampleTables


@pytest.fixture
def large(monkeypatch):
    """Every table is a large one."""
    monkeypatch.setattr(tables, "HOST_BYTES", 0)


def written(steps=6, dtype=torch.float32):
    source = torch.Generator().manual_seed(0)
    memory = SampleMemory(20, (3,), dtype=dtype)
    for _ in range(steps):
        index = torch.randint(20, (16,), generator=source)
        where = torch.rand(16, generator=source) > 0.3
        memory.write(index, torch.rand(16, 3, generator=source), where=where)
    return memory


def test_a_table_is_a_buffer_up_to_the_size(monkeypatch):
    monkeypatch.setattr(tables, "HOST_BYTES", 20 * 3 * 4)
    assert "table" in dict(SampleMemory(20, (3,)).named_buffers())
    assert "table" not in dict(SampleMemory(21, (3,)).named_buffers())


def test_a_large_table_has_the_rounded_rows_of_a_small_one(monkeypatch):
    small = written()
    monkeypatch.setattr(tables, "HOST_BYTES", 0)
    host = written()
    assert host.table.dtype == torch.float16 and host.read(torch.arange(20)).dtype == torch.float32
    assert torch.equal(host.table, small.table.half()) and torch.equal(host.writes, small.writes)


def test_whole_numbers_stay_as_they_are(large):
    memory = SampleMemory(20, dtype=torch.int64)
    assert "table" in dict(memory.named_buffers()) and memory.table.dtype == torch.int64


def test_a_large_table_stays_on_the_host(large):
    memory = written()
    before = memory.table
    moved = memory.to("meta")
    assert moved.table is before and moved.writes.device.type == "meta"
    assert written().double().table.dtype == torch.float16


def test_state_is_restored_bit_by_bit(large):
    memory = written()
    state = memory.state_dict()
    assert set(state) == {"table", "writes"} and state["table"].dtype == torch.float16
    other = SampleMemory(20, (3,))
    other.load_state_dict(copy.deepcopy(state))
    assert torch.equal(other.table, memory.table) and torch.equal(other.writes, memory.writes)
    assert other.table is not memory.table
    for again in (pickle.loads(pickle.dumps(memory)), copy.deepcopy(memory)):
        assert torch.equal(again.table, memory.table)


def test_state_of_the_other_form_is_taken(monkeypatch):
    small = written()
    monkeypatch.setattr(tables, "HOST_BYTES", 0)
    host = SampleMemory(20, (3,))
    host.load_state_dict(small.state_dict())
    assert torch.equal(host.table, small.table.half())
    monkeypatch.undo()
    small.load_state_dict(host.state_dict())
    assert torch.equal(small.table, host.table.float())


def test_wrong_state_is_refused(large):
    nested = torch.nn.ModuleDict({"label": written()})
    state = nested.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*label.table"):
        nested.load_state_dict({"label.writes": state["label.writes"]})
    with pytest.raises(RuntimeError, match=r"size mismatch for label.table: \[2, 3\] instead of"):
        nested.load_state_dict(state | {"label.table": torch.zeros(2, 3)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*label.other"):
        nested.load_state_dict(state | {"label.other": torch.zeros(2)})


def test_predictions_of_a_teacher(large):
    table = TeacherPredictions({"label": 3, "other": 2}, 4)
    values = {"label": torch.rand(4, 3), "other": torch.rand(4, 2)}
    table.write(values)
    assert table.known and set(table.state_dict()) == {"spoken", "of_label", "of_other"}
    rows = torch.tensor([2, 0])
    assert torch.equal(table.read("other", rows), values["other"].half().float()[rows])
    assert torch.equal(table["label"], values["label"].half())


def test_an_unknown_name_is_no_table():
    with pytest.raises(AttributeError):
        SampleTables().nothing  # noqa: B018
