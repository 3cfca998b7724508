"""Other people's loaders read a set unchanged: webdataset's own, and OpenCLIP's for training."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shards.reader import ShardSet

# OpenCLIP's trainer caps webdataset at 0.2.86 (later ones mark the end of a tar with a record that it trips over) and
# needs pandas without saying so. Both are laid beside the environment, not into it.
PEERS = (
    "webdataset==0.2.86",
    "pandas==2.3.3",
    "python-dateutil==2.9.0.post0",
    "six==1.17.0",
    "pytz==2025.2",
    "tzdata==2025.2",
)
PEER_FOLDER = Path(__file__).parents[2] / "build" / "peer-webdataset"
UNREACHABLE = ("Temporary failure in name resolution", "Failed to establish a new connection", "Read timed out",
               "Network is unreachable", "ProxyError", "NewConnectionError", "ConnectTimeoutError")  # fmt: skip


def urls(path, split):
    return sorted(str(shard) for shard in path.glob(f"{split}-*.tar"))


def keys(path, split):
    shard_set = ShardSet(path)
    column = shard_set.column("key")
    return sorted(column[row] for row in shard_set.rows(split))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_webdataset_reads_every_sample_once(packed):
    import webdataset as wds

    for split in ("train", "val", "test"):
        loader = (
            wds.WebDataset(urls(packed, split), shardshuffle=False).decode("pil").to_tuple("jpg;png", "json", "txt")
        )
        found = []
        for image, row, text in loader:
            assert image.size == (row["width"], row["height"])
            assert text == row["captions"][0]["text"]
            assert row["split"] == split
            found.append(row["key"])
        assert sorted(found) == keys(packed, split)


OPEN_CLIP = """
import json, sys
from types import SimpleNamespace
import torch, webdataset
from open_clip_train.data import get_wds_dataset
from torchvision.transforms.functional import pil_to_tensor

assert webdataset.__version__ == "0.2.86", webdataset.__version__
pattern, num_samples = sys.argv[1], int(sys.argv[2])
args = SimpleNamespace(
    train_data=pattern, val_data=None, train_num_samples=num_samples, val_num_samples=None, batch_size=1,
    workers=0, world_size=1, rank=0, seed=0,
    dataset_resampled=False, train_data_upsampling_factors=None, distributed=False,
)
data = get_wds_dataset(args, lambda image: pil_to_tensor(image), True, tokenizer=lambda text: [text])
seen = []
for images, texts in data.dataloader:
    assert images.shape[1:] == (3, 20, 24) and images.dtype == torch.uint8, images.shape
    seen += texts
print(json.dumps(seen))
"""


def peer_folder():
    """Return a folder with the peers, installed once and only whole."""
    if not PEER_FOLDER.exists():
        PEER_FOLDER.parent.mkdir(exist_ok=True)
        temporary = PEER_FOLDER.with_name(f".{PEER_FOLDER.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(temporary), *PEERS]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode and any(sign in result.stderr for sign in UNREACHABLE):
            pytest.skip("no package registry can be reached")
        assert result.returncode == 0, result.stderr
        try:
            temporary.rename(PEER_FOLDER)
        except OSError:  # another test process was first
            shutil.rmtree(temporary)
    return PEER_FOLDER


@pytest.mark.slow
def test_open_clips_training_loader_reads_a_set_unchanged(packed):
    shard_set = ShardSet(packed)
    texts = sorted(shard_set.captions(row)[0]["text"] for row in shard_set.rows("train").tolist())
    last = len(urls(packed, "train")) - 1
    pattern = f"{packed}/train-{{000000..{last:06d}}}.tar"
    environment = {**os.environ, "PYTHONPATH": str(peer_folder()), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", OPEN_CLIP, pattern, str(len(texts))]
    result = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Handling webdataset error" not in result.stderr
    seen = json.loads(result.stdout)
    assert sorted(seen) == texts
