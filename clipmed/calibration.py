"""A checkpoint's temperature, fitted on images with known labels and kept beside its weights.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599): one number, by likelihood. It changes how sure the model is of
its answers, never the answers. It was fitted on these images and prompts: on other ones, or another hospital's images,
the probabilities may be as wrong as before.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from clipmed.checkpoint_files import CALIBRATION_FILE
from clipmed.configuration import from_dict, to_dict
from clipmed.errors import CheckpointError, ClipmedError
from clipmed.files import write_json
from clipmed.probabilities import (
    SCALES,
    expected_calibration_error,
    fit_scale,
    negative_log_likelihoods,
    softmax,
)

MIN_IMAGES = 20
SCHEMA = 2
TemperatureSource: TypeAlias = Literal["learned", "fitted", "fitted on other labels"]
"""where the scale behind probabilities comes from: training, or images of the same labels and prompts, or of others"""
_SURE = 1.64  # standard errors that the gain must exceed: 95 in 100 of one without effect do not
_REMEDY = "remove it, fit it anew with `clipmed calibrate`, or load with calibrated=False, which ignores it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted scale of cosines, what it was fitted on, and what it mends on images that the fit had not seen.

    The figures before and after are of the same images. After: each half of them at the scale fitted on the other half;
    images of one group are in the same half. The scale that is kept is fitted on all of them.
    """

    logit_scale: float
    """the fitted scale of cosines, before the softmax"""
    temperature: float
    """the learned scale over the fitted one: above 1 where the checkpoint is too sure"""
    num_images: int
    """that it was fitted on"""
    labels: tuple[str, ...]
    """what the images were told apart by"""
    ece_before: float
    """expected calibration error in 15 bins, 0 to 1, at the learned scale"""
    ece_after: float
    """the same at a fitted one, on the other half"""
    nll_before: float
    """mean negative log likelihood in nats, at the learned scale"""
    nll_after: float
    """the same at a fitted one, on the other half"""
    nll_gain_error: float
    """standard error of `nll_before` - `nll_after`, with images of one group counted as one"""
    prompts: str
    """digest of the prompts of all labels; see `prompts_digest`"""
    checkpoint: str
    """digest of the weights and config that it belongs to"""
    at_bound: bool
    """the likelihood had no peak, and the scale is an end of those searched: all images right, or as good as chance"""

    def __post_init__(self) -> None:
        numbers = (self.logit_scale, self.temperature)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ClipmedError(f"calibration: got scale and temperature {numbers}; allowed: finite numbers above 0")

    @property
    def helps(self) -> bool:
        """Whether fitted scales are better on images that their fits had not seen, by more than chance would give."""
        return self.nll_before - self.nll_after > _SURE * self.nll_gain_error

    @property
    def objection(self) -> str | None:
        """Why it should not be kept, and what to do; None where it helps."""
        if self.at_bound:
            return (
                f"the likelihood of {self.num_images} images has no peak (every one is right, or they are no better "
                "than chance), so that no temperature follows from them; give more images, and harder ones"
            )
        if not self.helps:
            return (
                f"on images that the fit had not seen, log loss falls by {self.nll_before - self.nll_after:.4f} with a "
                f"standard error of {self.nll_gain_error:.4f}; allowed: more than {_SURE} of them; give more images"
            )
        return None

    def is_for(self, prompts: Mapping[str, Sequence[str]]) -> bool:
        """Whether it was fitted on these labels: the same prompts each, whatever the labels' names and order."""
        return self.prompts == prompts_digest(prompts)

    def save(self, folder: Path) -> Path:
        """Write calibration.json into a checkpoint's folder, atomically, and return its path.

        Raises:
            ClipmedError: the likelihood had no peak: such a scale would make every answer sure, or none.
        """
        if self.at_bound:
            raise ClipmedError(str(self.objection))
        write_json(folder / CALIBRATION_FILE, {"schema": SCHEMA} | to_dict(self))
        return folder / CALIBRATION_FILE


