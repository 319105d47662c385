"""One table of settings for the trials: every method in `configs/` is found by itself, and this
says only where its defaults would hide its effect within three steps.

CANONICAL: arguments of a method. RUN: changes of the run, by dotted key, for a method that three
small batches cannot
show. NETWORK: a network that a method works on, by kind of data, where it does not on the usual
one. EXACT: further arguments under which it is exact on several ranks, for methods whose default is
not. TINY: a run of some steps on real data in a fraction of a second, by kind of data.
"""

from pathlib import Path
from typing import Any

CANONICAL: dict[str, dict[str, Any]] = {
    "ladder_side_tuning": {"reduction": 2},
    "child_tuning": {"keep": 0.7},  # of two loss weights one moves within three steps
    "fixmatch": {"threshold": 0.0, "weight": 5.0},
    "flexmatch": {"threshold": 0.2, "weight": 3.0},
    "noisy_student": {"threshold": 0.0},
    "label_propagation": {"warmup": 0},
    "confirmation_bias": {"warmup": 0},
    "remixmatch": {"strong_views": 2},
    "temporal_ensembling": {"weight": 100.0, "ramp": "constant"},
    "meta_pseudo_labels": {"student_start": 0.0, "uda_ramp": 0.0, "threshold": 0.0},
    "dividemix": {"warmup": 0.0, "ramp": 0.0},
    "uda": {"threshold": 0.0, "weight": 5.0},
    "pseudo_label": {"threshold": 0.0, "weight": 5.0, "entropy_weight": 1.0},
    "mean_teacher": {"ramp": "constant"},
    "ict": {"ramp": "constant"},
    # a wide probe: at the default the direction carries float32's rounding, and ranks round
    # otherwise
    "vat": {"epsilon": 0.1, "xi": 10.0, "entropy_weight": 0.1},
    "pi_model": {"weight": 500.0, "ramp": "constant"},
    "posthoc_logit_adjustment": {"tau": 2.0},
    "equalization_loss": {"threshold": 0.08},
    "bags": {"thresholds": [5], "beta": 1.0},
    # of two ranks with half a batch each, too
    "meta_sampler": {"candidates": 5, "lr": 0.1},
    "sam": {"rho": 0.5},
    "label_smoothing": {"epsilon": 0.5},
    "pgd_at": {"eps": 0.1, "steps": 2},
    # l2 and a small weight, since a divergence near zero loses digits to the order in which sums
    # are taken
    "trades": {"beta": 1.0, "norm": "l2", "eps": 1.0, "step_size": 0.5, "start": 0.05, "steps": 2},
    "fgm": {"eps": 0.5},
    "freelb": {"steps": 2, "step_size": 0.5},
    "awp": {"gamma": 0.1},
    "free_at": {"eps": 0.1, "replays": 2},
    "randomization": {"enlarge": 1.5},
    # the original's prediction is that of the network
    "feature_squeezing": {"bits": 1, "predict": "squeezed"},
    "proactive_defense": {"eps": 0.1, "steps": 2, "data": "clean_and_adv", "passes": 0.2},
    # at the rate of these trials: a hundred times SGD's is for AdamW's
    "proxy_anchor": {"dim": 16, "proxy_lr": 1.0},
    "multi_similarity": {"dim": 16},
    "triplet": {"dim": 16},
    "xbm": {"dim": 16, "size": 12, "start": 1},
    "lifted_structure": {"dim": 16, "weight": 0.1},
    "contrastive": {"dim": 16},
    # the default cost takes three steps so far that the rounding of sums shows
    "binomial_deviance": {"dim": 16, "negative_cost": 2.0},
    "clustering": {"dim": 16, "weight": 0.1},
    "circle": {"dim": 16, "gamma": 8.0},
    "batch_hard_triplet": {"dim": 16},
    "soft_nearest_neighbor": {"dim": 16},
    "npair": {"dim": 16},
    "angular": {"dim": 16},
    "improved_triplet": {"dim": 16},
    "histogram": {"dim": 16},
    "ranked_list": {"dim": 16},
    "quadruplet": {"dim": 16},
    "proxy_nca": {"dim": 16, "proxy_lr": 1.0},
    "proxy_nca_pp": {"dim": 16, "proxy_lr": 1.0},
    "magnet": {
        "dim": 16,
        "clusters": 2,
        "clusters_in_batch": 4,
        "samples_per_cluster": 4,
        "refresh": 2,
        "weight": 0.1,
    },
    # a tree, and another one
    "hierarchical_triplet": {
        "dim": 16,
        "anchors": 2,
        "neighbors": 2,
        "warmup": 1,
        "refresh": 1,
    },
    "static": {"weights": [1.0, 0.2]},
    "dwa": {"window": 1, "temperature": 0.02},
    "mrn": {"bottleneck": 8, "update_every": 1},
    # frozen weights have no penalty, and meet it in groups
    "sluice": {"penalty": 0.0},
    "lbtw": {"reference": "train_first", "alpha": 2.0},
    "gradnorm": {"lr": 0.5},
    "pcgrad": {"reduction": "mean"},
    "hard_sharing": {"split_stage": 0},
    # columns come in with the second round
    "fafs": {"tree": str(Path(__file__).parent.parent / "fixtures" / "fafs_tree.json")},
    # B starts at zero, so A moves by the square of the scale
    "lora": {"alpha": 256.0},
    # U starts at zero, so D would not move in the one step in which `adapter_drop` lets it
    "adapter": {"init": "houlsby"},
    # there is no run to take them from
    "adapter_fusion": {"adapters": ["fresh", "fresh"]},
    "dora": {"alpha": 1024.0},
    # factors that start at zero let the others move by the square of the rate, and the biases that D
    # scales start at zero
    "qlora": {"rank": 4, "alpha": 64.0, "dropout": 0.0},
    # what is pruned is back where it started
    "diff_pruning": {"penalty": 1000.0, "fixed": 0.1},
    "glora": {"a": "vector", "b": "vector", "c": "vector", "d": "none"},
    "adalora": {"alpha": 4096.0, "orthogonality": 1.0, "start": 0, "final": 1, "every": 1},
}

