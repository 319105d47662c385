"""`best.ckpt` of a run that resumes or ends: a good one is kept, a damaged one is not, and the user
reads why."""

import pytest
import torch

from recipes.checkpointing.best import BestCheckpoint, drop_damaged


@pytest.fixture
def best(tmp_path):
    path = tmp_path / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    torch.save({"w": torch.ones(100)}, path)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def resumed(path):
    """The callback of a run that resumes the last checkpoint beside `path`."""
    chosen = BestCheckpoint(path.parents[1], "val/accuracy", path.with_name("last.ckpt"))
    score = torch.tensor(0.5)
    state = {
        "monitor": "val/accuracy",
        "best_model_score": score,
        "best_model_path": str(path),
        "current_score": score,
        "dirpath": str(path.parent),
        "best_k_models": {str(path): score},
        "kth_best_model_path": str(path),
        "kth_value": score,
        "last_model_path": "",
    }
    chosen.load_state_dict(state)
    return chosen


def test_a_good_one_is_kept(best, caplog):
    chosen = resumed(best)
    assert (chosen.best_model_path, float(chosen.best_model_score)) == (str(best), 0.5)
    assert caplog.messages == []


@pytest.mark.parametrize("state", ["gone", "damaged"])
def test_without_a_good_one_the_best_is_chosen_anew(state, best, caplog):
    if state == "gone":
        best.unlink()
    else:
        cut(best)
    chosen = resumed(best)
    assert chosen.best_model_path == "" and chosen.best_model_score is None
    assert chosen.best_k_models == {}
    line = f"resume: '{best}' is {state}; the best checkpoint is chosen anew"
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(line)


def test_a_finished_run_leaves_no_damaged_one(best, caplog):
    drop_damaged(best)
    assert best.is_file() and caplog.messages == []
    cut(best)
    drop_damaged(best)
    assert not best.exists()
    assert caplog.messages == [f"'{best}' is damaged and was removed; the last checkpoint is whole"]
    drop_damaged(best)
    assert len(caplog.messages) == 1, "without a file there is no message"
