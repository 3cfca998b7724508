"""How the documents' commands are run by the tests: which are only parsed and why, at what size the others run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

# Commands that cannot run here: (what they look like, why). Their own parsers check them, up to the point of doing.
PARSED: tuple[tuple[str, str], ...] = (
    (
        r"^make (demo|test|test-slurm|test-llm|check|format|wheel|docs|docs-serve|clean|env)\b",
        "slow, and run elsewhere",
    ),
    (r"^python -m benchmarks\.", "takes minutes, and peers of its own"),
    (
        r"^clipmed import .*(microsoft/|BIOMEDICA/|flaviagiammarino/|--layout unimed)",
        "published weights are not here; tests/clipmed/test_importing.py converts small ones of their layouts",
    ),
    (r"^pip install\b", "installs from the internet; tests/test_wheel.py builds the wheel"),
    (r"^vllm ", "another project's program"),
    (r"--device cuda|--precision bf16", "needs a GPU"),
    (r"executor slurm|EXECUTOR=slurm", "needs a Slurm cluster; make test-slurm runs such commands"),
    (r"checkpoint trained\b", "its output is that of a toy model that is not shipped"),
    (r"^torchrun .*--nproc-per-node [248]\b", "needs several GPUs"),
)
# Commands whose exit status tells something else than success: (what they look like, the statuses).
STATUSES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"^python -m zeroshot_eval gate\b", (0, 1)),  # toy models pass or fail; 2 would be a wrong command
    (r"^python -m dataset_builders check chestmnist ", (1,)),  # the folder of the tests holds a few images only
)
OTHERS = ("vllm",)  # programs of other projects: they are not run, and their options are not checked
# Commands that run until one ends them.
SERVING = r"^clipmed serve\b"
# What makes commands small: (what they look like, options that are added behind). The last of two equal options holds.
SMALLER: tuple[tuple[str, str], ...] = (
    (r"^python -m dataset_builders build\b", "--jobs.executor inline"),
    (
        r"^python -m dataset_builders phantoms\b",
        "--size 48 --train-per-class 3 --val-per-class 1 --test-per-class 2 --articles 24",
    ),
    (
        r"^python -m dataset_builders pmc (build|mirror)\b",
        "--jobs.executor inline --num-units 2 --network.max-backoff-s 0.2",
    ),
    (r"^python -m shards pack\b", "--jobs.executor inline"),
    (
        r"^python -m train (?!list|page|plan)",
        "--data.workers 0 --data.batch-size 16 --optim.steps 6 --optim.warmup-steps 2 --jobs.executor inline",
    ),
    (r"^python -m zeroshot_eval (score|sweep|curve|soup)\b", "--bootstrap-samples 100"),
    (r"^python -m zeroshot_eval (compare|gate)\b", "--samples 1000"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one command is run."""

    parse: str = ""
    """why it is only parsed; empty if it runs"""
    statuses: tuple[int, ...] = (0,)
    """exit statuses that it may have"""
    serves: bool = False
    """it is interrupted once its page answers"""
    more: list[str] = field(default_factory=list)
    """options that make it small"""

    def words(self, program: str, words: Sequence[str]) -> list[str]:
        """The words that are run: recipes as their smoke twins, with the options that make them small."""
        given = list(words)
        if program == "python" and given[:2] == ["-m", "train"] and not self.parse:
            given[2:3] = [_twin(given[2])]
        return [*given, *self.more]


def rule_of(program: str, words: Sequence[str]) -> Rule:
    """Return how a command is run."""
    line = " ".join([program.replace("python3", "python"), *words])
    parse = next((reason for pattern, reason in PARSED if re.search(pattern, line)), "")
    statuses = next((statuses for pattern, statuses in STATUSES if re.search(pattern, line)), (0,))
    is_help = "--help" in words or "-h" in words
    small = [option for pattern, options in SMALLER if re.search(pattern, line) for option in options.split()]
    serves = bool(re.search(SERVING, line)) and not is_help
    more = [] if parse or is_help else [*small, *(["--port", os.environ.get("DOCUMENTS_PORT", "0")] if serves else [])]
    return Rule(parse=parse, statuses=statuses, serves=serves, more=more)


def _twin(recipe: str) -> str:
    """A recipe's smoke twin; commands, files and twins stay."""
    stays = recipe in {"list", "page", "plan"} or recipe.endswith(("_smoke", ".yaml")) or recipe.startswith("-")
    return recipe if stays else f"{recipe}_smoke"
