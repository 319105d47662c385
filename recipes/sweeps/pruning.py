"""Pruning: stops runs that validate worse than others of the same search, as Optuna decides."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from recipes.report.numbers import value_text
from recipes.sweeps.search import make_pruner, open_storage


class PruningCallback(Callback):
    """Reports the metric of every validation to the study, and stops the run where the pruner
    decides so. A pruned run is evaluated and has a report like any other.

    storage, study, number: where the trial is.
    metric: the metric to report.
    pruner, options: the pruner's name and its arguments.

    `reason` is why the run was pruned; empty where it was not.
    """

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
        reason = ""
        if trainer.is_global_zero:
            reason = self.report(trainer.global_step, float(value))
        # all ranks stop at the same step
        self.reason = trainer.strategy.broadcast(reason)
        trainer.should_stop = trainer.should_stop or bool(self.reason)

    def report(self, step: int, value: float) -> str:
        """Report a value; returns why the run has to stop, empty where it has not."""
        import optuna

        pruner = make_pruner(self.pruner, self.options)
        study = optuna.load_study(
            study_name=self.study, storage=open_storage(self.address), pruner=pruner
        )
        stored = next(t for t in study.get_trials(deepcopy=False) if t.number == self.number)
        trial = optuna.trial.Trial(study, stored._trial_id)
        # a resumed run validates some steps a second time
        if step not in stored.intermediate_values:
            trial.report(value, step)
        if not trial.should_prune():
            return ""
        shown = f"{self.metric} {value_text(self.metric, value)}"
        return f"at step {step} with {shown} by the {self.pruner} pruner"
