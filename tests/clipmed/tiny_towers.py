"""Two-tower models of every kind that is exported, small, with weights of chance in every parameter."""

import json

import numpy as np
import torch
from PIL import Image
from transformers import BertConfig, BertTokenizer, RobertaConfig, RobertaTokenizer

from clipmed.calibration import Calibration, prompts_digest
from clipmed.checkpoints import checkpoint_digest, save_checkpoint
from clipmed.towers import assemble

NATIVE_VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
NATIVE_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
TIMM_VISION = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
RESNET_VISION = {"image_size": 32, "patch_size": None, "width": 8, "layers": [1, 1, 1, 1]}
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}


def native(**changes):
    return {"embed_dim": 16, "vision_cfg": NATIVE_VISION, "text_cfg": NATIVE_TEXT} | changes


def hugging_face(folder, pooler="cls_last_hidden_state_pooler", projection="mlp"):
    """Return the text_cfg of a tower whose files lie in `folder`."""
    text_cfg = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "context_length": 20}
    return text_cfg | {"hf_pooler_type": pooler, "hf_proj_type": projection}


def write_bert(folder, **sizes):
    letters = [chr(code) for code in range(33, 127)] + list("µ°±β–“”’ﬂï")
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *("##" + letter for letter in letters),
        "mass",
    ]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BertConfig(vocab_size=len(vocabulary), **SIZES | sizes).save_pretrained(folder)
    return folder


def write_roberta(folder, **sizes):
    from open_clip.tokenizer import bytes_to_unicode

    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *bytes_to_unicode().values(), "ma", "ss", "mass"]
    vocabulary = {name: number for number, name in enumerate(names)}
    RobertaTokenizer(vocab=vocabulary, merges=[("m", "a"), ("s", "s"), ("ma", "ss")]).save_pretrained(folder)
    config = RobertaConfig(vocab_size=len(names), max_position_embeddings=40, **SIZES | sizes)
    config.save_pretrained(folder)
    return folder


def two_tower(model_cfg, **preprocess_cfg):
    """Return a model of the config with weights of chance, norms' and biases' too."""
    torch.manual_seed(0)
    built = assemble(model_cfg, preprocess_cfg=preprocess_cfg)
    with torch.no_grad():
        for name, parameter in built.model.named_parameters():
            if parameter.ndim == 1 and "logit" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    built.model.eval()
    return built


def checkpoint(folder, model_cfg, **preprocess_cfg):
    save_checkpoint(folder, two_tower(model_cfg, **preprocess_cfg), "A card.\n")
    return folder


def calibrate(folder, logit_scale):
    """Put a calibration of this scale into a checkpoint's folder, and return it."""
    figures = {"ece_before": 0.3, "ece_after": 0.1, "nll_before": 1.0, "nll_after": 0.5, "nll_gain_error": 0.1}
    calibration = Calibration(
        logit_scale=logit_scale,
        temperature=2.0,
        num_images=40,
        labels=("a", "b"),
        prompts=prompts_digest({"a": ["an a"], "b": ["a b"]}),
        checkpoint=checkpoint_digest(folder),
        at_bound=False,
        **figures,
    )
    calibration.save(folder)
    return calibration


def scan(seed=0, height=50, width=71):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def config_of(folder):
    return json.loads((folder / "open_clip_config.json").read_text())
