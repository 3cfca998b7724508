"""The checkpoints that others load: the run's model at its end, its best one, and those that are scored on the way."""

from __future__ import annotations

from pathlib import Path

import torch

from clipmed.checkpoints import save_checkpoint
from clipmed.towers import TwoTower
from train.averaging import interpolate
from train.card import model_card
from train.landing import Landing
from train.parallel import full_weights
from train.session import Session, build_model
from train.snapshot import TrainState

MODEL_FOLDER = "model"
BEST_FOLDER = "best"


def publish(session: Session) -> Path:
    """Write model/ and, where a best checkpoint is kept, best/; return the former."""
    folder = session.config.out / MODEL_FOLDER
    _write(session, folder)
    best = session.store.best()
    if best is not None:
        state = session.state
        session.store.load(best[0], TrainState(model=state.model, ema=state.ema))
        _write(session, session.config.out / BEST_FOLDER)
    return folder


def publish_for_scoring(session: Session, landing: Landing) -> Path:
    """Write the model of this step where its scoring reads it; return the folder."""
    folder = landing.model_folder(session.step)
    _write(session, folder)
    return folder


def _write(session: Session, folder: Path) -> None:
    """Write the weights that the run stands for: of their running mean, and on the way back to the initial ones."""
    with session.published_weights():
        weights = full_weights(session.model, session.plan.rank)
        if session.is_main:
            two_tower = _assembled(session, weights)
            save_checkpoint(folder, two_tower, model_card(session.config, session.sets, session.last_validation))
    session.accelerator.wait_for_everyone()


def _assembled(session: Session, weights: dict[str, torch.Tensor]) -> TwoTower:
    """Return a model of its own, neither compiled nor sharded, with the weights to publish."""
    two_tower = build_model(session.config)
    share = session.config.optim.wise_ft
    if share is not None:
        weights = interpolate(two_tower.model.state_dict(), weights, share)
    two_tower.model.load_state_dict(weights)
    return two_tower
