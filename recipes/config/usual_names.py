"""What other tools call the settings of a run, for the answer to an unknown key."""

from collections.abc import Iterable

# today's key -> its usual names elsewhere
USUAL: dict[str, tuple[str, ...]] = {
    "trainer.max_epochs": ("epoch", "epochs", "n_epochs", "num_epochs", "num_train_epochs"),
    "trainer.max_steps": (
        "iterations",
        "iters",
        "max_iters",
        "num_steps",
        "num_train_iter",
        "steps",
        "total_steps",
        "train_steps",
    ),
    "optimizer.lr": ("learning_rate", "base_lr"),
    "optimizer.base_batch_size": ("lr_base_size", "base_size"),
    "optimizer.lr_scaling": ("lr_base_scale", "scale_lr"),
    "optimizer.weight_decay": ("wd", "decay"),
    "data.batch_size": ("bs", "batch", "train_batch_size", "per_device_train_batch_size"),
    "data.eval_batch_size": ("test_batch_size", "val_batch_size"),
    "data.unlabeled_ratio": ("mu", "uratio", "ulb_ratio"),
    "data.labels_per_class": ("shots",),
    "data.labels": ("n_labels", "num_labels"),
    "data.unlabeled": ("unlabeled_root", "unlabelled"),
    "data.num_workers": ("workers", "n_workers"),
    "data.root": ("data_dir", "data_path", "dataset_path"),
    "data": ("dataset",),
    "network.name": ("arch", "architecture", "backbone", "encoder", "model", "net"),
    "network.checkpoint": ("ckpt", "load", "weights"),
    "network.gradient_checkpointing": ("grad_checkpointing", "activation_checkpointing"),
    "network.freeze": ("frozen", "freeze_layers", "frozen_layers", "freeze_backbone"),
    "network.drop_rate": ("dropout",),
    "trainer.devices": ("gpus", "gpu", "n_gpus", "num_gpus"),
    "trainer.accelerator": ("device", "cpu", "cuda"),
    "trainer.precision": ("amp", "bf16", "dtype", "fp16", "use_amp"),
    "trainer.accumulate_grad_batches": ("accum", "grad_accum", "gradient_accumulation_steps"),
    "trainer.gradient_clip_val": ("clip", "clip_grad", "grad_clip", "max_grad_norm"),
    "trainer.val_every": ("eval_every", "eval_steps", "num_eval_iter", "val_check_interval"),
    "trainer.patience": ("early_stop", "early_stopping", "early_stopping_patience"),
    "trainer.log_every": ("log_every_n_steps", "logging_steps", "print_freq"),
    "scheduler.warmup_steps": ("warmup", "num_warmup_steps"),
    "run_dir": ("log_dir", "out", "out_dir", "output", "output_dir", "save_dir"),
    "recipe": ("algorithm", "method"),
    "averaging": ("ema",),
    "logger": ("log", "report_to", "wandb"),
}
BY_NAME = {name: key for key, names in USUAL.items() for name in names}


def by_usual_name(name: str, keys: Iterable[str]) -> str:
    """A remedy for a key that other tools have: `write data.batch_size=…`; empty if it is none of
    those or its setting is not among the keys."""
    key = BY_NAME.get(name.lower())
    if key is None or key not in set(keys):
        return ""
    return f"write {key}=…"
