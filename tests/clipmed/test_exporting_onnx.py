"""Exports as ONNX: run in onnxruntime at any batch size, by the code of their README, and held to the checkpoint."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import clipmed
from clipmed.__main__ import main
from clipmed.calibration import read_calibration
from clipmed.checkpoints import checkpoint_digest
from clipmed.errors import ConfigError
from clipmed.exporting import onnx_export
from clipmed.exporting.onnx_export import export_onnx
from clipmed.zeroshot import embed_images, embed_texts
from tests.clipmed.tiny_towers import (
    RESNET_VISION,
    TIMM_VISION,
    calibrate,
    checkpoint,
    hugging_face,
    native,
    scan,
    two_tower,
    write_bert,
)

TEXTS = [
    "a mass!",
    "a second text",
    "T2 – the patient’s “lesion” &lt; 3 cm",
    "Word and word " * 20,
    "x",
    "y",
    "z z",
    "μ",
]
KINDS = {
    "native towers": lambda bert: native(),
    "timm and bert": lambda bert: native(vision_cfg=TIMM_VISION, text_cfg=hugging_face(bert, "mean_pooler")),
    "resnet, text in a tower of its own": lambda bert: native(custom_text=True, vision_cfg=RESNET_VISION),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("towers") / "bert")


def run(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {session.get_inputs()[0].name: batch.numpy()})[0]


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_embeds_as_the_checkpoint_does(kind, bert, tmp_path, capfd):
    tower = two_tower(KINDS[kind](bert))
    report = export_onnx(tower, tmp_path / "export", {})
    assert capfd.readouterr().err == ""
    for num in (1, 3, 8):
        pixels = torch.randn(num, 3, tower.image_size, tower.image_size, generator=torch.Generator().manual_seed(num))
        images = run(tmp_path / "export" / "image.onnx", pixels)
        texts = run(tmp_path / "export" / "text.onnx", tower.tokenizer(TEXTS[:num]))
        np.testing.assert_allclose(images, embed_images(tower, pixels), atol=1e-5)
        np.testing.assert_allclose(texts, embed_texts(tower, TEXTS[:num]), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    assert report["batch_sizes"] == [1, 3, 8]
    assert max(report["image_embeddings_differ_by"], report["text_embeddings_differ_by"]) <= 1e-5
    assert json.loads((tmp_path / "export" / "export.json").read_text()) == report


def test_half_of_the_size_and_weights_beside_the_graph(tmp_path):
    tower = two_tower(native())
    export_onnx(tower, tmp_path / "whole", {}, external_data_bytes=0)
    report = export_onnx(tower, tmp_path / "half", {}, half=True, external_data_bytes=0)
    for name in ("image.onnx.data", "text.onnx.data"):
        whole, half = ((tmp_path / folder / name).stat().st_size for folder in ("whole", "half"))
        assert half < 0.6 * whole
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = embed_images(tower, pixels)
    np.testing.assert_allclose(run(tmp_path / "whole" / "image.onnx", pixels), expected, atol=1e-5)
    halved = run(tmp_path / "half" / "image.onnx", pixels)
    np.testing.assert_allclose(halved, expected, atol=5e-3)
    assert report["weights"] == "float16"
    assert 0 < report["image_embeddings_differ_by"] <= 5e-3


def test_graphs_say_their_inputs_and_nothing_of_this_machine(tmp_path):
    export_onnx(two_tower(native()), tmp_path / "export", {})
    inputs = {}
    for name in ("image", "text"):
        path = tmp_path / "export" / f"{name}.onnx"
        onnx.checker.check_model(str(path))
        (given,) = onnxruntime.InferenceSession(str(path)).get_inputs()
        inputs[given.name] = (given.type, given.shape)
        assert str(tmp_path).encode() not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()
    assert inputs == {"pixels": ("tensor(float)", ["N", 3, 32, 32]), "tokens": ("tensor(int64)", ["N", 16])}


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_command_and_the_code_of_the_readme(mode, bert, tmp_path, capfd):
    text_cfg = hugging_face(bert) if mode == "squash" else native()["text_cfg"]
    folder = checkpoint(tmp_path / "model", native(text_cfg=text_cfg), resize_mode=mode)
    calibration = calibrate(folder, 45.0)
    out = tmp_path / "export"
    main(["export", str(folder), "--format", "onnx", "--out", str(out), "--json"])
    printed = capfd.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out)["checkpoint_digest"] == checkpoint_digest(folder)
    scan(height=97).save(out / "image.png")
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    ended = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=True)
    row = [float(value) for value in ended.stdout.strip().strip("[]").split()]
    model = clipmed.load(folder)
    (ours,) = model.classify(out / "image.png", {"a": ["a normal scan"], "b": ["a mass"]})
    assert row == pytest.approx(list(ours.probabilities.values()), abs=1e-5)
    assert sum(row) == pytest.approx(1, abs=1e-6)
    settings = json.loads((out / "preprocess.json").read_text())
    assert (settings["logit_scale"], settings["calibrated"]) == (45, True)
    assert settings["learned_logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4)
    assert read_calibration(out) == calibration


def test_a_difference_is_not_written(monkeypatch, tmp_path):
    save = onnx_export._save

    def slightly_wrong(program, path, **options):
        save(program, path, **options)
        model = onnx.load(str(path))
        weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save_model(model, str(path))

    monkeypatch.setattr(onnx_export, "_save", slightly_wrong)
    with pytest.raises(ConfigError, match="image embeddings differ from the checkpoint's by"):
        export_onnx(two_tower(native()), tmp_path / "export", {})
    assert not (tmp_path / "export").exists()


def test_without_onnxruntime_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxruntime is not installed; pip install 'clipmed\[onnx\]' brings it"):
        export_onnx(two_tower(native()), tmp_path / "export", {})
