"""What a user's run rests on: a checkpoint is whole or absent, and gives back what was saved."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clipmed.errors import CheckpointError, ConfigError
from tests.train.states import advance, assert_same, make_state, names_in, tensors_of, whole_config
from train.checkpoints import CheckpointStore, check_same_run
from train.config import CheckpointConfig
from train.snapshot import TrainState

REPOSITORY = Path(__file__).parents[2]


def open_store(folder: Path, **settings: Any) -> CheckpointStore:
    return CheckpointStore(folder, whole_config(**settings))


def newest_step(folder: Path) -> int:
    found = open_store(folder).newest()
    assert found is not None
    return int(found[1]["step"])


@pytest.mark.parametrize("form", ["whole", "sharded"])
def test_a_saved_state_comes_back_bit_for_bit_and_trains_on_alike(tmp_path: Path, form: Any) -> None:
    saved = make_state(steps=3)
    store = CheckpointStore(tmp_path, CheckpointConfig(format=form))
    store.save(saved, 3, {"scaler": None})
    store.wait()
    found = open_store(tmp_path).newest()
    assert found is not None
    folder, facts = found
    assert (facts["step"], facts["scaler"], facts["format"]) == (3, None, form)
    loaded = make_state(seed=1)
    store.load(folder, loaded)
    assert_same(tensors_of(loaded), tensors_of(saved))
    advance(saved)
    advance(loaded)
    assert_same(tensors_of(loaded), tensors_of(saved))


def test_the_optimizer_may_be_wrapped_by_accelerate_and_the_model_compiled(tmp_path: Path) -> None:
    from accelerate import Accelerator

    saved = make_state(steps=2)
    wrapped = TrainState(
        model=torch.compile(saved.model),  # type: ignore[arg-type]
        optimizer=Accelerator(cpu=True).prepare_optimizer(saved.optimizer),
        ema=saved.ema,
    )
    store = open_store(tmp_path)
    store.save(wrapped, 2, {}, final=True)
    loaded = make_state(seed=1)
    store.load(tmp_path / "step_00000002", loaded)
    assert_same(tensors_of(loaded), tensors_of(saved))


def test_states_are_found_by_name_whatever_the_order_of_the_groups(tmp_path: Path) -> None:
    saved = make_state(steps=2)
    store = open_store(tmp_path)
    store.save(saved, 2, {}, final=True)
    loaded = make_state(seed=1)
    parameters = list(loaded.model.parameters())
    groups = [{"params": parameters[2:]}, {"params": parameters[:2]}]
    loaded = TrainState(model=loaded.model, optimizer=torch.optim.AdamW(groups, lr=0.1), ema=loaded.ema)
    store.load(tmp_path / "step_00000002", loaded)
    assert_same(tensors_of(loaded), tensors_of(saved))


def test_the_weights_alone_can_be_read(tmp_path: Path) -> None:
    saved = make_state(steps=2)
    store = open_store(tmp_path)
    store.save(saved, 2, {}, final=True)
    loaded = make_state(seed=1).model
    store.load(tmp_path / "step_00000002", TrainState(model=loaded))
    assert all(torch.equal(tensor, saved.model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert load_file(tmp_path / "step_00000002" / "model.safetensors").keys() == loaded.state_dict().keys()


def test_background_writes_the_bytes_of_foreground(tmp_path: Path) -> None:
    for background in (True, False):
        store = open_store(tmp_path / str(background), background=background)
        store.save(make_state(steps=1), 1, {"config": {"seed": 1}})
        store.wait()
    one, other = (tmp_path / str(background) / "step_00000001" for background in (True, False))
    assert names_in(one) == ["ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert [(one / name).read_bytes() for name in names_in(one)] == [
        (other / name).read_bytes() for name in names_in(other)
    ]


def test_training_on_does_not_change_what_is_being_written(tmp_path: Path) -> None:
    saved = make_state(steps=1)
    before = tensors_of(saved)
    store = open_store(tmp_path)
    losses = [0.5]
    store.save(saved, 1, {"losses": losses})
    losses.append(0.4)
    for tensor in (*saved.model.state_dict().values(), *saved.ema.values()):
        tensor.zero_()
    for state in saved.optimizer.state.values():
        state["exp_avg"].zero_()
    store.wait()
    loaded = make_state(seed=1)
    found = store.newest()
    assert found is not None
    assert found[1]["losses"] == [0.5]
    store.load(found[0], loaded)
    assert_same(tensors_of(loaded), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_goes_on_while_its_state_is_written(tmp_path: Path) -> None:
    saved = make_state(device="cuda", steps=2)
    before = tensors_of(saved)
    store = open_store(tmp_path)
    store.save(saved, 2, {})
    advance(saved, 5)
    store.wait()
    loaded = make_state(seed=1, device="cuda")
    store.load(tmp_path / "step_00000002", loaded)
    assert_same(tensors_of(loaded), before)


def test_a_damaged_or_cut_off_checkpoint_is_passed_over(tmp_path: Path) -> None:
    store = open_store(tmp_path, keep=4)
    for step in (1, 2, 3, 4):
        store.save(make_state(steps=1), step, {})
    store.wait()
    damaged = tmp_path / "step_00000004" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (tmp_path / "step_00000003" / "ema.safetensors").unlink()
    with (
        pytest.warns(UserWarning, match=r"step_00000004: optimizer\.safetensors is not what was written"),
        pytest.warns(UserWarning, match=r"step_00000003: .*ema\.safetensors"),
    ):
        assert newest_step(tmp_path) == 2


def test_rotation_never_removes_the_last_whole_checkpoint_for_a_damaged_later_one(tmp_path: Path) -> None:
    store = open_store(tmp_path, keep=1)
    store.save(make_state(), 4, {}, final=True)
    (tmp_path / "step_00000004" / "state.json").write_text("{")
    store.save(make_state(), 2, {}, final=True)
    with pytest.warns(UserWarning, match="step_00000004"):
        assert newest_step(tmp_path) == 2
    store.save(make_state(), 4, {}, final=True)
    assert names_in(tmp_path) == ["step_00000004"]
    assert newest_step(tmp_path) == 4


def slow_to_write() -> TrainState:
    """A state of some megabytes: writing it is what the process does most of the time."""
    state = make_state()
    state.model.register_buffer("rows", torch.zeros(1_000_000))
    return state


def _save_without_end(folder: str, ready: Any) -> None:
    store = open_store(Path(folder))
    found = store.newest()
    state = slow_to_write()
    if found is not None:
        store.load(found[0], state)
    step = found[1]["step"] if found else 0
    ready.set()
    while True:
        step += 1
        with torch.no_grad():
            for tensor in (*state.model.state_dict().values(), *state.ema.values()):
                tensor.fill_(step)
        store.save(state, step, {})


@pytest.mark.slow
def test_kill_9_at_random_moments_leaves_the_newest_checkpoint_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    # Imported once, for all processes to come.
    context.set_forkserver_preload(
        [__name__, "torch.distributed.checkpoint.hf_storage", "torch.distributed.tensor._utils"]
    )
    moments = random.Random(3)
    before = 0
    for _ in range(10):
        ready = context.Event()
        process = context.Process(target=_save_without_end, args=(str(tmp_path), ready))
        process.start()
        assert ready.wait(60)
        time.sleep(moments.uniform(0.0, 0.2))
        process.kill()
        process.join()
        found = open_store(tmp_path).newest()  # would warn of a damaged one
        step = 0 if found is None else int(found[1]["step"])
        assert step >= before
        if found is not None:
            state = slow_to_write()
            open_store(tmp_path).load(found[0], state)
            tensors = (*state.model.state_dict().values(), *state.ema.values())
            assert all(bool((tensor == step).all()) for tensor in tensors)
        before = step
    assert before > 0
    assert all(name.startswith("step_") for name in names_in(tmp_path))


def test_the_best_validation_is_kept_besides_the_newest(tmp_path: Path) -> None:
    store = open_store(tmp_path, keep=1, best_metric="image_to_text_r5")
    values = {1: 0.1, 2: 0.7, 3: 0.3, 4: float("nan")}
    for step, value in values.items():
        store.save(make_state(), step, {})
        store.note_validation(step, {"image_to_text_r5": value, "loss": 0.0})
    assert store.best() == (tmp_path / "step_00000002", 2)
    store.save(make_state(), 5, {}, final=True)
    assert names_in(tmp_path) == ["best.json", "step_00000002", "step_00000005"]
    assert json.loads((tmp_path / "best.json").read_text()) == {"metric": "image_to_text_r5", "step": 2, "value": 0.7}

    resumed = open_store(tmp_path, keep=1, best_metric="image_to_text_r5")
    resumed.note_validation(5, {"image_to_text_r5": 0.6})
    assert resumed.best() == (tmp_path / "step_00000002", 2)
    resumed.note_validation(5, {"image_to_text_r5": 0.8})
    assert resumed.best() == (tmp_path / "step_00000005", 5)
    assert names_in(tmp_path) == ["best.json", "step_00000005"]


def test_of_losses_the_lowest_is_best_and_steps_without_a_checkpoint_are_passed_over(tmp_path: Path) -> None:
    store = open_store(tmp_path, best_metric="loss")
    for step, value in ((1, 2.0), (2, 1.0), (3, 1.5)):
        store.save(make_state(), step, {}, final=True)
        store.note_validation(step, {"loss": value})
        store.note_validation(step + 10, {"loss": 0.0})
    assert store.best() == (tmp_path / "step_00000002", 2)


def test_another_metric_begins_anew_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path, best_metric="loss")
    store.save(make_state(), 1, {}, final=True)
    store.note_validation(1, {"loss": 2.0})
    assert open_store(tmp_path, best_metric="image_to_text_r1").best() is None
    with pytest.raises(ConfigError, match=r"checkpoint\.best_metric: got 'r5'; allowed: 'image_to_text_r5', 'loss'"):
        open_store(tmp_path, best_metric="r5").note_validation(1, {"loss": 2.0, "image_to_text_r5": 0.1})


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.save(TrainState(model=make_state().model), 1, {}, final=True)
    folder = tmp_path / "step_00000001"
    with pytest.raises(CheckpointError, match=r"step_00000001 lacks ema/first\.bias and 4 more"):
        store.load(folder, make_state())
    with pytest.raises(CheckpointError, match=r"lacks bias and 1 more"):
        store.load(folder, TrainState(model=torch.nn.Linear(4, 5)))
    wider = make_state().model
    wider.first = torch.nn.Linear(4, 6)
    with pytest.raises(CheckpointError, match=r"has in another shape first\.bias and 1 more; it was written by a run"):
        store.load(folder, TrainState(model=wider))
    del wider.first, wider.last
    with pytest.raises(CheckpointError, match=r"has, unlike the model, first\.bias and 3 more"):
        store.load(folder, TrainState(model=wider))


DISK_FULL = """
import resource, sys, warnings
from pathlib import Path
from clipmed.errors import CheckpointError
from tests.train.states import make_state, names_in
from train.checkpoints import CheckpointStore
from train.config import CheckpointConfig

