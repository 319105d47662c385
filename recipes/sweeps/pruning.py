"""Ending runs early that do worse than others of the same search: told by the run, decided by
Optuna."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from recipes.report.numbers import value_text
from recipes.sweeps.search import make_pruner, open_storage


class Watch(Callback):
    """Reports the metric of every validation to the trial's storage, and stops the run where the
    pruner says so. The run then ends as if these had been all its steps: evaluated, with a page of
    its own. `reason` tells, and is empty where the run was let go on."""

    def __init__(
        self,
        storage: str,
        study: str,
        number: int,
        metric: str,
        pruner: str,
        options: dict[str, Any],
    ):
        self.address = storage
        self.study = study
        self.number = number
        self.metric = metric
        self.pruner = pruner
        self.options = options
        self.reason = ""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.metric)
        last = trainer.global_step >= trainer.max_steps
        if trainer.state.fn != "fit" or value is None or last:
            return
        reason = self.report(trainer.global_step, float(value)) if trainer.is_global_zero else ""
        # all ranks stop at the same step
        self.reason = trainer.strategy.broadcast(reason)
        trainer.should_stop = trainer.should_stop or bool(self.reason)

    def report(self, step: int, value: float) -> str:
        """Why the run is to stop; empty where it is not."""
        import optuna

        pruner = make_pruner(self.pruner, self.options)
        study = optuna.load_study(
            study_name=self.study, storage=open_storage(self.address), pruner=pruner
        )
        known = next(
            trial for trial in study.get_trials(deepcopy=False) if trial.number == self.number
        )
        trial = optuna.trial.Trial(study, known._trial_id)
        # a run that goes on from its checkpoint validates some steps a second time
        if step not in known.intermediate_values:
            trial.report(value, step)
        shown = f"{self.metric} {value_text(self.metric, value)}"
        return (
            f"at step {step} with {shown} by the {self.pruner} pruner"
            if trial.should_prune()
            else ""
        )
