"""Merged checkpoints: parents at the ends, means between, refused where they do not match, whole or absent."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import clipmed
from clipmed.__main__ import main
from clipmed.cards import missing, parse_card
from clipmed.checkpoint_files import CALIBRATION_FILE, read_sums, renamed_config, write_sums
from clipmed.checkpoints import CONFIG_FILE, WEIGHTS_FILE, checkpoint_digest, save_checkpoint
from clipmed.errors import CheckpointError, ConfigError
from clipmed.files import sha256_file
from clipmed.merging import interpolate, soup
from clipmed.towers import ModelConfig, build_two_tower
from tests.clipmed.tiny import save_tiny
from tests.clipmed.tiny_text_tower import bert_config, save_bert

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CARD = "---\ntags: [clip]\n---\n# Card of number {}\n\n## Data\n\n```python\n# a comment\n```\n"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("parents")
    (root / "tiny.json").write_text(json.dumps(TINY))
    for number in range(3):
        torch.manual_seed(number)
        two_tower = build_two_tower(ModelConfig(config=str(root / "tiny.json")))
        two_tower.model.logit_scale.data.fill_(1.0 + number)
        two_tower.model.register_buffer("rounds", torch.tensor([3, 4]))
        save_checkpoint(root / f"run-{number}" / "model", two_tower, CARD.format(number))
    return [root / f"run-{number}" / "model" for number in range(3)]


@pytest.fixture
def parents(originals, tmp_path):
    """Copies that a test may change."""
    return [Path(shutil.copytree(folder, tmp_path / f"run-{n}" / "model")) for n, folder in enumerate(originals)]


def weights(folder):
    return load_file(folder / WEIGHTS_FILE)


def change(folder, **tensors):
    save_file(weights(folder) | tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_sums(folder)


@pytest.mark.parametrize(("alpha", "same"), [(0.0, 0), (1.0, 1)])
def test_the_ends_of_an_interpolation_are_the_parents_bit_for_bit(parents, tmp_path, alpha, same):
    interpolate(parents[0], parents[1], alpha, tmp_path / "merged")
    merged, expected = weights(tmp_path / "merged"), weights(parents[same])
    assert merged.keys() == expected.keys()
    assert all(merged[name].dtype == tensor.dtype for name, tensor in expected.items())
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())


def test_half_way_every_tensor_is_the_mean_and_the_temperatures_logarithm_too(parents, tmp_path):
    interpolate(parents[0], parents[1], 0.5, tmp_path / "merged")
    merged, one, other = (weights(folder) for folder in (tmp_path / "merged", parents[0], parents[1]))
    for name, tensor in one.items():
        expected = (tensor + other[name]) / 2 if tensor.is_floating_point() else tensor
        torch.testing.assert_close(merged[name], expected, atol=1e-7, rtol=1e-6)
    assert merged["logit_scale"].item() == pytest.approx(1.5)


def test_the_weights_of_a_quarter_lean_to_the_base(parents, tmp_path):
    interpolate(parents[0], parents[1], 0.25, tmp_path / "merged")
    assert weights(tmp_path / "merged")["logit_scale"].item() == pytest.approx(1.25)


def test_tensors_that_the_parents_share_stay_bit_for_bit(parents, tmp_path):
    shared = {name: tensor for name, tensor in weights(parents[0]).items() if name.startswith("visual.")}
    change(parents[1], **shared)
    interpolate(parents[0], parents[1], 0.3, tmp_path / "merged")
    merged = weights(tmp_path / "merged")
    assert len(shared) > 5
    assert all(torch.equal(merged[name], tensor) for name, tensor in shared.items())


def test_a_soup_is_the_mean_of_all_or_the_weighted_one(parents, tmp_path):
    soup(parents, tmp_path / "even")
    soup(parents, tmp_path / "uneven", weights=[0.5, 0.5, 0])
    assert weights(tmp_path / "even")["logit_scale"].item() == pytest.approx(2)
    expected = torch.stack([weights(parent)["text.positional_embedding"] for parent in parents]).mean(dim=0)
    torch.testing.assert_close(weights(tmp_path / "even")["text.positional_embedding"], expected)
    assert weights(tmp_path / "uneven")["logit_scale"].item() == pytest.approx(1.5)


@pytest.mark.parametrize(("dtype", "low"), [(torch.float16, 2048), (torch.bfloat16, 256)])
def test_half_precision_is_summed_in_float32_and_keeps_its_type(parents, tmp_path, dtype, low):
    for parent, value in zip(parents, (low, low + 2, low + 2), strict=True):  # neighbours at this precision
        change(parent, extra=torch.tensor([value, 1.0]).to(dtype))
    soup(parents, tmp_path / "merged")
    merged = weights(tmp_path / "merged")["extra"]
    assert merged.dtype == dtype
    assert merged.tolist() == [low + 2, 1.0]  # 4/3 above the lower one; thirds added one by one would round away


def test_the_result_is_a_checkpoint_that_names_its_parents(parents, tmp_path):
    for parent in parents:  # the buffer above is in no OpenCLIP model
        state = weights(parent)
        del state["rounds"]
        save_file(state, parent / WEIGHTS_FILE, metadata={"format": "pt"})
        write_sums(parent)
        (parent / CALIBRATION_FILE).write_text("{}")
    out = soup(parents[:2], tmp_path / "merged", weights=[0.75, 0.25])
    assert clipmed.load(out).embed_texts(["a lung"]).shape == (1, 16)
    assert not (out / CALIBRATION_FILE).exists()
    assert read_sums(out)[WEIGHTS_FILE] == sha256_file(out / WEIGHTS_FILE)
    record = json.loads((out / "merge.json").read_text())
    assert record["method"] == "soup"
    assert record["parents"] == [
        {"location": "model", "commit": None, "digest": checkpoint_digest(parent), "weight": weight}
        for parent, weight in zip(parents, (0.75, 0.25), strict=False)
    ]
    card = (out / "README.md").read_text()
    assert card.count("\n---\n") == 1
    assert f"| 0.75 | model | {checkpoint_digest(parents[0])} |" in card
    assert all(f"## Card of parent {number + 1}, model\n\n### Card of number {number}\n" in card for number in (0, 1))
    assert not [path for path in out.iterdir() if str(tmp_path).encode() in path.read_bytes()]  # of this machine
    assert "#### Data" in card
    assert set(missing(parse_card(card))) == {"Scores", "license"}
    assert "\n# a comment" in card
    assert checkpoint_digest(out) not in {checkpoint_digest(parent) for parent in parents}


def test_a_published_parent_is_named_by_its_commit_and_its_text_tower_by_no_name(local_hub, tmp_path):
    config = bert_config(save_bert(tmp_path / "bert"))
    first, second = (save_tiny(tmp_path / f"tiny-{seed}", seed, config=config) for seed in (0, 1))
    local_hub.add("org/first", first)
    published = {CONFIG_FILE: renamed_config(first, "org/first").encode(), "SHA256SUMS": None}
    commit = local_hub.commit("org/first", published)
    out = interpolate("hf-hub:org/first", second, 0.5, tmp_path / "merged")
    record = json.loads((out / "merge.json").read_text())["parents"]
    assert [(parent["location"], parent["commit"]) for parent in record] == [
        (f"hf-hub:org/first@{commit}", commit),
        ("tiny-1", None),
    ]
    assert [parent["digest"] for parent in record] == [checkpoint_digest(first), checkpoint_digest(second)]
    assert checkpoint_digest(interpolate(record[0]["location"], second, 0.5, tmp_path / "again")) == checkpoint_digest(
        out
    )


def test_the_file_has_the_bytes_that_the_library_writes(parents, tmp_path):
    for parent in parents[:2]:
        change(parent, flag=torch.tensor([True]), half=torch.ones(3).half())
    interpolate(parents[0], parents[1], 0.0, tmp_path / "merged")
    assert (tmp_path / "merged" / WEIGHTS_FILE).read_bytes() == (parents[0] / WEIGHTS_FILE).read_bytes()


def config_change(folder):
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 2
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def statistics_change(folder):
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (folder / CONFIG_FILE).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (config_change, r"not of one architecture: model_cfg\.vision_cfg\.layers is 1 and 2"),
        (statistics_change, r"preprocess_cfg\.mean is \[0\.48\d+, .*\] and \[0\.5, 0\.5, 0\.5\]"),
        (lambda folder: change(folder, more=torch.zeros(1)), "only one has the tensor more"),
        (
            lambda folder: change(folder, logit_scale=torch.zeros(2)),
            r"logit_scale is F32 of shape \(\) and F32 of .*\(2,\)",
        ),
        (lambda folder: change(folder, logit_scale=torch.zeros([]).half()), r"logit_scale is F32 .* and F16"),
        (lambda folder: change(folder, rounds=torch.tensor([3, 5])), "rounds holds int64 numbers, which have no mean"),
        (lambda folder: change(folder, logit_scale=torch.tensor(torch.nan)), "mean of logit_scale is not finite"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"vocabulary: only one has tokenizer\.json"),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"\xff" * 32), "is damaged"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "only safetensors weights are merged"),
        (lambda folder: (folder / CONFIG_FILE).unlink(), "is not a checkpoint"),
    ],
)
def test_checkpoints_that_do_not_match_are_refused_with_the_first_difference(parents, tmp_path, spoil, message):
    spoil(parents[1])
    with pytest.raises(CheckpointError, match=message):
        interpolate(parents[0], parents[1], 0.5, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob(".merged*"))


def test_settings_out_of_range_are_refused(parents, tmp_path):
    out = tmp_path / "merged"
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"alpha: got .*; allowed: 0 \(the base\) to 1"):
            interpolate(parents[0], parents[1], alpha, out)
    with pytest.raises(ConfigError, match="two checkpoints or more: got 1"):
        soup(parents[:1], out)
    for wrong in ([0.5, 0.4], [1.5, -0.5], [1.0], [float("nan"), 1.0]):
        with pytest.raises(ConfigError, match="with the sum 1"):
            soup(parents[:2], out, weights=wrong)


def test_only_a_merge_is_replaced(parents, tmp_path):
    out = tmp_path / "merged"
    interpolate(parents[0], parents[1], 0.5, out)
    interpolate(parents[0], parents[1], 0.25, out)
    assert weights(out)["logit_scale"].item() == pytest.approx(1.25)
    with pytest.raises(ConfigError, match="is one of the checkpoints to merge"):
        interpolate(parents[0], parents[1], 0.5, parents[0])
    with pytest.raises(ConfigError, match="is there and no merged checkpoint"):
        interpolate(parents[0], parents[1], 0.5, parents[2])
    assert torch.equal(weights(parents[2])["logit_scale"], torch.tensor(3.0))


KILLED = """
import os, signal, sys
from pathlib import Path
import clipmed.merging as merging
whole = merging._mean
def dying(name, paths, weights):
    if name > "text":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(name, paths, weights)
