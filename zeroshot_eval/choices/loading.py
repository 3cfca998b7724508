"""Question sets by the name of their format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from clipmed.configuration import nearest
from clipmed.errors import ConfigError, DataError
from zeroshot_eval.choices import gmai, mediconfusion, medmat, microbench, negation, probmed
from zeroshot_eval.choices.questions import Format, QuestionSet

READERS: Mapping[str, Callable[[Path, Path | None], QuestionSet]] = MappingProxyType(
    {
        "microbench": microbench.read,
        "mediconfusion": mediconfusion.read,
        "probmed": probmed.read,
        "negation": negation.read,
        "gmai": gmai.read,
        "medmat": medmat.read,
    }
)

# What stands for a set of the format, as its authors score it: one of the metrics of `score_questions`.
MAIN_METRICS: Mapping[Format, str] = MappingProxyType(
    {
        "microbench": "accuracy",
        "mediconfusion": "set_accuracy",
        "probmed": "yes_no/probe_accuracy",
        "negation": "accuracy",
        "gmai": "accuracy",
        "medmat": "accuracy",
    }
)


def load_questions(form: Format, location: Path, images: Path | None = None) -> QuestionSet:
    """Return the questions of a published file or folder.

    Args:
        form: the format: microbench, mediconfusion, probmed, negation, gmai or medmat.
        location: the file, or the folder that it lies in.
        images: the folder that the paths of images start from; that of the file unless given.

    Raises:
        ConfigError: no such format.
        DataError: nothing is at the location, or no question of the format.
    """
    if form not in READERS:
        allowed = get_args(Format)
        raise ConfigError(f"format of questions: got {form!r}{nearest(form, allowed)} Allowed: {', '.join(allowed)}")
    if not location.exists():
        raise DataError(f"{location}: nothing is there; give the file or folder of the {form} format")
    return READERS[form](location, images)
