"""Kinds of damage to a checkpoint: what is changed, and words that its one line must have."""

from collections.abc import Callable
from typing import Any

import torch
import yaml

Content = dict[str, Any]
Change = Callable[[Content], None]
Kinds = dict[str, tuple[Change, str]]


def put(place: str, value: Any) -> Change:
    """Set the entry at a place like `numbers/meters/0`."""

    def change(content: Content) -> None:
        *path, last = place.split("/")
        node: Any = content
        for name in path:
            node = node[int(name) if isinstance(node, list) else name]
        node[last] = value

    return change


def drop(place: str) -> Change:
    def change(content: Content) -> None:
        *path, last = place.split("/")
        node: Any = content
        for name in path:
            node = node[int(name) if isinstance(node, list) else name]
        del node[last]

    return change


def put_callback(begin: str, name: str, value: Any) -> Change:
    def change(content: Content) -> None:
        key = next(key for key in content["callbacks"] if key.startswith(begin))
        content["callbacks"][key][name] = value

    return change


def put_config(key: str, value: Any) -> Change:
    """Change the config of the provenance; `...` removes the key."""

    def change(content: Content) -> None:
        tree = yaml.safe_load(content["provenance"]["config"])
        *path, last = key.split(".")
        node = tree
        for name in path:
            node = node[name]
        if value is ...:
            del node[last]
        else:
            node[last] = value
        content["provenance"]["config"] = yaml.safe_dump(tree)

    return change


def text_weights(content: Content) -> None:
    content["state_dict"] = dict.fromkeys(content["state_dict"], "x")


def one_group_more(content: Content) -> None:
    groups = content["optimizer_states"][0]["param_groups"]
    groups.append(groups[0] | {"params": [999]})


def another_shape(content: Content) -> None:
    content["optimizer_states"][0]["state"][0]["momentum_buffer"] = torch.zeros(3)


def weights_of_another_shape(content: Content) -> None:
    content["state_dict"]["network.heads.label.bias"] = torch.zeros(3)


STEPS = "loops/fit_loop/epoch_loop.automatic_optimization.optim_progress"
BATCHES = "loops/fit_loop/epoch_loop.batch_progress"
SUMS = {"names": ["a", "b"], "values": torch.zeros(1, 3), "steps": torch.ones(1).long()}
VERSION = "pytorch-lightning_version"

