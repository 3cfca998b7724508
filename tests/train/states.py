"""Small training states for the tests of checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

from train.config import CheckpointConfig
from train.snapshot import TrainState


class Tower(torch.nn.Module):
    """Matrices whose rows do not divide evenly over processes, a row vector, a scalar and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 5)
        self.last = torch.nn.Linear(5, 1)
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.register_buffer("seen", torch.tensor([3, 4]))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(torch.tanh(self.first(rows))) * self.scale
        return scores


def make_state(seed: int = 0, steps: int = 0, device: str = "cpu") -> TrainState:
    """A model of its own weights, its optimiser after some steps, and running means."""
    torch.manual_seed(seed)
    model = Tower().to(device)
    state = TrainState(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.1), ema=means_of(model))
    advance(state, steps)
    return state


def means_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() * 0.5 for name, parameter in model.named_parameters()}


def advance(state: TrainState, steps: int = 1) -> None:
    """Train on rows that are always the same."""
    rows = torch.linspace(-1, 1, 32, device=next(iter(state.ema.values())).device).reshape(8, 4)
    for _ in range(steps):
        state.optimizer.zero_grad()
        state.model(rows).square().mean().backward()
        state.optimizer.step()
        for name, parameter in state.model.named_parameters():
            state.ema[name].lerp_(parameter.detach(), 0.1)


def tensors_of(state: TrainState) -> dict[str, torch.Tensor]:
    """Every tensor of a state, whole, under a name of its own."""
    tensors = {f"weight {name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"mean {name}": tensor for name, tensor in state.ema.items()}
    for name, parameter in state.model.named_parameters():
        tensors |= {f"{what} {name}": value for what, value in state.optimizer.state.get(parameter, {}).items()}
    return {name: whole(tensor).detach().clone() for name, tensor in tensors.items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert [name for name in one if one[name].dtype != other[name].dtype] == []


def whole_config(*, keep: int = 2, best_metric: str | None = None, background: bool = True) -> CheckpointConfig:
    return CheckpointConfig(keep=keep, best_metric=best_metric, background=background)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())
