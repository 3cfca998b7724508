"""The guard: every caption is held to what is known of its image before it is kept.

It reads English by rules and a lexicon, not by a model: what it refuses can be looked up, and is the same every time.
It does not understand. Captions that state a finding in words that neither its catalogue entry nor the lexicon lists
are refused, and templates serve.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataset_builders.captions.facts import CaptionFacts
from dataset_builders.captions.guard.codes import GuardConfig, Refusal
from dataset_builders.captions.guard.context import check_context
from dataset_builders.captions.guard.findings import check_findings
from dataset_builders.captions.guard.form import check_form, num_tokens
from dataset_builders.captions.guard.lexicon import load_lexicon
from dataset_builders.captions.guard.rewrites import check_content
from dataset_builders.captions.guard.soundness import check_soundness
from dataset_builders.captions.guard.text import tokenize
from dataset_builders.figures.language import caption_language


class Guard:
    """Judges captions. It has no state: threads may share it."""

    def __init__(self, config: GuardConfig | None = None) -> None:
        self.config = config or GuardConfig()
        self._lexicon = load_lexicon()

    def prepare(self) -> None:
        """Load what the first judgement would wait for, while no endpoint waits for a question."""
        num_tokens("a scan")
        caption_language("Un examen de la tête.")

    def check(self, text: str, facts: CaptionFacts, accepted: Sequence[str] = ()) -> tuple[Refusal, ...]:
        """Return all reasons to refuse a caption; none if it may be kept.

        Args:
            text: the caption.
            facts: what is known of the image.
            accepted: captions of the same subject that were accepted before.
        """
        tokens = tokenize(text)
        found = [
            *check_form(text, accepted, self.config),
            *check_findings(tokens, facts, self._lexicon),
            *check_context(text, tokens, facts, self._lexicon),
            *check_soundness(text, tokens, facts, self._lexicon),
        ]
        return tuple(dict.fromkeys(found))

    def check_rewrite(self, text: str, native: str) -> tuple[Refusal, ...]:
        """Return all reasons to refuse a rewrite of a native text: what it adds, and what it turns round.

        Args:
            text: the rewrite.
            native: the text as its source wrote it.
        """
        found = [
            *check_form(text, (), self.config),
            *check_content(tokenize(text), tokenize(native), self._lexicon),
        ]
        return tuple(dict.fromkeys(found))
