import json

import pytest
import torch

from clipmed.towers import ModelConfig, assemble, build_two_tower, model_config
from train.flops import ModelFlops, count_flops, device_peak, peak_of
from train.schedule import lock_towers, set_training_mode
from train.texts import TextTower

BOTH = {"image", "text"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A two-tower model whose text tower is a small Hugging Face BERT, with dropout."""
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("bert")
    BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    ).save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    text = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_proj_type": "mlp",
        "context_length": 64,
    }
    cfg = model_config("clipmed_tiny") | {"text_cfg": text}
    return assemble(cfg)


def counted(two_tower, length):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        TextTower(two_tower.model)(torch.ones((1, length), dtype=torch.int64))
    return counter.get_total_flops()


@pytest.mark.slow
def test_published_counts_of_vit_b_16():
    flops = count_flops(build_two_tower(ModelConfig(config="ViT-B-16")), BOTH)
    assert flops.image == pytest.approx(35.13e9, abs=0.005e9)
    assert flops.texts(torch.tensor([77])) == pytest.approx(5.96e9, abs=0.005e9)


@pytest.mark.parametrize("length", [3, 11, 47, 64])
def test_texts_of_any_length_are_predicted(length):
    two_tower = build_two_tower(ModelConfig(config="clipmed_laptop"))
    assert count_flops(two_tower, BOTH).texts(torch.tensor([length])) == pytest.approx(counted(two_tower, length))


@pytest.mark.parametrize("length", [3, 64])
def test_texts_of_a_hugging_face_tower_are_predicted(bert, length):
    bert.model.train()
    assert count_flops(bert, BOTH).texts(torch.tensor([length])) == pytest.approx(counted(bert, length))


def test_a_tower_that_reads_its_padding_costs_the_whole_context():
    cfg = model_config("clipmed_laptop")
    cfg["text_cfg"] |= {"no_causal_mask": True}
    two_tower = assemble(cfg | {"custom_text": True})
    flops = count_flops(two_tower, BOTH)
    lengths = TextTower(two_tower.model).lengths(torch.ones((3, 64), dtype=torch.int64))
    assert flops.texts(lengths) == pytest.approx(3 * counted(two_tower, 64))


def test_a_locked_tower_counts_one_pass_of_the_same_flops():
    two_tower = build_two_tower(ModelConfig(config="clipmed_laptop"))
    lengths = torch.tensor([20, 40])
    free = count_flops(two_tower, BOTH)
    lock_towers(two_tower.model, ["image"])
    set_training_mode(two_tower.model, ["image"])
    locked = count_flops(two_tower, {"text"})
    assert locked.image == free.image
    assert free.step(2, lengths) - locked.step(2, lengths) == pytest.approx(2 * 2 * free.image)


def test_a_step_by_hand():
    flops = ModelFlops(image=100, text_fixed=7, text_linear=5, text_square=2)
    # three images of 100; texts of 7 + 5 n + 2 n² at n = 1 and n = 3; each three times
    assert flops.step(3, torch.tensor([1, 3])) == 3 * (300 + 14 + 40)


def test_counting_draws_no_random_numbers(bert, model_json):
    dropping_patches = build_two_tower(ModelConfig(config=str(model_json)))
    for two_tower in (bert, dropping_patches):
        two_tower.model.train()
        torch.manual_seed(3)
        before = torch.get_rng_state()
        count_flops(two_tower, BOTH)
        assert torch.equal(torch.get_rng_state(), before)


def test_attention_is_as_fast_as_before():
    count_flops(build_two_tower(ModelConfig(config="clipmed_tiny")), BOTH)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A4000", None),
    ],
)
def test_peaks_go_by_whole_words_of_the_name(name, tera):
    assert peak_of(name) == (None if tera is None else tera * 1e12)


def test_a_cpu_has_no_known_peak():
    assert device_peak(torch.device("cpu")) is None