# refused before anything is built
STRUCTURE: Kinds = {
    "weights_null": (put("state_dict", None), "state_dict: found null; expected a mapping"),
    "weights_list": (put("state_dict", []), "state_dict: found a list of 0; expected a mapping"),
    "weights_text": (text_weights, "found 'x'; expected a tensor"),
    "steps_null": (put("global_step", None), "global_step: found null; expected a whole number"),
    "steps_text": (put("global_step", "4"), "global_step: found '4'; expected a whole number"),
    "steps_negative": (put("global_step", -1), "global_step: found -1; expected at least 0"),
    "steps_of_another_run": (put("global_step", 3), "expected global_step 4, as its loops say"),
    "no_numbers": (drop("numbers"), "it holds no numbers"),
    "numbers_null": (put("numbers", None), "numbers: found null; expected a mapping"),
    "numbers_list": (put("numbers", [1]), "numbers: found a list of 1; expected a mapping"),
    "no_meters": (drop("numbers/meters"), "numbers.meters: missing"),
    "meters_null": (put("numbers/meters", None), "numbers.meters: found null; expected a list"),
    "meters_text": (put("numbers/meters", ["x"]), "numbers.meters[0]: found 'x'"),
    "sums_of_other_names": (
        put("numbers/meters", [SUMS | {"names": ["a"]}]),
        "expected a row of sums for each rank",
    ),
    "sums_flat": (put("numbers/meters", [SUMS | {"values": torch.zeros(3)}]), "row of sums"),
    "latest_text": (put("numbers/latest", {"a": "x"}), "numbers.latest.a: found 'x'"),
    "seconds_nan": (put("numbers/seconds", float("nan")), "numbers.seconds: found nan"),
    "skipped_text": (put("numbers/skipped", "x"), "numbers.skipped: found 'x'"),
    "no_version": (drop(VERSION), f"it holds no {VERSION}"),
    "version_x": (put(VERSION, "x"), f"{VERSION}: found 'x'; expected a version 2 of"),
    "version_old": (put(VERSION, "1.0.0"), f"{VERSION}: found '1.0.0'"),
    "version_number": (put(VERSION, 2), f"{VERSION}: found 2; expected text"),
    "optimizer_null": (put("optimizer_states", None), "optimizer_states: found null"),
    "optimizer_empty": (put("optimizer_states", []), "expected at least 1 entry"),
    "optimizer_text": (put("optimizer_states", ["x"]), "optimizer_states[0]: found 'x'"),
    "two_optimizers": (
        lambda c: c["optimizer_states"].append(c["optimizer_states"][0]),
        "optimizer_states: found a list of 2; expected 1 entry",
    ),
    "no_groups": (put("optimizer_states/0/param_groups", []), "param_groups: found a list of 0"),
    "rate_text": (
        lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr="x"),
        "param_groups[0].lr: found 'x'; expected a number",
    ),
    "state_list": (put("optimizer_states/0/state", []), "optimizer_states[0].state: found a list"),
    "scheduler_null": (put("lr_schedulers", None), "lr_schedulers: found null; expected a list"),
    "scheduler_empty": (put("lr_schedulers", []), "lr_schedulers: found a list of 0"),
    "scheduler_step_text": (
        lambda c: c["lr_schedulers"][0].update(last_epoch="x"),
        "lr_schedulers[0].last_epoch: found 'x'",
    ),
    "no_loops": (drop("loops"), "loops: missing"),
    "loops_text": (put("loops", "x"), "loops: found 'x'; expected a mapping"),
    "no_fit_loop": (drop("loops/fit_loop"), "loops.fit_loop: missing"),
    "batches_text": (put(f"{BATCHES}/total/ready", "x"), "total.ready: found 'x'"),
    "streams_text": (
        put("loops/fit_loop/state_dict", {"combined_loader": "x"}),
        "combined_loader: found 'x'; expected a list",
    ),
    "streams_without_position": (
        put("loops/fit_loop/state_dict", {"combined_loader": [{}]}),
        "combined_loader[0].position: missing",
    ),
    "steps_gone": (put(STEPS, {}), "optim_progress.optimizer: missing"),
    "no_callbacks": (drop("callbacks"), "callbacks: missing"),
    "callbacks_list": (put("callbacks", [1]), "callbacks: found a list of 1; expected a mapping"),
    "best_score_text": (
        put_callback("ModelCheckpoint", "best_model_score", "x"),
        "best_model_score: found 'x'; expected a tensor",
    ),
    "due_text": (put("callbacks/LastCheckpoint/due", "x"), "due: found 'x'; expected true or"),
    "position_null": (put("StreamDataModule/position", None), "position: found null"),
    "data_text": (put("StreamDataModule", "x"), "StreamDataModule: found 'x'"),
    "identity_text": (put("identity", "x"), "identity: found 'x'; expected a mapping"),
    "history_text": (put("history", "x"), "history: found 'x'; expected a mapping"),
    "history_cut": (
        lambda c: c["history"].update(steps=c["history"]["steps"][:1]),
        "history: found a mapping; expected a row for each step",
    ),
    "provenance_text_at_resume": (put("provenance", "x"), "provenance: found 'x'"),
    "config_number_at_resume": (put("provenance/config", 3), "provenance.config: found 3"),
    "changes_text": (put("provenance/changes", ["x"]), "provenance.changes[0]: found 'x'"),
}

