"""`best.ckpt`: the checkpoint of the best validation, looked at when a run resumes and when it
ends."""

import logging
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

from foundation.files import discard
from recipes.checkpointing.files import whole
from recipes.report.numbers import lower_is_better

logger = logging.getLogger(__name__)

BEST = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best value of a metric.

    folder: of the run.
    monitor: the metric, logged at validations; losses and `ece` are minimized.
    resumed: the checkpoint that the run resumes. If it is in the run's own folder, `best.ckpt`
        there must be intact; otherwise the best is chosen anew from that step on, which is printed.
    """

    def __init__(self, folder: Path, monitor: str, resumed: Path | None = None):
        super().__init__(
            dirpath=folder / "checkpoints",
            filename="best",
            monitor=monitor,
            mode="min" if lower_is_better(monitor) else "max",
            enable_version_counter=False,
        )
        self.path = folder / "checkpoints" / BEST
        self.resumed = resumed
        # after validations alone
        self.on_train_batch_end = None  # type: ignore[method-assign,assignment]

    @property
    def state_key(self) -> str:
        """The key of the class above: older checkpoints have it too."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = self.resumed is not None and same_folder(self.resumed, self.path)
        if not here or not state_dict["best_model_path"]:
            super().load_state_dict(state_dict)
        elif whole(self.path):
            super().load_state_dict(moved(state_dict, str(self.dirpath)))
        else:
            logger.warning(
                "resume: '%s' is %s; the best checkpoint is chosen anew among the validations to "
                "come",
                self.path,
                "damaged" if self.path.is_file() else "gone",
            )


def same_folder(one: Path, other: Path) -> bool:
    return one.resolve().parent == other.resolve().parent


def moved(state: dict[str, Any], folder: str) -> dict[str, Any]:
    """The state with paths in this folder: a run that was moved keeps its best checkpoint."""

    def here(path: str) -> str:
        return str(Path(folder) / Path(path).name) if path else path

    paths = {name: here(state.get(name, "")) for name in ("best_model_path", "kth_best_model_path")}
    scores = {here(path): score for path, score in state.get("best_k_models", {}).items()}
    return state | paths | {"best_k_models": scores, "dirpath": folder}


def drop_damaged(path: Path) -> None:
    """Remove a damaged `best.ckpt` of a finished run, and say so."""
    if path.is_file() and not whole(path):
        logger.warning("'%s' is damaged and was removed; the last checkpoint is whole", path)
        discard(path)
