"""Zero-shot scores of checkpoints as they land, beside the run or as jobs of their own.

Every scored step has a folder, written by `python -m zeroshot_eval`, which runs as a process of its own:

    scores/step_00001000/
        scores.json, report.html, config.yaml    what it wrote; the step counts as scored once scores.json is there
        log.txt                                  what it said
        job.txt                                  the Slurm job's number, where it is one
        work/                                    the model and the embeddings; removed when it has ended

Nothing here ends a run: what goes wrong is a warning and a row with `failed`. A run that was killed makes up the scores
whose models it left in work/, and reports those that landed in its absence.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipmed.checkpoints import CONFIG_FILE
from clipmed.configuration import nearest
from clipmed.errors import ConfigError
from train.config import TrainConfig
from train.scorings import CHECKOUT, LOG_FILE, SCORES_FILE, WORK_FOLDER, Scoring, start_scoring, submitted_scoring
from train.tracking import METRICS_FILE, read_metrics

SCORES_FOLDER = "scores"
SUITES_FOLDER = CHECKOUT / "zeroshot_eval" / "suites"
POLL_DELAY_S = 0.2
FAILED = {"failed": 1.0}

Scores = dict[str, float]


class Landing:
    """Starts the scorings of a run and collects what they find.

    Every process makes one, so that `due` is asked by all; only that of rank 0 does anything.

    Args:
        config: the run's.
        resumed_step: finished steps at the start.
        rank: this process's.
        stopped: whether the run is about to stop; waiting ends then, and the resumed run makes the rest up.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        resumed_step: int = 0,
        rank: int = 0,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config = config
        self._active = rank == 0 and config.score.suite is not None
        self._stopped = stopped
        self._waiting: deque[tuple[int, Path]] = deque()
        self._running: dict[int, Scoring] = {}
        self._landed: dict[int, Scores] = {}
        self._reported: set[int] = set()
        if self._active:
            self._take_up(resumed_step)

    def due(self, step: int) -> bool:
        """Return whether the model of so many finished steps is to be scored; the same on every process."""
        score = self._config.score
        is_last = step == self._config.optim.steps
        return score.suite is not None and step > 0 and (is_last or step % score.every_steps == 0)

    def model_folder(self, step: int) -> Path:
        """Return where to save the model to be scored; it is removed after the scoring."""
        return self._folder(step) / WORK_FOLDER / "model"

    def score(self, step: int, model_folder: Path) -> None:
        """Score a model, or put it in line behind the one that is being scored; scored steps are only reported."""
        known = {*self._reported, *self._landed, *self._running, *dict(self._waiting)}
        if not self._active or step in known:
            return
        self._waiting.append((step, model_folder))
        self._advance()
        if self._config.score.executor == "wait":
            self._wait()

    def collect(self) -> dict[int, Scores]:
        """Return the headline scores by step that have landed since the last call; {"failed": 1} where there are none.

        Cheap enough for every step. Also lets the next one in line begin.
        """
        if self._active:
            self._advance()
        landed, self._landed = self._landed, {}
        self._reported.update(landed)
        return dict(sorted(landed.items()))

    def finish(self) -> dict[int, Scores]:
        """Wait for all scorings and return what `collect` would.

        Slurm jobs are not waited for, which would hold the run's GPUs; the same command run again reports them.
        """
        if self._running or self._waiting:
            if self._config.score.executor == "slurm":
                steps = ", ".join(map(str, self._running))
                tqdm.write(f"scores of steps {steps} will land in {self._root}", file=sys.stderr)
            else:
                self._wait()
        return self.collect()

    def close(self) -> None:
        """End what still runs on this machine; a resumed run makes it up."""
        for task in self._running.values():
            task.stop()
        self._running.clear()
        self._waiting.clear()

    @property
    def _root(self) -> Path:
        return self._config.out / SCORES_FOLDER

    def _folder(self, step: int) -> Path:
        return self._root / f"step_{step:08d}"

    def _take_up(self, resumed_step: int) -> None:
        """Find what landed or was left undone while no run was there to see it."""
        rows = read_metrics(self._config.out / METRICS_FILE, "scores")
        self._reported = {row["step"] for row in rows if not row.get("failed")}
        for folder in sorted(self._root.glob("step_*")):
            step = int(folder.name.removeprefix("step_"))
            if step > resumed_step or step in self._reported:
                continue
            has_scores = (folder / SCORES_FILE).exists()
            if not has_scores and (job := submitted_scoring(self._config, folder)):
                self._running[step] = job
            elif has_scores or self._is_left(step, resumed_step):
                self._waiting.append((step, self.model_folder(step)))
        self._advance()

    def _is_left(self, step: int, resumed_step: int) -> bool:
        """Return whether a step's model waits to be scored; that of the step resumed at is made anew by the run."""
        return step < resumed_step and (self.model_folder(step) / CONFIG_FILE).exists()

    def _wait(self) -> None:
        total = len(self._running) + len(self._waiting)
        with tqdm(total=total, desc="scoring checkpoints", unit="checkpoint", file=sys.stderr) as bar:
            while (self._running or self._waiting) and not self._stopped():
                time.sleep(POLL_DELAY_S)
                self._advance()
                bar.update(total - len(self._running) - len(self._waiting) - bar.n)

    def _advance(self) -> None:
        """Take in what has ended and begin what may."""
        for step in [step for step, task in self._running.items() if task.ended()]:
            del self._running[step]
            self._land(step)
        unlimited = self._config.score.executor == "slurm"
        while self._waiting and (unlimited or not self._running):
            step, model = self._waiting[0]
            if (self._folder(step) / SCORES_FILE).exists():
                self._land(step)
            elif not self._start(step, model):
                break
            self._waiting.popleft()

    def _start(self, step: int, model: Path) -> bool:
        """Begin to score a step; return False where it has to wait for one that a killed run left behind."""
        try:
            scoring = start_scoring(self._config, model, self._folder(step))
        except (OSError, RuntimeError, ValueError) as error:
            self._fail(step, f"{type(error).__name__}: {error}")
            return True
        if scoring is not None:
            self._running[step] = scoring
        return scoring is not None

    def _land(self, step: int) -> None:
        """Take in the scores of a step that has ended."""
        path = self._folder(step) / SCORES_FILE
        try:
            self._landed[step] = headline(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            self._fail(step, _last_line(self._folder(step) / LOG_FILE))
        except (OSError, ValueError, LookupError, TypeError) as error:
            self._fail(step, f"{path} cannot be read: {type(error).__name__}: {error}")
        else:
            self._clear(step)

    def _fail(self, step: int, reason: str) -> None:
        self._landed[step] = dict(FAILED)
        self._clear(step)
        log = self._folder(step) / LOG_FILE
        warnings.warn(f"the model of step {step} was not scored: {reason} (log: {log}); training goes on", stacklevel=2)

    def _clear(self, step: int) -> None:
        shutil.rmtree(self._folder(step) / WORK_FOLDER, ignore_errors=True)


def check_suite(config: TrainConfig) -> None:
    """Check that the suite of `score.suite` is there, before hours of training end in a failed scoring.

    Raises:
        ConfigError: no such file, or no suite of that name.
    """
    suite = config.score.suite
    if suite is None:
        return
    if suite.endswith((".yaml", ".yml")):
        if not Path(suite).is_file():
            raise ConfigError(f"score.suite: no such file: {suite}; give the path of a suite's .yaml file")
        return
    names = sorted(path.stem for path in SUITES_FOLDER.glob("*.yaml"))
    if suite not in names:
        raise ConfigError(
            f"score.suite: unknown suite {suite!r}{nearest(suite, names)} Allowed: {', '.join(names)}, or the path of "
            "a suite's .yaml file"
        )


def headline(scores: Mapping[str, Any]) -> Scores:
    """Return the scores worth a curve from the content of scores.json, by name.

    These are averages over modalities (`overall/accuracy`), accuracies by modality (`ct/accuracy`), those of tasks that
    are in no average, and recalls at 5 (`figures/image_to_text_r5`).
    """
    named = ((_headline_name(row), row["value"]) for row in scores["rows"])
    return {name: float(value) for name, value in named if name}


def _headline_name(row: Mapping[str, Any]) -> str:
    level, metric = row["level"], row["metric"]
    if level == "overall" and metric in ("accuracy", "balanced_accuracy", "auroc"):
        return f"overall/{metric}"
    if level == "modality" and metric == "accuracy":
        return f"{row['modality']}/accuracy"
    if level == "task" and metric == "accuracy" and (row["held_out"] or row["modality"] == "mixed"):
        return f"{row['task']}/accuracy"
    if level == "task" and metric.endswith("/recall@5"):
        return f"{row['task']}/{metric.removesuffix('/recall@5')}_r5"
    return ""


def _last_line(log: Path) -> str:
    """Return the last words of a scoring."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it ended without a word"