# found once the module of the run is there
FITTING: Kinds = {
    "config_yaml": (put("provenance/config", "a: [1"), "its config is not YAML"),
    "config_tag": (put("provenance/config", "a: !!python/name:os.system x"), "the YAML tag"),
    "one_group_more": (one_group_more, "param_groups: found groups of "),
    "moments_of_another_shape": (another_shape, "state[0].momentum_buffer: found [3], not ["),
    "weights_of_another_shape": (weights_of_another_shape, "is [3] there and [10] here"),
    "rates_of_other_groups": (
        lambda c: c["lr_schedulers"][0].update(base_lrs=[0.1] * 3),
        "lr_schedulers[0].base_lrs: found 3 rates for 1 groups",
    ),
    "known_to_lightning_alone": (
        put("loops/fit_loop/epoch_loop.scheduler_progress", "x"),
        "is not a run of this version: restoring it failed (",
    ),
}

TOKENIZER = {
    "name": "train",
    "backend": '{"model": {"type": "Unheard"}}',
    "pad": 0,
    "mask": None,
    "sensitive": False,
    "prefix": [],
    "suffix": [],
}

# `recipes.predict run=`
ORIGIN: Kinds = {
    "provenance_gone": (drop("provenance"), "has no provenance"),
    "provenance_text": (put("provenance", "x"), "provenance: found 'x'; expected a mapping"),
    "config_null": (put("provenance/config", None), "provenance.config: found null"),
    "config_number": (put("provenance/config", 3), "provenance.config: found 3; expected text"),
    "config_list": (put("provenance/config", ["x"]), "provenance.config: found a list of 1"),
    "config_empty": (put("provenance/config", ""), "not a mapping"),
    "config_broken": (put("provenance/config", "a: [1"), "its config is not YAML"),
    "config_tagged": (put("provenance/config", "a: !!python/name:os.system x"), "the YAML tag"),
    "config_without_network": (put_config("network", ...), "network: found 'None'"),
    "config_without_trainer": (put_config("trainer", ...), "trainer: found 'None'"),
    "config_without_data": (put_config("data", ...), "data: found 'None'"),
    "network_null": (put_config("network", None), "network: found 'None'"),
    "methods_list": (put_config("methods", ["x"]), "methods: found ['x']; expected a mapping"),
    "argument_unknown": (put_config("methods.fixmatch.colour", 3), "methods.fixmatch.colour"),
    "interpolation": (put_config("seed", "${nowhere}"), "seed: found the interpolation"),
    "facts_null": (put("provenance/facts", None), "provenance.facts: found null"),
    "facts_unknown": (put("provenance/facts/colour", 1), "facts.colour: found 1; expected no such"),
    "facts_short": (drop("provenance/facts/sizes"), "provenance.facts.sizes: missing"),
    "counts_text": (
        put("provenance/facts/counts", {"label": ["x"] * 10}),
        "provenance.facts.counts.label[0]: found 'x'; expected a whole number",
    ),
    "counts_of_other_classes": (
        put("provenance/facts/counts", {"label": [1]}),
        "expected a count for every class of every task",
    ),
    "missing_of_no_task": (put("provenance/facts/missing", ["x"]), "names of tasks in missing"),
    "no_classes": (put("provenance/facts/classes", {}), "facts.classes: found an empty mapping"),
    "tokenizer_text": (put("provenance/facts/tokenizer", "x"), "facts.tokenizer: found 'x'"),
    "tokenizer_short": (put("provenance/facts/tokenizer", {}), "facts.tokenizer.name: missing"),
    "vocabulary_unknown": (
        put("provenance/facts/tokenizer", TOKENIZER),
        "expected a backend that the tokenizers library reads",
    ),
    "size_text": (put("provenance/input_size", "x"), "provenance.input_size: found 'x'"),
    "size_negative": (put("provenance/input_size", [-1, 8]), "expected null or the size of images"),
    "encoder_mapping": (put("provenance/encoder", {}), "provenance.encoder: found an empty"),
    "vocabulary_size_text": (put("provenance/vocab_size", "x"), "provenance.vocab_size: found"),
    "encoder_without_words": (put("provenance/encoder", "{}"), "facts.tokenizer to be there"),
    "weights_gone": (put("state_dict", None), "state_dict: found null"),
    "weights_of_another_network": (weights_of_another_shape, "network.heads.label.bias"),
}
