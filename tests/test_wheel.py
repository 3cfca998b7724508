"""The wheel ships the library alone, and the library needs no more than the wheel says."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
import torch
from PIL import Image

from clipmed.checkpoints import save_checkpoint
from clipmed.towers import ModelConfig, build_two_tower
from tests.bare_environment import ROOT, bare_environment, build_wheel, empty_environment
from tests.hub_server import serve


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def readme_lines():
    """The README's first Python block."""
    return re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


@pytest.fixture(scope="module")
def hub(tmp_path_factory, readme_lines):
    """A hub that has a small checkpoint under the name that the README loads."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    save_checkpoint(folder / "model", build_two_tower(ModelConfig(config="clipmed_tiny")), "# A card\n")
    with serve(folder / "served") as server:
        server.add(re.search(r"hf-hub:([\w.-]+/[\w.-]+)", readme_lines)[1], folder / "model")
        yield server


def run(python, variables, lines, folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HOME": str(folder / "cache"), "HOME": str(folder)} | variables
    return subprocess.run(
        [python, "-W", "error", "-c", lines], check=False, cwd=folder, env=environment, text=True, capture_output=True
    )


def test_the_wheel_holds_clipmed_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"clipmed"}
    assert {"clipmed/api.py", "clipmed/py.typed", "clipmed/model_configs/clipmed_demo.json"} <= set(names)
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "clipmed").rglob("*") if "__pycache__" not in path.parts}
    assert not [name for name in sources - set(names) if (ROOT / name).is_file()]  # pages and styles are there, too


def test_the_readme_runs_on_the_wheel_and_its_requirements_alone(wheel, hub, readme_lines, tmp_path):
    variables = bare_environment(wheel, tmp_path)
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "image.jpg")
    where = run(sys.executable, variables, "import clipmed; print(clipmed.__file__)", tmp_path)
    assert str(tmp_path) in where.stdout, where.stderr
    done = run(sys.executable, {**variables, "HF_ENDPOINT": hub.url}, readme_lines, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    refused = run(sys.executable, variables, "import webdataset", tmp_path)
    assert "not among the wheel's requirements" in refused.stderr


@pytest.mark.wheel
@pytest.mark.timeout(1800)
@pytest.mark.skipif("CLIPMED_TEST_WHEEL" not in os.environ, reason="installs several GB: make test-wheel")
def test_the_readme_runs_in_an_empty_environment(wheel, hub, readme_lines, tmp_path):
    python = empty_environment(wheel, tmp_path / "environment")
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "image.jpg")
    done = run(python, {"HF_ENDPOINT": hub.url}, readme_lines, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    absent = run(python, {}, "import webdataset", tmp_path)
    assert "No module named 'webdataset'" in absent.stderr