# further losses on pairs
PAIRS = (
    "contrastive",
    "binomial_deviance",
    "circle",
    "clustering",
    "batch_hard_triplet",
    "soft_nearest_neighbor",
    "npair",
    "angular",
    "improved_triplet",
    "histogram",
    "ranked_list",
    "quadruplet",
)

RUN: dict[str, dict[str, Any]] = {
    # its targets begin with the second visit of a sample: three batches are more than one pass
    "temporal_ensembling": {"data.unlabeled_ratio": 64},
    # its weights compare two steps that are over; groups train for two
    "dwa": {"trainer.max_steps": 3},
    # LoRA without a scale: A moves by the square of the rate
    "unipelt": {"optimizer.lr": 1.0},
    # pairs of one class, even where every class comes in turn
    **{
        key: {"data.batch_size": 16}
        for key in (
            "multi_similarity",
            "triplet",
            "lifted_structure",
            "xbm",
            "magnet",
            "hierarchical_triplet",
            *PAIRS,
        )
    },
}

# Pairs that the settings above keep apart, though the defaults may meet: settings under which they
# do, by method.
MEETING: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    # tasks that share no layer have no common gradient to balance, so here they share the features
    pair: {"hard_sharing": {"split_stage": None, "head": "mlp"}}
    for pair in (
        ("gradnorm", "hard_sharing"),
        ("hard_sharing", "mgda"),
        ("hard_sharing", "nash_mtl"),
        ("hard_sharing", "pcgrad"),
        # a ladder stands at the end of one trunk
        ("hard_sharing", "ladder_side_tuning"),
    )
}

# Points that a method fills for some of its settings alone: the reason, and settings under which
# the point takes effect, with which the method is watched by itself.
CONDITIONAL: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("randomization", "infer"): ("averages several passes", {"passes": 2}),
    ("focal_loss", "build"): ("rarity of classes", {"mode": "sigmoid"}),
    ("focal_loss", "class_losses"): ("binary losses", {"mode": "sigmoid"}),
    ("equalization_loss", "build"): ("rarity of classes", {"mode": "sigmoid"}),
    ("cost_sensitive_ce", "class_losses"): ("the expected cost", {"form": "expected_cost"}),
    ("child_tuning", "build"): ("the masks of mode D", {"mode": "D"}),
    ("child_tuning", "surveyed"): ("Fisher information of mode D", {"mode": "D"}),
    ("ladder_side_tuning", "surveyed"): ("the start by Fisher information", {"init": "fisher"}),
    ("sluice", "terms"): ("the penalty of trained weights", {"penalty": 0.1}),
    ("logit_adjustment", "build"): ("running priors", {"adjust_unlabeled": True}),
    ("proxy_nca", "surveyed"): ("proxies start at samples", {"init": "sample"}),
    ("soft_nearest_neighbor", "build"): ("the temperature is learned", {"learnable": True}),
}

