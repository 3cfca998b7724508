"""A BERT small enough for a test, with its tokenizer, in a folder."""

from __future__ import annotations

from pathlib import Path

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lung", "mass", "a", "slide", "of", "the"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save_bert(folder: Path, positions: int = 24) -> Path:
    """Write config and tokenizer, no weights; return the folder."""
    from transformers import BertConfig, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    BertConfig(vocab_size=len(WORDS), max_position_embeddings=positions, **SIZES).save_pretrained(folder)
    return folder


def bert_config(bert: Path, **text: object) -> dict:
    """An OpenCLIP config of a tiny image tower and the BERT of a folder."""
    names = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert)}
    pooled = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 16}
    return {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {**names, **pooled, **text},
    }
