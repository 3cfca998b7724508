"""Published checkpoints in layouts of their own: what is known of each without its files.

The layouts were read in the code that makes or loads the files, not in the weights themselves:

biomedclip    open_clip_config.json and open_clip_pytorch_model.bin, as OpenCLIP saves a CustomTextCLIP of a timm ViT
              and a BERT; the config as users of the model repeat it
unimed        github.com/mbzuai-oryx/UniMed-CLIP at 6f09177: {"epoch", "name", "state_dict", "optimizer", "scaler"},
              the text tower under `text_encoder`, otherwise OpenCLIP's names; learning rates are NumPy scalars
bmc-clip      {"state_dict"} with the prefix `module.` over OpenCLIP's ViT-L-14, as users of BMC_CLIP_CF.pt load it
transformers  transformers' CLIPModel, such as PubMedCLIP, PLIP and MONET
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["auto", "openclip", "biomedclip", "unimed", "bmc-clip", "transformers"]
Family = Literal["openclip", "unimed", "transformers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What is known of a published checkpoint."""

    title: str
    license: str
    """of the weights, as the hub names it"""
    data: str
    citation: str
    model: str | None = None
    """a model config, where the files have none"""


BIOMEDCLIP = Published(
    title="BiomedCLIP",
    license="mit",
    data="PMC-15M: 15 million figures of PubMed Central and their captions, as its authors describe it.",
    citation="Zhang et al., BiomedCLIP, NEJM AI 2025 (arXiv 2303.00915)",
    model="clipmed_vit_b16_bert",
)
UNIMED = Published(
    title="UniMed-CLIP",
    license="cc-by-nc-4.0",
    data="UniMed: thirteen sets of pairs of six modalities, as listed by its authors; some need an agreement.",
    citation="Khattak et al., UniMed-CLIP, arXiv 2412.10372",
)
BMC_CLIP = Published(
    title="BMC-CLIP",
    license="mit",
    data="BIOMEDICA: figures of PubMed Central and their captions, filtered by concepts, after a start from DataComp.",
    citation="Lozano et al., BIOMEDICA, CVPR 2025 (arXiv 2501.07171)",
    model="ViT-L-14",
)
PUBMEDCLIP = Published(
    title="PubMedCLIP",
    license="mit",
    data="ROCO: radiology figures of PubMed Central and their captions, after a start from OpenAI's CLIP.",
    citation="Eslami et al., PubMedCLIP, Findings of EACL 2023 (arXiv 2112.13906)",
)

BY_LAYOUT: Mapping[str, Published] = {"biomedclip": BIOMEDCLIP, "unimed": UNIMED, "bmc-clip": BMC_CLIP}
BY_REPOSITORY: Mapping[str, Published] = {
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": BIOMEDCLIP,
    "BIOMEDICA/BMC_CLIP_CF": BMC_CLIP,
    "flaviagiammarino/pubmed-clip-vit-base-patch32": PUBMEDCLIP,
}
FAMILIES: Mapping[str, Family] = {
    "openclip": "openclip",
    "biomedclip": "openclip",
    "bmc-clip": "openclip",
    "unimed": "unimed",
    "transformers": "transformers",
}
# UniMed-CLIP's model configs by the widths of image and text tower.
UNIMED_MODELS: Mapping[tuple[int, int], str] = {
    (768, 768): "clipmed_unimed_b16",
    (1024, 768): "clipmed_unimed_l14_336",
    (1024, 1024): "clipmed_unimed_l14_336_large_text",
}


def openclip_config(model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the content of open_clip_config.json."""
    from clipmed.pixels import OPENAI_MEAN, OPENAI_STD

    statistics = {"mean": list(OPENAI_MEAN), "std": list(OPENAI_STD)}
    return {"model_cfg": dict(model_cfg), "preprocess_cfg": statistics | dict(preprocess_cfg or {})}