merging._mean = dying
merging.interpolate(Path(sys.argv[1]), Path(sys.argv[2]), 0.5, Path(sys.argv[3]))
"""


def test_a_merge_that_is_killed_leaves_nothing_that_looks_like_one(parents, tmp_path):
    out = tmp_path / "merged"
    interpolate(parents[0], parents[1], 1.0, out)
    before = (out / WEIGHTS_FILE).read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, [*parents[:2], out])], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (out / WEIGHTS_FILE).read_bytes() == before
    interpolate(parents[0], parents[1], 0.0, out)
    assert torch.equal(weights(out)["logit_scale"], torch.tensor(1.0))
    assert not list(tmp_path.glob(".merged*"))


MEASURED = """
import sys
from pathlib import Path
import torch
from clipmed.merging import interpolate
def peak_bytes():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["VmHWM"].split()[0])
torch.zeros(1).to(torch.float32).sub_(1)
before = peak_bytes()
interpolate(Path(sys.argv[1]), Path(sys.argv[2]), 0.5, Path(sys.argv[3]))
print(peak_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_holds_a_few_tensors_and_not_the_model(parents, tmp_path):
    large = {f"layer{number:02}": torch.randn(1 << 20) for number in range(24)}  # 24 of 4 MiB
    for parent in parents[:2]:
        change(parent, **large)
    arguments = [str(path) for path in (*parents[:2], tmp_path / "merged")]
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 48 << 20  # half of one parent; all of it, mapped files too, is counted


def test_command(parents, tmp_path, capsys):
    for parent in parents:
        state = weights(parent)
        del state["rounds"]  # a buffer that no OpenCLIP model has
        save_file(state, parent / WEIGHTS_FILE, metadata={"format": "pt"})
        write_sums(parent)
    paths = [str(parent) for parent in parents]
    main(["merge", *paths[:2], "--alpha", "0.25", "--out", str(tmp_path / "line"), "--json"])
    assert json.loads(capsys.readouterr().out)["digest"] == checkpoint_digest(tmp_path / "line")
    assert weights(tmp_path / "line")["logit_scale"].item() == pytest.approx(1.25)
    main(["merge", *paths, "--weights", "0.5", "0.25", "0.25", "--out", str(tmp_path / "soup")])
    assert weights(tmp_path / "soup")["logit_scale"].item() == pytest.approx(1.75)
    main(["info", str(tmp_path / "soup"), "--json"])
    assert [parent["weight"] for parent in json.loads(capsys.readouterr().out.splitlines()[-1])["merged from"]] == [
        0.5,
        0.25,
        0.25,
    ]
    with pytest.raises(SystemExit, match="2"):
        main(["merge", *paths, "--alpha", "0.5", "--out", str(tmp_path / "none")])
    assert "allowed: for two" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="with the sum 1"):
        main(["merge", *paths, "--weights", "0.5", "0.5", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_a_parent_that_is_not_what_was_saved_is_refused(parents, tmp_path):
    path = parents[1] / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(CheckpointError, match="is not the file that it should be"):
        interpolate(parents[0], parents[1], 0.5, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
