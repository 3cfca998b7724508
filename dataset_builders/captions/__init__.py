"""Captions from facts: versioned template banks per modality and finding.

banks/<name>.yaml holds a bank; `load_bank` reads and checks it, `captions_for` chooses from it.
"""

from dataset_builders.captions.bank import TemplateBank, load_bank
from dataset_builders.captions.sampler import captions_for

__all__ = ["TemplateBank", "captions_for", "load_bank"]
