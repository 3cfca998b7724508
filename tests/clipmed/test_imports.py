"""What the library imports: nothing heavy until it is needed, and never what only training needs."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.clipmed.tiny import tiny_checkpoint

HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "transformers",
    "open_clip",
    "timm",
    "rich",
    "tyro",
    "pyarrow",
    "cattrs",
}
TRAINING = (
    *("accelerate", "albumentations", "webdataset", "wandb", "submitit", "lxml", "sklearn", "scipy", "cv2", "pyarrow"),
    *("pydicom", "imagecodecs", "faiss", "fastapi", "onnx", "h5py", "nibabel", "tifffile", "obstore", "isal"),
    *("tensorboardX", "openpyxl", "py3langid", "shards", "train", "dataset_builders", "zeroshot_eval"),
)
REFUSE = """
import importlib.machinery, sys
class Hiding(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in REFUSED else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hiding
"""


def run(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_clipmed_imports_nothing_heavy():
    loaded = json.loads(run("import clipmed, json, sys; print(json.dumps(sorted(sys.modules)))"))
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


def test_help_needs_neither_torch_nor_numpy():
    code = (
        "import sys\nfrom clipmed.__main__ import main\ntry:\n    main(['classify', '--help'])\nexcept SystemExit:\n"
        "    pass\nassert not {'torch', 'numpy', 'PIL', 'open_clip'} & set(sys.modules), sorted(sys.modules)"
    )
    run(code)


def test_use_of_a_checkpoint_needs_no_training_dependency(tmp_path):
    folder = tiny_checkpoint(tmp_path)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    code = f"REFUSED = {set(TRAINING)!r}\n{REFUSE}" + (
        "import clipmed\n"
        "model = clipmed.load(sys.argv[1], 'cpu')\n"
        "result = model.classify(sys.argv[2], ['a lung', 'a skull'])[0]\n"
        "assert model.embed_images(sys.argv[2]).shape == (1, 16) and result.label\n"
        "from clipmed.__main__ import main\n"
        "main(['classify', sys.argv[2], '--labels', 'a lung', 'a skull', '--checkpoint', sys.argv[1]])\n"
    )
    assert "a.png" in run(code, str(folder), str(tmp_path / "a.png"))


@pytest.mark.parametrize("module", ["pydicom", "imagecodecs"])
def test_a_dicom_file_without_the_extra_names_the_command_that_installs_it(module):
    code = f"REFUSED = {{{module!r}}}\n{REFUSE}" + (
        "import clipmed\nfrom clipmed.errors import ConfigError\n"
        "try:\n    clipmed.open_image(sys.argv[1])\nexcept ConfigError as error:\n    print(error)\n"
    )
    from pydicom.data import get_testdata_file

    said = run(code, str(get_testdata_file("JPEG2000.dcm")))
    assert said == f"{module} is not installed; pip install 'clipmed[dicom]' brings it\n"
