import pytest

from foundation.errors import UserError
from methods.peft.sites import choose_sites, default_targets, find_blocks, find_sites
from tests.support.small_networks import network


def roles(name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for site in find_sites(network(name).backbone):
        found[site.role] = found.get(site.role, 0) + 1
    return found


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert", "deberta"])
def test_encoders_with_separate_projections(name):
    found = roles(name)
    inner = {role: count for role, count in found.items() if role.startswith(("attn", "mlp"))}
    assert inner == dict.fromkeys(
        ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.out"), 2
    )


def test_albert_has_one_block_that_is_run_twice():
    backbone = network("albert").backbone
    assert roles("albert")["attn.q"] == 1
    assert find_blocks(backbone) == ["encoder.albert_layer_groups.0.albert_layers.0"]


@pytest.mark.parametrize("name", ["vit", "beit", "eva", "swin", "swinv2", "modernbert"])
def test_fused_projections(name):
    found = roles(name)
    assert found["attn.qkv"] == found["attn.out"] == found["mlp.in"] == found["mlp.out"] == 2
    assert len(find_blocks(network(name).backbone)) == 2
    chosen = choose_sites(network(name).backbone, ["attn.q", "attn.v"], "targets")
    width = len(chosen[0].module.weight) // 3
    assert [site.rows for site in chosen[:2]] == [(0, width), (2 * width, 3 * width)]


def test_convolutions():
    assert roles("resnet") == {"conv.stem": 1, "norm": 21, "conv.kxk": 16, "conv.1x1": 4}
    assert roles("digits_cnn") == {"conv.stem": 1, "conv.kxk": 3, "norm": 4}
    found = roles("convnext")
    assert found["conv.dw"] == found["mlp.in"] == found["mlp.out"] == 4
    assert default_targets(network("convnext").backbone) == ["conv.kxk", "mlp.in", "mlp.out"]


def test_small_networks_of_the_position_bias_have_no_role():
    assert not any("cpb_mlp" in site.name for site in find_sites(network("swinv2").backbone))


def test_targets_by_role_family_and_pattern():
    backbone = network("bert").backbone

    def names(*targets):
        return [site.name for site in choose_sites(backbone, targets, "targets")]

    assert names("attn.q") == [f"encoder.layer.{i}.attention.self.query" for i in (0, 1)]
    assert len(names("mlp")) == 4
    assert len(names("all_linear")) == 12
    assert names(r".*layer\.1\.output\.dense") == ["encoder.layer.1.output.dense"]
    # dense occurs in attention, feed-forward and pooler: a suffix alone matches nothing by chance
    with pytest.raises(UserError):
        names("dense")
    assert names("attn.qkv") == names("attn.q", "attn.k", "attn.v")


def test_nothing_found_is_one_line_with_what_was_sought_and_what_there_is():
    with pytest.raises(UserError) as refusal:
        choose_sites(network("digits_cnn").backbone, ["attn.q"], "methods.lora.targets")
    assert str(refusal.value) == (
        "methods.lora.targets: no layer of DigitsNet is 'attn.q'; it has conv.stem (1), norm (4), "
        "conv.kxk (3)"
    )
    with pytest.raises(UserError, match=r"'\(' is neither a role nor a regular expression"):
        choose_sites(network("digits_cnn").backbone, ["("], "methods.lora.targets")
