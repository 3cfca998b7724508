"""Encoders in processes of their own: from a hub, by a tag of OpenCLIP, and their facts without a tensor library."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipmed.checkpoints import CONFIG_FILE, WEIGHTS_FILE
from tests.hub_server import serve
from tests.zeroshot_eval import tiny_models
from tests.zeroshot_eval.tiny_models import noise_image, png
from zeroshot_eval.encoders import open_encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"clip": tiny_models.save_clip(root / "clip"), "siglip": tiny_models.save_siglip(root / "siglip")}


def run(code: str, *arguments: str, endpoint: str | None = None, home: Path | None = None) -> str:
    """Run code in a process of its own, since huggingface_hub reads its settings when it is imported."""
    settings = {"HF_HUB_OFFLINE": "1"} if endpoint is None else {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint}
    settings |= {} if home is None else {"HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore", **settings},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_facts_are_read_without_a_tensor_library(folders, checkpoint):
    code = (
        "import sys; from zeroshot_eval.encoders import describe_encoder; "
        f"facts = [describe_encoder(folder) for folder in {[str(folders['siglip']), str(checkpoint)]!r}]; "
        "print([fact.logit_bias for fact in facts], [name for name in ('torch', 'transformers') if name in "
        "sys.modules])"
    )
    assert run(code) == "[-9.5, None] []"


HUB_CODE = """
import sys
import torch
from zeroshot_eval.encoders import describe_encoder, open_encoder
for location in sys.argv[1:]:
    try:
        encoder = open_encoder(location)
        assert encoder.facts == describe_encoder(location)
        print(encoder.facts.name, *[f"{value:.6f}" for value in encoder.embed_texts(["a slide"])[0, :3].tolist()])
    except ValueError as error:
        print(error)
"""


def test_repositories_of_the_hub_are_fetched_without_their_pickles(folders, checkpoint, tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(folders["clip"], hub / "org" / "clip")
    (hub / "org" / "clip" / "pytorch_model.bin").write_bytes(b"a pickle")
    shutil.copytree(checkpoint, hub / "org" / "openclip")
    shutil.copytree(folders["clip"], hub / "org" / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(folders["clip"], hub / "org" / "code")
    (hub / "org" / "code" / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Model"}}')
    names = ["hf-hub:org/clip", "hf-hub:org/openclip", "hf-hub:org/pickled", "hf-hub:org/code", "hf-hub:org/none"]
    with serve(hub) as server:
        lines = run(HUB_CODE, *names, endpoint=server.url, home=tmp_path / "cache").splitlines()
        sent = list(server.sent)
    clip, openclip = (open_encoder(folder).embed_texts(["a slide"])[0, :3] for folder in (folders["clip"], checkpoint))
    assert lines[0].split()[0] == "org/clip"
    assert [float(value) for value in lines[0].split()[1:]] == pytest.approx(clip.tolist(), abs=2e-6)
    assert [float(value) for value in lines[1].split()[1:]] == pytest.approx(openclip.tolist(), abs=2e-6)
    assert "pickled weights" in lines[2]
    assert "names code of its own repository" in lines[3]
    assert "cannot fetch hf-hub:org/none" in lines[4]
    assert not [name for name in sent if name.endswith(".bin")]
    assert "org/code/model.safetensors" not in sent  # refused before the weights came
    again = run(HUB_CODE, *names[:2], home=tmp_path / "cache").splitlines()  # offline, from the cache
    assert again == lines[:2]


TAG_CODE = """
import json, sys, warnings
from pathlib import Path
import open_clip
from open_clip.pretrained import _PRETRAINED
from PIL import Image
import torch
from zeroshot_eval.encoders import open_encoder
open_clip.add_model_config(Path(sys.argv[1]))
_PRETRAINED["tiny_listed"] = {
    "good": {"hf_hub": "org/tiny/", "quick_gelu": True, "mean": (.5, .4, .3), "std": (.2, .2, .2), "interpolation":
             "bicubic", "resize_mode": "squash"},
    "elsewhere": {"url": "https://example.org/model.pt"},
}
model, _, transform = open_clip.create_model_and_transforms("tiny_listed", pretrained="good", force_quick_gelu=True)
model.eval()
encoder = open_encoder("tiny_listed:good")
image = Image.open(sys.argv[2])
with torch.no_grad():
    theirs = model.encode_image(transform(image)[None], normalize=True)
    words = model.encode_text(open_clip.get_tokenizer("tiny_listed")(["a slide"]), normalize=True)
pixels = encoder.pixels(Path(sys.argv[2]).read_bytes())
print(encoder.facts.name, float((encoder.embed_images(pixels[None]) - theirs).abs().max()) < 1e-6)
print(float((encoder.embed_texts(["a slide"]) - words).abs().max()) < 1e-6)
try:
    open_encoder("tiny_listed:elsewhere")
except ValueError as error:
    print(error)
"""


def test_a_tag_of_openclip_gets_the_tags_activation_and_statistics(checkpoint, tmp_path):
    model_cfg = json.loads((checkpoint / CONFIG_FILE).read_text())["model_cfg"]
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "tiny_listed.json").write_text(json.dumps(model_cfg))
    (tmp_path / "image.png").write_bytes(png(noise_image(90, 40)))
    repository = tmp_path / "hub" / "org" / "tiny"
    repository.mkdir(parents=True)
    shutil.copy(checkpoint / WEIGHTS_FILE, repository)
    with serve(tmp_path / "hub") as server:
        arguments = [str(configs), str(tmp_path / "image.png")]
        lines = run(TAG_CODE, *arguments, endpoint=server.url, home=tmp_path / "cache").splitlines()
    assert lines[:2] == ["tiny_listed:good True", "True"]
    assert "tiny_listed:elsewhere has no repository of its own on the hub" in lines[2]
