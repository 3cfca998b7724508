"""The guard of captions: what it refuses, and why."""

from dataset_builders.captions.guard.codes import GuardCode, GuardConfig, Refusal
from dataset_builders.captions.guard.guard import Guard

__all__ = ["Guard", "GuardCode", "GuardConfig", "Refusal"]