folder = Path(sys.argv[1])
store = CheckpointStore(folder, CheckpointConfig(background=sys.argv[2] == "background"))
store.save(make_state(steps=1), 1, {})
store.wait()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
with warnings.catch_warnings(record=True) as caught:
    store.save(make_state(steps=2), 2, {})
    store.wait()
print([str(warning.message) for warning in caught])
print(names_in(folder))
try:
    store.save(make_state(steps=3), 3, {}, final=True)
except CheckpointError as error:
    print("refused", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.save(make_state(steps=4), 4, {}, final=True)
print(names_in(folder))
"""


@pytest.mark.parametrize("where", ["background", "foreground"])
def test_a_file_that_cannot_grow_leaves_the_last_checkpoint_and_the_run_standing(tmp_path: Path, where: str) -> None:
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path / "run"), where]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    warned, left, refused, after = done.stdout.splitlines()
    assert "step 2: no checkpoint could be written to" in warned
    assert "File too large" in warned
    assert "training goes on" in warned
    assert left == "['step_00000001']"
    assert refused.startswith("refused step 3: no checkpoint could be written to")
    assert after == "['step_00000001', 'step_00000004']"


def test_a_folder_that_cannot_be_made_is_a_warning_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = open_store(tmp_path / "file" / "checkpoints")
    store.save(make_state(), 1, {})
    with pytest.warns(UserWarning, match=r"step 1: no checkpoint could be written to .*Not a directory"):
        store.wait()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    yield folder / "checkpoints"
    subprocess.run(["umount", str(folder)], check=True)


def big_state(num_rows: int) -> TrainState:
    model = torch.nn.Module()
    model.register_buffer("rows", torch.randn(num_rows))
    return TrainState(model=model)


def validate_and_wait(store: CheckpointStore, step: int, loss: float) -> None:
    """Validate while the checkpoint is being written, or has just been."""
    store.note_validation(step, {"loss": loss})
    store.wait()


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_standing(small_disk: Path) -> None:
    store = open_store(small_disk, best_metric="loss")
    store.save(big_state(150_000), 1, {})  # 0.6 MB: one fits, two do not
    store.note_validation(1, {"loss": 2.0})
    store.wait()
    with pytest.warns(UserWarning, match=r"step 2: the checkpoint takes 0\.0006 GB, and .* has 0\.0004\d* GB free"):
        store.save(big_state(150_000), 2, {})
    with pytest.warns(UserWarning, match=r"step 2: no checkpoint could be written to .*No space left on device"):
        validate_and_wait(store, 2, 1.0)
    assert names_in(small_disk) == ["best.json", "step_00000001"]
    assert store.best() == (small_disk / "step_00000001", 1)
    assert newest_step(small_disk) == 1
    with (
        pytest.warns(UserWarning, match=r"the checkpoint takes"),
        pytest.raises(CheckpointError, match=r"step 3: no checkpoint .*The ones before it stand"),
    ):
        store.save(big_state(150_000), 3, {}, final=True)
    assert names_in(small_disk) == ["best.json", "step_00000001"]


def test_where_the_disk_has_room_for_two_the_oldest_goes_before_the_third_comes(small_disk: Path) -> None:
    store = open_store(small_disk, keep=3)
    for step in (1, 2, 3):
        store.save(big_state(100_000), step, {})
    store.wait()
    assert names_in(small_disk) == ["step_00000002", "step_00000003"]
    assert newest_step(small_disk) == 3


def test_of_the_settings_those_that_leave_the_result_alone_may_change(tmp_path: Path) -> None:
    there = {"seed": 1, "parallel": {"compile": False}, "guard": {"spike": "stop"}, "loss": {"name": "infonce"}}
    now = {**there, "parallel": {"compile": True}, "guard": {"spike": "skip"}}
    check_same_run(there, now, tmp_path)
    with pytest.raises(ConfigError, match=r"loss\.name \('infonce' there, 'siglip' now\)"):
        check_same_run(there, {**now, "loss": {"name": "siglip"}}, tmp_path)
