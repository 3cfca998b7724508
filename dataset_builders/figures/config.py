"""Settings of the work on figures: compound figures, and kinds of figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmed.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmConfig:
    """A server that speaks OpenAI's chat protocol. Its key, where it wants one, is in OPENAI_API_KEY."""

    url: str = "http://127.0.0.1:8000/v1"
    """address of the server, up to /v1"""
    model: str = ""
    """name of the model, as the server knows it"""
    timeout_s: float = 60.0
    """longest wait for an answer, in seconds"""
    retries: int = 3
    """how often a request that failed is repeated"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelConfig:
    """What becomes of compound figures. The whole figure always stays a sample; its panels become samples beside it."""

    detector: Literal["none", "gutters", "model"] = "gutters"
    """none: figures stay whole. gutters: panels by the empty space between them and by their letters. model: an ONNX
    object detector"""
    model: Path | None = None
    """the ONNX file of the detector"""
    splitter: Literal["rules", "llm"] = "rules"
    """who cuts captions into parts. rules: their "(A) … (B) …" structure. llm: a language model where there is none"""
    llm: LlmConfig = field(default_factory=LlmConfig)
    """the language model's server"""
    min_confidence: float = 0.6
    """panels whose match with a part of the caption is less certain than this, from 0 to 1, do not become samples"""
    min_side: int = 64
    """panels with a shorter side than this, in pixels, are rejected"""
    split_no_derivatives: bool = False
    """also cut figures whose licence forbids derivatives (ND)"""

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"panels.min_confidence: got {self.min_confidence}; allowed: 0 to 1")
        if self.min_side < 1:
            raise ConfigError(f"panels.min_side: got {self.min_side}; allowed: 1 or more")
        if (self.detector == "model") != (self.model is not None):
            raise ConfigError(
                f"panels: got detector={self.detector!r}, model={self.model}; allowed: detector 'model' with the path "
                "of an ONNX file, or another detector without one"
            )
        if self.splitter == "llm" and not self.llm.model:
            raise ConfigError("panels.llm.model: got none; name the model that the server at panels.llm.url runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class KindConfig:
    """How a figure's kind is found: medical image, plot, diagram. Recorded with the sample; packing filters by it."""

    method: Literal["rules", "classifier", "none"] = "rules"
    """rules: colours, lines and white space. classifier: one that `dataset_builders kinds train` made"""
    classifier: Path | None = None
    """the classifier's folder"""

    def __post_init__(self) -> None:
        if (self.method == "classifier") != (self.classifier is not None):
            raise ConfigError(
                f"kinds: got method={self.method!r}, classifier={self.classifier}; allowed: method 'classifier' with "
                "the folder of one, or another method without"
            )
