"""A record of a real run in small: a softmax regression on the handwritten digits, learning from 40
labels."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from recipes.report.record import RunRecord, ViewRow


def digits_record() -> RunRecord:
    """History, confusion matrix and views of the digits; 10 classes, 12 to 2 labels a class."""
    pixels, targets = load_digits(return_X_y=True)
    pixels = pixels / 16
    rng = np.random.default_rng(0)
    counts = [12, 8, 4, 4, 2, 2, 2, 2, 2, 2]
    labeled = np.concatenate([np.flatnonzero(targets[:900] == c)[:n] for c, n in enumerate(counts)])
    model = SGDClassifier(loss="log_loss", random_state=0)
    history = []
    for step in range(1, 61):
        batch = rng.choice(labeled, 16)
        model.partial_fit(pixels[batch], targets[batch], classes=np.arange(10))
        probabilities = model.predict_proba(pixels[900:])
        chance = model.predict_proba(pixels[batch])[np.arange(16), targets[batch]]
        loss = float(-np.log(np.maximum(chance, 1e-6)).mean())
        kept = probabilities.max(1) > 0.9
        right = probabilities.argmax(1) == targets[900:]
        row = {
            "step": step,
            "train/loss": 1.5 * loss,
            "train/labeled": loss,
            "train/unlabeled": 0.5 * loss,
        }
        row |= {
            "train/mask_rate": float(kept.mean()),
            "train/pseudo_accuracy": float(right.mean()),
            "train/lr": 0.1,
        }
        if step % 10 == 0:
            row |= {
                "val/accuracy": float(right.mean()),
                "val/raw/accuracy": float(right.mean()) - 0.02,
            }
        history.append(row)
    predicted = model.predict(pixels[900:])
    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, (targets[900:], predicted), 1)
    images = (pixels.reshape(-1, 8, 8, 1) * 255).astype(np.uint8)
    views = [
        ViewRow(
            "image",
            images[i],
            images[i, ::-1],
            str(predicted[i - 900]),
            0.9,
            str(targets[i]),
            i % 3 > 0,
        )
        for i in range(900, 912)
    ]
    accuracy = confusion.trace() / confusion.sum()
    return RunRecord(
        title="FixMatch on digits",
        command="python train.py recipe=fixmatch 'data.name=<digits>'",
        plan="order  fixmatch > ema",
        config="seed: 0\n",
        history=history,
        final={
            "test/accuracy": accuracy,
            "test/raw/accuracy": accuracy - 0.01,
            "train_seconds": 75.0,
        },
        classes={"label": [str(c) for c in range(10)]},
        train_counts={"label": counts},
        confusion={"label": confusion},
        views=views,
        seconds={"train": 75.0, "test": 0.5},
        versions={"torch": "2"},
        hardware="2 CPU cores",
    )
