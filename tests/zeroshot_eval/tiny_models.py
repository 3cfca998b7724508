"""Tiny transformers models with random weights and vocabularies made on the spot, saved as their authors would."""

from __future__ import annotations

import io
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

WIDTH, HEADS, LAYERS, SIDE, PATCH = 32, 2, 2, 32, 8
SIGLIP_TOKENS = 64
TEXTS = ["a chest radiograph", "a slide", "an axial slice of the brain with a mass and some oedema around it"]

_TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
_VISION = {**_TOWER, "image_size": SIDE, "patch_size": PATCH}


def clip_tokenizer(vocabulary_only_letters: str = string.ascii_lowercase) -> Any:
    """Byte-level BPE of CLIP without merges: letters inside words and at their ends."""
    pieces = [*vocabulary_only_letters, *(f"{letter}</w>" for letter in vocabulary_only_letters)]
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *special])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)


def word_tokenizer(**options: Any) -> Any:
    """Words of TEXTS by a plain table, with padding and end tokens; `options` go to the tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = sorted({word for text in TEXTS for word in text.lower().split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", **options
    )


def bert_tokenizer() -> Any:
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=512)


def save_clip(folder: Path) -> Path:
    tokenizer = clip_tokenizer()
    text = {**_TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=WIDTH)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    return _save(folder, transformers.CLIPModel(config), processor, tokenizer)


def save_siglip(folder: Path) -> Path:
    """A SigLIP with its usual 64 positions, whose tokenizer gives no mask."""
    tokenizer = word_tokenizer(model_input_names=["input_ids"], model_max_length=SIGLIP_TOKENS)
    text = {**_TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": SIGLIP_TOKENS, "projection_size": WIDTH}
    config = transformers.SiglipConfig(text_config=text, vision_config=_VISION)
    model = transformers.SiglipModel(config)
    torch.nn.init.constant_(model.logit_bias, -9.5)
    processor = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return _save(folder, model, processor, tokenizer)


def save_siglip2(folder: Path) -> Path:
    """A SigLIP 2 that takes images of any aspect ratio, as up to 12 patches."""
    tokenizer = word_tokenizer(model_input_names=["input_ids"], model_max_length=SIGLIP_TOKENS)
    text = {**_TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": SIGLIP_TOKENS, "projection_size": WIDTH}
    vision = {**_TOWER, "num_patches": 16, "patch_size": PATCH}
    config = transformers.Siglip2Config(text_config=text, vision_config=vision)
    processor = transformers.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=12)
    return _save(folder, transformers.Siglip2Model(config), processor, tokenizer)


def save_dual_encoder(folder: Path) -> Path:
    tokenizer = bert_tokenizer()
    text = transformers.BertConfig(vocab_size=len(tokenizer), **_TOWER)
    vision = transformers.ViTConfig(**_VISION)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=WIDTH)
    model = transformers.VisionTextDualEncoderModel(config)
    processor = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return _save(folder, model, processor, tokenizer)


def noise_image(width: int = 50, height: int = 70, mode: str = "RGB") -> Image.Image:
    """Smooth enough to survive resizing, different in every corner."""
    rng = np.random.default_rng(width)
    small = Image.fromarray(rng.integers(0, 256, (6, 5, 3)).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _save(folder: Path, model: Any, processor: Any, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than the library's own, so that embeddings differ
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
