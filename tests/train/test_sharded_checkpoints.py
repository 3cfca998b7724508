"""Models that FSDP2 has divided: what two processes wrote, any number of processes reads, bit for bit."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from clipmed.errors import CheckpointError
from tests.train.states import advance, assert_same, make_state, means_of, names_in, tensors_of
from train.checkpoints import CheckpointStore
from train.config import CheckpointConfig
from train.snapshot import TrainState, take_snapshot

FORMS: tuple[Any, ...] = ("whole", "sharded")


def divided_state(world_size: int, seed: int = 0) -> TrainState:
    """The small state with its matrices divided over all processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model: Any = make_state(seed).model
    mesh = init_device_mesh("cpu", (world_size,))
    fully_shard(model.first, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params={model.scale})
    return TrainState(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.1), ema=means_of(model))


def open_store(folder: Path, form: Any, rank: int, world_size: int, *, background: bool = True) -> CheckpointStore:
    config = CheckpointConfig(format=form, background=background)
    return CheckpointStore(folder, config, rank=rank, world_size=world_size, retry_delays_s=())


def _write(rank: int, folder: Path, world_size: int) -> None:
    state = divided_state(world_size)
    advance(state, 2)
    wanted = tensors_of(state)
    for form in FORMS:
        store = open_store(folder / form, form, rank, world_size)
        store.save(state, 1, {})
        store.save(state, 2, {"note": "from all"})
        store.wait()
        found = store.newest()
        assert found is not None
        assert (found[1]["step"], found[1]["note"], found[1]["format"]) == (2, "from all", form)
    _check_that_copies_are_written_once(rank, world_size)
    if rank == 0:
        torch.save(wanted, folder / "wanted.pt")
    _read(rank, folder, world_size)


def _check_that_copies_are_written_once(rank: int, world_size: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world_size, 1), mesh_dim_names=("copies", "parts"))
    model = torch.nn.Module()
    model.register_buffer("rows", distribute_tensor(torch.ones(4, 2), mesh, [Replicate(), Shard(0)]))
    snapshot = take_snapshot(TrainState(model=model), "sharded", rank)
    assert list(snapshot.groups["model"]) == (["rows"] if rank == 0 else [])
    assert snapshot.num_bytes == 32


def _read(rank: int, folder: Path, world_size: int) -> None:
    wanted = torch.load(folder / "wanted.pt", weights_only=True) if rank == 0 else {}
    for form in FORMS:
        state = divided_state(world_size, seed=1)
        # Reading does not depend on what the config says would be written.
        store = open_store(folder / form, "whole", rank, world_size)
        store.load(folder / form / "step_00000002", state)
        got = tensors_of(state)
        if rank == 0:
            assert_same(got, wanted)


@contextmanager
def _files_of_at_most(num_bytes: int) -> Iterator[None]:
    """A full disk, for this process. The old limit returns, since torch's own store also writes to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _fail(rank: int, folder: Path, world_size: int) -> None:
    state = divided_state(world_size)
    checkpoints = folder / "checkpoints"
    store = open_store(checkpoints, "sharded", rank, world_size, background=False)
    store.save(state, 1, {})
    with _files_of_at_most(100) if rank == 1 else nullcontext():
        if rank == 0:
            with pytest.warns(UserWarning, match=r"step 2: no checkpoint .*File too large \(process 1\)"):
                store.save(state, 2, {})
        else:
            store.save(state, 2, {})
        with pytest.raises(CheckpointError, match=r"step 3: no checkpoint .*File too large"):
            store.save(state, 3, {}, final=True)
    assert names_in(checkpoints) == ["step_00000001"]


def _start(rank: int, work: Any, folder: str, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/{work.__name__}_{world_size}", rank=rank, world_size=world_size
    )
    try:
        work(rank, Path(folder), world_size)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def in_processes(work: Any, folder: Path, world_size: int) -> None:
    mp.start_processes(_start, (work, str(folder), world_size), nprocs=world_size, start_method="spawn")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of both forms that two processes wrote, and read back."""
    folder = tmp_path_factory.mktemp("sharded")
    in_processes(_write, folder, 2)
    return folder


def test_every_process_writes_its_part_and_nothing_is_pickled(written: Path) -> None:
    parts = [f"{group}-0000{rank}-of-00002.safetensors" for group in ("ema", "model", "optimizer") for rank in (0, 1)]
    assert names_in(written / "sharded" / "step_00000002") == sorted([*parts, "state.json"])
    assert names_in(written / "whole" / "step_00000002") == [
        "ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_model_reads_them(written: Path, form: Any) -> None:
    state = make_state(seed=1)
    CheckpointStore(written / form, CheckpointConfig()).load(written / form / "step_00000002", state)
    assert_same(tensors_of(state), torch.load(written / "wanted.pt", weights_only=True))


@pytest.mark.slow
def test_three_processes_read_what_two_wrote(written: Path) -> None:
    in_processes(_read, written, 3)


def test_where_one_process_cannot_write_all_go_on_without_the_checkpoint(tmp_path: Path) -> None:
    in_processes(_fail, tmp_path, 2)
