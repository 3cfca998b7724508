"""Multiple choice and true-or-false probes over published formats, scored on cached embeddings.

question_set = load_questions("mediconfusion", folder)
texts(question_set, style), image_refs(question_set)      what to embed, once
image_bytes(question_set, ref)                            an image of the set
score_questions(question_set, images, texts, style)       metrics in the weighted form
"""

from zeroshot_eval.choices.loading import MAIN_METRICS, load_questions
from zeroshot_eval.choices.questions import (
    ItemSkippedError,
    Question,
    QuestionSet,
    TextStyle,
    image_bytes,
    image_refs,
    text_style,
    texts,
)
from zeroshot_eval.choices.scoring import ScoredChoices, score_questions

__all__ = [
    "MAIN_METRICS",
    "ItemSkippedError",
    "Question",
    "QuestionSet",
    "ScoredChoices",
    "TextStyle",
    "image_bytes",
    "image_refs",
    "load_questions",
    "score_questions",
    "text_style",
    "texts",
]
