"""Two processes on gloo give the gradients of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.train.gradients import cached, part_of, settings_of, small_batch, small_two_tower

WORLD = 2
CASES = [
    (name, equals, image, text)
    for name in ("infonce", "siglip")
    for equals in ("negatives", "masked", "positives")
    for image, text in ((None, None), (2, 3))
]


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    try:
        whole = small_batch()
        batch = part_of(whole, slice(rank * 6, rank * 6 + 6))
        for number, (name, equals, image, text) in enumerate(CASES):
            place = {"rank": rank, "world_size": WORLD, "first_position": rank * 6}
            settings = settings_of(name, image, text, equals=equals, **place)
            loss, gradients = cached(small_two_tower(), batch, settings)
            torch.save({"loss": loss, **gradients}, Path(folder) / f"case{number}_rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gloo")
    mp.start_processes(_worker, (str(folder),), nprocs=WORLD, start_method="spawn")
    return folder


@pytest.mark.parametrize("number", range(len(CASES)))
def test_two_processes_give_the_gradients_of_one(results: Path, number: int) -> None:
    name, equals, image, text = CASES[number]
    # One process cut as the two are: dropout belongs to a micro-batch's place in the global batch.
    settings = settings_of(name, image or 6, text or 6, equals=equals)
    wanted_loss, wanted = cached(small_two_tower(), small_batch(), settings)
    for rank in range(WORLD):
        got = torch.load(results / f"case{number}_rank{rank}.pt", weights_only=True)
        torch.testing.assert_close(got.pop("loss"), wanted_loss, rtol=1e-12, atol=0)
        assert got.keys() == wanted.keys()
        for name, gradient in got.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-15, msg=f"{name} on rank {rank}")