# Points whose effect no watch can see: the reason, and what proves them in its place.
UNSEEN: dict[tuple[str, str], str] = {
    ("bce", "prepare"): (
        "makes the targets of its threshold, which is off; tests/methods/regularization/test_bce.py"
    ),
    ("tau_norm", "surveyed"): (
        "chooses τ, and the best may be the one it has; tests/methods/long_tail/test_tau_norm.py"
    ),
    ("lbtw", "after_step"): (
        "ends an epoch, which three steps do not; tests/methods/multi_task/test_lbtw.py"
    ),
    ("meta_sampler", "terms"): (
        "gives the gradient of its rates, on which after_batch acts; "
        "tests/methods/long_tail/test_meta_sampler.py"
    ),
    ("bags", "prepare"): (
        "draws the samples that its losses use; tests/methods/long_tail/test_bags.py"
    ),
    ("glora", "prepare"): (
        "sets the draw of a supernet's forms; tests/methods/peft/test_glora_search.py"
    ),
    ("glora", "wrap_step"): (
        "removes gradients that only several ranks make; tests/methods/peft/test_glora_search.py"
    ),
    ("diff_pruning", "prepare"): (
        "sets the noise that its gates draw; tests/methods/peft/test_diff_pruning.py"
    ),
    ("remixmatch", "parameter_groups"): (
        "the rotation head, which texts do not have; "
        "tests/methods/semi_supervised/test_remixmatch.py"
    ),
    ("child_tuning", "after_batch"): (
        "takes decay back, of which there is none; tests/methods/peft/test_child_tuning.py"
    ),
    ("adapter_drop", "prepare"): (
        "sets how many adapters run; tests/methods/peft/test_adapter_drop.py"
    ),
    ("adapter_drop", "wrap_step"): (
        "removes gradients that only several ranks make; tests/methods/peft/test_adapter_drop.py"
    ),
    ("logit_adjustment", "terms"): (
        "counts pseudo-labels of another method, where adjust_unlabeled asks for it; "
        "tests/methods/long_tail/test_logit_adjustment.py"
    ),
}

# Terms that come once however many heads there are: of a head of the method's own, of parameters,
# of the classes of one task.
ONCE = frozenset({"remixmatch/rotation", "orthogonality", "sparsity", "identity", "magnet"})

EXACT: dict[str, dict[str, Any]] = {"sam": {"sync": True}}

# Changes of the run for the trial on several ranks. At the usual rate the tiny network soon maps all
# samples to nearly one point, and what depends on their differences alone is then rounding; a change
# of low rank with a large scale, a low temperature and VAT's direction multiply what sums have
# rounded.
APART: dict[str, dict[str, Any]] = {
    **{key: {"optimizer.lr": 1e-4} for key in ("magnet", "hierarchical_triplet")},
    **{key: {"optimizer.lr": 3e-3} for key in ("adalora", "qlora", "vat")},
    "dwa": {"methods.dwa.temperature": 0.5},
}

# Tried on several ranks beside the single methods: arguments that bring in sums and statistics over
# the global batch.
TOGETHER: dict[tuple[str, ...], dict[str, Any]] = {
    ("fixmatch", "logit_adjustment", "label_smoothing", "sam", "ema"): {
        "methods.fixmatch.mask_reduction": "confident",
        "methods.fixmatch.threshold": 0.2,
        "methods.logit_adjustment.adjust_unlabeled": True,
        "methods.logit_adjustment.prior_momentum": 0.5,
    },
    ("class_balanced_loss", "focal_loss"): {"methods.class_balanced_loss.reduction": "weight"},
    ("uda", "pi_model", "mean_teacher"): {
        "methods.uda.annealing": "linear",
        "methods.uda.threshold": 0.2,
    },
}

# What a run on several tasks is made of, by kind of data; for methods that need several.
SEVERAL_TASKS: dict[str, dict[str, Any]] = {
    "image": {"data.source.tasks": ["label", "parity"]},
    "text": {"data.source.label_column": ["label", "length"]},
}

SHARED = (
    "optimizer=sgd",
    # decay would move a parameter that gets no gradient
    "optimizer.weight_decay=0.0",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.max_steps=3",
    "trainer.val_every=3",
    "trainer.log_every=1",
    "trainer.progress_bar=false",
    "data.batch_size=8",
    "data.unlabeled_ratio=2",
    "data.eval_batch_size=64",
    # a uniform prior would make its corrections invisible
    "data.labels_per_class=8",
    "data.imbalance_factor=4",
)

TINY: dict[str, tuple[str, ...]] = {
    "image": ("data=digits", "network.name=digits_cnn", "+network.options.width=8"),
    "text": (
        "data=text_file",
        "data.text.max_length=16",
        "data.views.weak.word_dropout=0.2",
        "+network.options.hidden_size=16",
        "+network.options.intermediate_size=16",
        "+network.options.num_hidden_layers=1",
        "+network.options.num_attention_heads=2",
    ),
}

# Without batch statistics and dropout: what a sample gives does not depend on its company. Then a
# batch may be dealt out over ranks, and a method that forwards more samples but teaches nothing
# leaves no trace.
QUIET: dict[str, dict[str, Any]] = {
    "image": {
        "name": "vit_tiny_patch16_224",
        "options": {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 8},
    },
    "text": {
        "options": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
    },
}

# Methods that need tokens and attention, which the usual network for pictures lacks.
NETWORK: dict[str, dict[str, dict[str, Any]]] = {
    key: {"image": QUIET["image"]}
    for key in (
        "adapter",
        "adapter_drop",
        "adapter_fusion",
        "fafs",  # whose tree is of it
        "ladder_side_tuning",
        "mam_adapter",
        "p_tuning_v2",
        "prefix_tuning",
        "qlora",
        "unipelt",
        "vpt",
    )
}

# Methods whose effect is between the blocks of a network, and what their number is called.
SEVERAL_BLOCKS = ("adapter_drop",)
BLOCKS = {"image": "depth", "text": "num_hidden_layers"}
