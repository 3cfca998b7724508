"""The card of a trained checkpoint names what it began as: the start's licence and data come on top of its own."""

import pytest

from clipmed.cards import missing, parse_card
from clipmed.towers import ModelConfig
from tests.clipmed.tiny import save_tiny
from train.card import model_card
from train.config import TrainConfig


def sections(**model):
    return parse_card(model_card(TrainConfig(model=ModelConfig(**model)), [], {})).sections


@pytest.mark.parametrize("key", ["pretrained", "image_weights"])
@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---\n# Theirs\n", "Theirs; licence cc-by-nc-4.0, for non-commercial use only"),
        ("---\nlicense: mit\n---\n# Theirs\n", "Theirs; licence mit)"),
        ("# Theirs\n", "Theirs; its card names no licence"),
        ("---\n- no mapping\n---\n", "its card is not readable"),
    ],
)
def test_a_start_is_named_with_its_licence(tmp_path, key, card, said):
    start = save_tiny(tmp_path / "their-model", card=card)
    found = sections(**{key: str(start)})
    assert f"the checkpoint their-model ({said}" in found["Licences"]
    assert "those terms hold for these weights, too" in found["Licences"]
    assert "the checkpoint their-model" in found["Data"]
    assert str(tmp_path) not in found["Licences"] + found["Data"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"config": "ViT-B-32", "pretrained": "openai"}, "OpenCLIP's ViT-B-32:openai"),
        ({"image_weights": "ViT-B-16:openai"}, "the image tower of OpenCLIP's ViT-B-16:openai"),
        ({"config": "clipmed_vit_b16_bert", "pretrained_text": True}, "the text tower microsoft/Biomed"),
        ({"config": "clipmed_vit_b16_bert", "pretrained_image": True}, "timm's weights of the image tower vit_base"),
        ({"pretrained": "gone/model"}, "the checkpoint model"),
    ],
)
def test_published_starts_are_named(model, said):
    assert said in sections(**model)["Licences"]


def test_a_start_from_nothing_is_not_named():
    found = sections()
    assert "Training began" not in found["Licences"]
    assert "on top" not in found["Data"]
    assert set(missing(parse_card(model_card(TrainConfig(), [], {})))) == {"Scores", "license"}
