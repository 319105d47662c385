"""The vocabulary of declarations: slots, each owned by one method, and tags, to which other methods
refer.

A word that is not listed is an error, so that typos are not ignored. Your own methods may add
words: `TAGS["my_tag"] = "its meaning"` in the file of the class.
"""

from collections.abc import Iterable, Iterator

from foundation.errors import nearest
from recipes.contract.declaration import Declaration

SLOTS = {
    "mixer": "the mixing of labeled inputs",
    "unlabeled_mixer": "the mixing of unlabeled inputs",
    "pseudo_labels": "the pseudo-labels of the unlabeled stream",
    "predicted_labels": "the table of predictions that unlabeled samples learn",
    "prior_correction": "the correction of the class prior",
    "smoothing": "the smoothing of targets",
    "class_losses": "what a class costs in the loss",
    "combine": "the combination of loss terms",
    "optimizer": "the optimizer",
    "two_passes": "the second pass of a step",
    "labeled_mask": "the mask of labeled samples",
    "attack": "the attack on labeled inputs",
    "sharing": "which layers tasks share",
    "heads": "the classifiers on the features",
    "sampler": "the order in which labeled samples come",
    "prompts": "the prompt tokens between the first token and the rest",
}

TAGS = {
    "adapters": "small networks are added to the blocks of a frozen backbone",
    "adds_tokens": "the network gets further tokens, which have no place in a picture",
    "adjusts_logits": "losses see other logits than evaluation",
    "attacks_labeled": "labeled inputs are perturbed to raise their loss",
    "biases_only": "of the backbone only biases are trained",
    "delta": "modules are attached to a frozen backbone",
    "features_by_task": "each task has features of its own",
    "focal": "well-classified samples weigh less",
    "freezes_backbone": "nothing below the heads is trained",
    "low_rank": "weights get updates of low rank",
    "metric_loss": "a loss on the embedding",
    "mixes_inputs": "labeled inputs are combinations of several samples",
    "nonlinear_heads": "heads of tasks have layers between features and classifier",
    "random_inference": "predictions are random",
    "repeats_batches": "a step has several passes over its batches",
    "resamples": "classes of the labeled stream come in other proportions than in the data",
    "second_optimizer": "a second optimizer steps beside the run's",
    "shares_no_layer": "every task has layers of its own, from the first on",
    "soft_targets": "labeled targets are distributions over classes",
    "task_weights": "tasks get weights that change over the run",
    "unlabeled_loss": "a loss term on the unlabeled stream",
    "weighs_classes": "samples are weighted by class",
}

INFORMATIVE = frozenset({"resamples", "task_weights", "weighs_classes"})
"""Tags to which no built-in method refers; your own methods may refuse them."""

RESERVED = frozenset({"second_optimizer"})
"""Tags to which methods refer but that no built-in method has yet."""


def unknown_words(option: str, declaration: Declaration) -> Iterator[str]:
    """One line for each slot or tag that is not in the vocabulary. option: of the method."""
    fields: dict[str, tuple[Iterable[str], dict[str, str]]] = {
        "slots": (declaration.slots, SLOTS),
        "tags": (declaration.tags, TAGS),
        "refuses": (declaration.refuses, TAGS),
        "requires": (declaration.requires, TAGS),
        "before": (declaration.before, TAGS),
        "after": (declaration.after, TAGS),
    }
    for field, (words, known) in fields.items():
        kind, vocabulary = ("slot", "SLOTS") if known is SLOTS else ("tag", "TAGS")
        for word in words:
            if word not in known:
                yield (
                    f"{option} declares {field}={word!r}: there is no such {kind}; "
                    f"{nearest(word, known)} "
                    f"(a new one goes into recipes.contract.vocabulary.{vocabulary})"
                )


def unknown_streams(option: str, declaration: Declaration, streams: Iterable[str]) -> Iterator[str]:
    """One line for each stream that has an order but is not loaded by any method."""
    loaded = set(streams)
    for stream in declaration.orders:
        if stream not in loaded:
            yield (
                f"{option} declares orders={stream!r}: no method loads such a stream; "
                f"{nearest(stream, loaded)}"
            )
