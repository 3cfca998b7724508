"""Tokenizers as files that transformers and the tokenizers package read, with OpenCLIP's cleaning in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipmed.errors import ConfigError

if TYPE_CHECKING:
    from clipmed.towers import TwoTower

# What OpenCLIP's cleaning does to texts as they occur (ftfy and html.unescape): straight quotes, letters instead of
# ligatures, and characters instead of HTML's names for them. Texts in a wrong encoding are not repaired.
_CLEANED = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&apos;": "'",
    "&#39;": "'",
    "&nbsp;": " ",
    "&deg;": "°",
    "&micro;": "µ",
    "&plusmn;": "±",
    "&times;": "×",
    **dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
    "\ufb00": "ff",
    "\ufb01": "fi",
    "\ufb02": "fl",
    "\ufb03": "ffi",
    "\ufb04": "ffl",
    "\ufb05": "ſt",
    "\ufb06": "st",
}
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def export_tokenizer(two_tower: TwoTower) -> Any:
    """Return a transformers tokenizer with the ids of the checkpoint's, apart from the padding of OpenCLIP's own.

    A processor made of it pads and cuts to the context length by itself; the tokenizer alone does so when it is called
    with `padding="max_length", truncation=True`. OpenCLIP's own tokenizer pads with 0, the "!" of its vocabulary. Here
    the end-of-text token pads. No embedding depends on it: attention is causal, and the first such token pools.

    Raises:
        ConfigError: a tokenizer with steps of its own that such a file cannot hold.
    """
    import transformers

    hf: Any = transformers
    cfg = two_tower.model_cfg["text_cfg"]
    inner = getattr(two_tower.tokenizer, "tokenizer", None)
    backend, special = _clip_backend(two_tower.tokenizer, cfg) if inner is None else _hugging_face_backend(inner, cfg)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=two_tower.context_length,
        max_length=two_tower.context_length,
        padding="max_length",
        truncation=True,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


def _clip_backend(tokenizer: Any, cfg: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    options = {name: value for name, value in (cfg.get("tokenizer_kwargs") or {}).items() if value}
    if options not in ({}, {"clean": "lower"}):
        raise ConfigError(f"text_cfg: a tokenizer file cannot hold tokenizer_kwargs={options}; allowed: none of them")
    start, end = (tokenizer.decoder[number] for number in (tokenizer.sot_token_id, tokenizer.eot_token_id))
    backend = Tokenizer(
        BPE(vocab=tokenizer.encoder, merges=list(tokenizer.bpe_ranks), end_of_word_suffix="</w>", unk_token=end)
    )
    backend.normalizer = normalizers.Sequence([*_cleaning(), normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)],
    )
    backend.decoder = decoders.ByteLevel()
    return backend, {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}


def _hugging_face_backend(inner: Any, cfg: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    from tokenizers import Tokenizer, normalizers

    steps = {name: cfg.get(name) for name in ("tokenizer_mode",) if cfg.get(name)}
    steps |= {name: value for name, value in (cfg.get("tokenizer_kwargs") or {}).items() if value}
    if steps or not hasattr(inner, "backend_tokenizer"):
        given = steps or type(inner).__name__
        raise ConfigError(
            f"text_cfg: a tokenizer file cannot hold {given}; allowed: a tokenizer of the tokenizers package, without "
            "tokenizer_mode and tokenizer_kwargs"
        )
    backend = Tokenizer.from_str(inner.backend_tokenizer.to_str())
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*_cleaning(), *own])
    backend.no_padding()
    backend.no_truncation()
    special = {name: str(token) for name, token in inner.special_tokens_map.items() if isinstance(token, str)}
    return backend, special | {"padding_side": inner.padding_side, "truncation_side": inner.truncation_side}


def _cleaning() -> list[Any]:
    from tokenizers import Regex, normalizers

    return [
        *(normalizers.Replace(old, new) for old, new in _CLEANED.items()),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
