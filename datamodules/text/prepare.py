"""One call between reading the texts and training on them."""

from datamodules.source import Splits
from datamodules.sources.text import TextSource
from datamodules.text.codec import Codec
from datamodules.text.tokenizer import load_tokenizer, train_tokenizer


def prepare_text(
    splits: Splits,
    tokenizer: str = "auto",
    max_length: int = 128,
    vocab_size: int = 8000,
    network: str | None = None,
) -> Codec:
    """Choose the tokenizer, number the words of all parts of the set, and give the codec to each part.

    tokenizer: `auto` takes that of `network` (name or folder of a pretrained encoder) and trains one where
    that is None; `train` always trains one, of at most `vocab_size` ids, on the training texts alone;
    anything else is the name or folder of a Hugging Face tokenizer.
    """
    parts = [part for part in (splits.train, splits.val, splits.test) if isinstance(part, TextSource)]
    name = network if tokenizer == "auto" else tokenizer
    if name is None or name == "train":
        codec = Codec(train_tokenizer(parts[0].texts, vocab_size), max_length)
    else:
        codec = Codec(load_tokenizer(name), max_length)
    for part in parts:
        part.encode(codec)
    return codec