def read_calibration(folder: Path) -> Calibration | None:
    """Return the calibration in a checkpoint's folder; None where there is none.

    Raises:
        CheckpointError: a damaged file.
    """
    path = folder / CALIBRATION_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        if not isinstance(found, dict) or not isinstance(found.get("labels"), list):
            raise ValueError("it has no list of labels")
        if found.pop("schema", 1) != SCHEMA:
            raise ValueError(f"it is of another version of clipmed; allowed: schema {SCHEMA}")
        return from_dict(Calibration, found, path.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is not a calibration: {said}; {_REMEDY}") from error


def check_belongs(calibration: Calibration, digest: str, folder: Path) -> None:
    """Raise CheckpointError where a folder's calibration was fitted on other weights than lie there."""
    if calibration.checkpoint != digest:
        raise CheckpointError(
            f"{folder / CALIBRATION_FILE} was fitted on other weights (digest {calibration.checkpoint[:12]}) than are "
            f"there ({digest[:12]}); {_REMEDY}"
        )


def prompts_digest(prompts: Mapping[str, Sequence[str]]) -> str:
    """Return the hex SHA-256 of the prompts of all labels, whatever their names and order: they change nothing."""
    classes = sorted(sorted(texts) for texts in prompts.values())
    return hashlib.sha256(json.dumps(classes).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Cosines of images with what they truly show."""

    cosines: npt.NDArray[np.floating[Any]]
    """shape (n, C)"""
    targets: npt.NDArray[np.int64]
    """true classes, shape (n,)"""
    groups: Sequence[str]
    """the patient or study of each image, (n,): the halves share none"""


def calibrate(
    answers: Answers, prompts: Mapping[str, Sequence[str]], logit_scale: float, checkpoint: str
) -> Calibration:
    """Fit a temperature and measure it on images that its fit has not seen.

    Args:
        answers: 20 images or more, of two groups or more.
        prompts: the C classes, each with its prompts.
        logit_scale: the learned scale.
        checkpoint: digest of the weights.

    Raises:
        ClipmedError: too few images or groups.
    """
    targets, cosines = answers.targets, answers.cosines
    if len(targets) < MIN_IMAGES or len(set(answers.groups)) < 2:
        raise ClipmedError(
            f"calibration: got {len(targets)} images of {len(set(answers.groups))} groups; allowed: {MIN_IMAGES} "
            "images or more, of two groups or more"
        )
    first = _first_half(answers.groups)
    scales = np.empty(len(targets))
    for half in (first, ~first):
        scales[half] = fit_scale(targets[~half], cosines[~half])
    fitted = fit_scale(targets, cosines)
    before, after = cosines * logit_scale, cosines * scales[:, None]
    losses = [negative_log_likelihoods(targets, logits) for logits in (before, after)]
    return Calibration(
        logit_scale=fitted,
        temperature=logit_scale / fitted,
        num_images=len(targets),
        labels=tuple(prompts),
        ece_before=_calibration_error(targets, before),
        ece_after=_calibration_error(targets, after),
        nll_before=float(losses[0].mean()),
        nll_after=float(losses[1].mean()),
        nll_gain_error=_standard_error(losses[0] - losses[1], answers.groups),
        prompts=prompts_digest(prompts),
        checkpoint=checkpoint,
        at_bound=fitted in SCALES,
    )


def _first_half(groups: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which images are of the first half: whole groups, drawn with a fixed seed until half the images are in."""
    names, members, counts = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    before = np.concatenate([[0], counts[order].cumsum()[:-1]])
    chosen = np.zeros(len(names), dtype=bool)
    chosen[order[before < len(groups) / 2]] = True
    chosen[order[-1]] = False  # a group of more than half of the images leaves the other half one as well
    return np.asarray(chosen[members])


def _calibration_error(targets: npt.NDArray[np.int64], logits: npt.NDArray[np.floating[Any]]) -> float:
    confidences, correct = softmax(logits).max(axis=1), logits.argmax(axis=1) == targets
    return expected_calibration_error(confidences, correct)


def _standard_error(values: npt.NDArray[np.float64], groups: Sequence[str]) -> float:
    """Return the standard error of the mean of values, (n,), that may be alike within a group: of G groups' sums.

    With one value a group it is that of n values (Cameron and Miller 2015, A Practitioner's Guide to Cluster-Robust
    Inference, for a mean).
    """
    _, members = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.bincount(members, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")
