"""Where a model runs and in which numbers: the same embeddings, or an error that names what there is."""

import subprocess
import sys

import pytest
import torch

import clipmed
from clipmed.devices import resolve_device
from clipmed.errors import ConfigError
from tests.clipmed.pictures import picture
from tests.clipmed.tiny import tiny_checkpoint

PICTURES = [picture(seed=seed) for seed in range(7)]
TEXTS = ["a lung", "a skull with a fracture"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("devices"))


def test_auto_is_a_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == resolve_device().type == expected
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", 3.5, None])
def test_unknown_devices(name):
    with pytest.raises(ConfigError, match=r"device: got .*allowed: auto, cpu, cuda, cuda:1, mps"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda:97", "xpu:97", "meta", "mps:97"])
def test_devices_that_are_not_there(checkpoint, name):
    with pytest.raises(ConfigError, match=f"device: '{name}' is not there: got .*use one that is, or auto, or cpu"):
        clipmed.load(checkpoint, name)


def test_unknown_number_types(checkpoint):
    with pytest.raises(ConfigError, match="dtype: got 'half'; allowed: float32, bfloat16, float16"):
        clipmed.load(checkpoint, "cpu", dtype="half")


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_narrow_numbers_give_unit_vectors_close_to_those_of_float32(checkpoint, dtype, error):
    exact, narrow = clipmed.load(checkpoint, "cpu"), clipmed.load(checkpoint, "cpu", dtype=dtype)
    for wanted, found in (
        (exact.embed_images(PICTURES), narrow.embed_images(PICTURES, 3)),
        (exact.embed_texts(TEXTS), narrow.embed_texts(TEXTS)),
    ):
        assert found.dtype == torch.float32
        assert not torch.equal(found, wanted)
        torch.testing.assert_close(found, wanted, atol=error, rtol=0)
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))


@pytest.mark.slow
def test_compiled_towers_give_the_same_embeddings(checkpoint):
    plain, compiled = clipmed.load(checkpoint, "cpu"), clipmed.load(checkpoint, "cpu", compile=True)
    torch.testing.assert_close(compiled.embed_images(PICTURES, 3), plain.embed_images(PICTURES))
    torch.testing.assert_close(compiled.embed_texts(TEXTS), plain.embed_texts(TEXTS))


@pytest.mark.slow
def test_without_a_compiler_compiling_is_a_clear_error(checkpoint, tmp_path):
    code = (
        "import sys, clipmed, numpy\nfrom clipmed.errors import ConfigError\n"
        "model = clipmed.load(sys.argv[1], 'cpu', compile=True)\n"
        "try:\n    model.embed_images(numpy.zeros((40, 40, 3), numpy.uint8))\n"
        "except ConfigError as error:\n    print(error)"
    )
    environment = {"CXX": "/absent", "PATH": "/absent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)], env=environment, check=True, capture_output=True, text=True
    )
    assert "compile: PyTorch cannot compile this model here" in done.stdout
    assert "load the model with compile=False" in done.stdout


@pytest.mark.gpu
def test_a_gpu_gives_the_embeddings_of_the_cpu(checkpoint):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cpu, gpu = clipmed.load(checkpoint, "cpu"), clipmed.load(checkpoint, "cuda")
    found = gpu.embed_images(PICTURES)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, cpu.embed_images(PICTURES), atol=1e-3, rtol=0)
