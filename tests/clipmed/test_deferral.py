"""Deferred imports: nothing is imported until it is used, and then it is the real thing."""

import subprocess
import sys
from pathlib import Path

import pytest

from clipmed.deferral import deferred

SLOW = """
VALUE = [1, 2]
class Box:
    KIND = "box"
    def __init__(self, content=0):
        self.content = content
def double(number):
    return 2 * number
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of one module `things`, that nothing has imported."""
    name = "slow_package_of_a_test"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "things.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in (name, f"{name}.things"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield name
    for module in (name, f"{name}.things"):
        sys.modules.pop(module, None)


def names_bound_under_deferral(package: str) -> dict:
    bound: dict = {}
    with deferred(package):
        exec(f"import {package}\nfrom {package}.things import Box, double", bound)
    return bound


def test_nothing_is_imported_and_no_stand_in_stays(package: str):
    names_bound_under_deferral(package)
    assert not [name for name in sys.modules if name.startswith(package)]
    things = __import__(f"{package}.things").things
    assert things.VALUE == [1, 2]


def test_names_are_the_real_ones_once_they_are_used(package: str):
    bound = names_bound_under_deferral(package)
    box = bound["Box"](content=3)
    things = sys.modules[f"{package}.things"]
    assert type(box) is things.Box
    assert box.content == 3
    assert isinstance(box, bound["Box"])
    assert not isinstance("box", bound["Box"])
    assert issubclass(things.Box, bound["Box"])
    assert bound["Box"].KIND == "box"
    assert bound["double"](4) == 8
    assert bound[package].things.VALUE[1] == 2  # through the stand-in of the package


def test_nothing_is_of_a_class_that_is_not_imported(package: str):
    bound = names_bound_under_deferral(package)
    assert not isinstance("box", bound["Box"])
    assert not issubclass(str, bound["Box"])
    assert not [name for name in sys.modules if name.startswith(package)]


def test_names_used_within_the_block_are_the_real_ones(package: str):
    with deferred(package):
        bound: dict = {}
        exec(f"from {package}.things import double", bound)
        assert bound["double"](2) == 4
        assert sys.modules[f"{package}.things"].VALUE == [1, 2]


def test_what_is_imported_already_does_not_wait(package: str):
    things = __import__(f"{package}.things").things
    assert names_bound_under_deferral(package)["Box"] is things.Box


def test_a_name_that_is_not_there_is_missed_when_it_is_used(package: str):
    bound: dict = {}
    with deferred(package):
        exec(f"from {package}.things import nothing", bound)
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        bound["nothing"]()


OPEN_CLIP = """
import sys
from clipmed.deferral import import_open_clip
import_open_clip()
assert not {"timm", "transformers", "torch._dynamo"} & set(sys.modules), "imported without use"
from clipmed.towers import assemble
text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
plain = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 32, "layers": 1}
assemble({"embed_dim": 8, "vision_cfg": plain, "text_cfg": text})
assert "timm" not in sys.modules, "a model without timm's tower waited for it"
vision = {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}
tower = assemble({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}).model.visual.trunk
import timm, torch, torch._dynamo, torchvision
assert isinstance(tower, timm.models.ResNet)
assert torch._dynamo.__file__
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape == (1, 1, 2, 2)
"""


def test_open_clip_waits_for_timm_and_transformers_only_where_a_model_has_their_towers():
    done = subprocess.run([sys.executable, "-c", OPEN_CLIP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_does_not_bear_stand_ins_is_imported_as_usual() -> None:
    program = """
import contextlib, sys
import clipmed.deferral as deferral

@contextlib.contextmanager
def refusing(*packages):
    sys.modules["open_clip"] = None  # a half-made import
    yield
    raise TypeError("a class was derived from a stand-in")

deferral.deferred = refusing
try:
    deferral.import_open_clip()
except ImportError as error:
    sys.exit(f"not imported: {error}")
import open_clip
assert open_clip.CLIP.__mro__
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
