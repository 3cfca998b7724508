"""Encoders of every kind: equal to their own library's embeddings, and refused where reading would run code."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import clipmed
from clipmed.checkpoints import CONFIG_FILE, WEIGHTS_FILE, checkpoint_digest
from clipmed.errors import CheckpointError, ClipmedError, ConfigError, DataError
from tests.zeroshot_eval import tiny_models
from tests.zeroshot_eval.tiny_models import TEXTS, noise_image, png
from zeroshot_eval.encoders import describe_encoder, open_encoder

IMAGES = [noise_image(50, 70), noise_image(90, 40)]
SAVERS = {
    "clip": tiny_models.save_clip,
    "siglip": tiny_models.save_siglip,
    "siglip2": tiny_models.save_siglip2,
    "dual": tiny_models.save_dual_encoder,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: save(root / kind) for kind, save in SAVERS.items()}


@pytest.fixture
def clip_copy(folders, tmp_path):
    return Path(shutil.copytree(folders["clip"], tmp_path / "copy"))


def unit(features):
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features).float(), dim=-1)


def embedded(encoder, images=IMAGES):
    return encoder.embed_images(torch.stack([encoder.pixels(png(image)) for image in images]))


@pytest.mark.parametrize("kind", list(SAVERS))
def test_transformers_models_embed_as_their_own_processor_and_model_do(folders, kind):
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders[kind])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    padding = "max_length" if kind.startswith("siglip") else True
    with torch.no_grad():
        images = unit(model.get_image_features(**processor(IMAGES, return_tensors="pt")))
        tokens = tokenizer(TEXTS, padding=padding, truncation=True, return_tensors="pt")
        texts = unit(model.get_text_features(**tokens))
    encoder = open_encoder(folders[kind])
    ours_images, ours_texts = embedded(encoder), encoder.embed_texts(TEXTS)
    assert ours_images.dtype == ours_texts.dtype == torch.float32
    assert ours_images.shape == (2, tiny_models.WIDTH)
    assert ours_texts.shape == (3, tiny_models.WIDTH)
    torch.testing.assert_close(ours_images, images, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours_texts, texts, atol=1e-5, rtol=0)
    assert (images[0] - images[1]).abs().max() > 0.01  # the test tells models and images apart
    facts = describe_encoder(folders[kind])
    assert facts == encoder.facts
    assert facts.logit_scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-6)
    assert facts.logit_bias == (pytest.approx(model.logit_bias.item()) if padding == "max_length" else None)


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_texts_are_padded_to_their_64_positions_whatever_the_batch(folders, kind):
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    encoder = open_encoder(folders[kind])
    with torch.no_grad():
        short = unit(model.get_text_features(**tokenizer(TEXTS, padding=True, return_tensors="pt")))
    assert (encoder.embed_texts(TEXTS) - short).abs().max() > 1e-3
    torch.testing.assert_close(encoder.embed_texts(TEXTS[:1]), encoder.embed_texts(TEXTS)[:1], atol=1e-6, rtol=0)
    assert encoder.facts.tokenization == "64 tokens, padded to them"


@pytest.mark.parametrize(("kind", "positions"), [("clip", 77), ("siglip", 64), ("siglip2", 64), ("dual", 512)])
def test_configs_that_leave_the_token_positions_out_mean_the_models_default(folders, tmp_path, kind, positions):
    folder = Path(shutil.copytree(folders[kind], tmp_path / "copy"))
    for file, keys in (("config.json", ["max_position_embeddings"]), ("tokenizer_config.json", ["model_max_length"])):
        content = json.loads((folder / file).read_text())
        for key in keys:
            content.get("text_config", content).pop(key, None)
        (folder / file).write_text(json.dumps(content))
    assert describe_encoder(folder).tokenization.startswith(f"{positions} tokens")


def test_vocabularies_of_the_librarys_first_layout_are_read(folders, clip_copy):
    vocabulary = json.loads((clip_copy / "tokenizer.json").read_text())["model"]["vocab"]
    (clip_copy / "tokenizer.json").unlink()
    (clip_copy / "vocab.json").write_text(json.dumps(vocabulary))
    (clip_copy / "merges.txt").write_text("#version: 0.2\n")
    theirs = open_encoder(folders["clip"]).embed_texts(TEXTS)
    torch.testing.assert_close(open_encoder(clip_copy).embed_texts(TEXTS), theirs)


def test_long_texts_are_cut_at_the_towers_positions(folders):
    encoder = open_encoder(folders["clip"])
    long = "lung " * 100
    assert encoder.facts.tokenization.startswith("24 tokens")
    assert torch.isfinite(encoder.embed_texts([long])).all()


def test_many_texts_are_embedded_in_batches_in_their_order(folders):
    encoder = open_encoder(folders["clip"])
    many = [TEXTS[number % 3] for number in range(601)]
    vectors = encoder.embed_texts(many)
    assert vectors.shape == (601, tiny_models.WIDTH)
    torch.testing.assert_close(vectors[600], encoder.embed_texts([many[600]])[0], atol=1e-5, rtol=0)
    with pytest.raises(ClipmedError, match="no texts to embed"):
        encoder.embed_texts([])


def test_preprocessing_names_what_decides_a_pixel(folders, clip_copy):
    words = describe_encoder(folders["clip"]).preprocessing
    for part in (
        "CLIPImageProcessor",
        "shortest 32",
        "bicubic",
        "centre-crop 32x32",
        "mean=0.48145466",
        "std=0.26862954",
    ):
        assert part in words
    path = clip_copy / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_factor": 1 / 256}))
    changed = describe_encoder(clip_copy)
    assert changed.preprocessing != words
    assert changed.digest != describe_encoder(folders["clip"]).digest


def test_processors_of_the_librarys_first_layout_are_read(clip_copy):
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 24, "crop_size": 24, "resample": 3}
    old |= {"do_resize": True, "do_center_crop": True, "do_normalize": True}
    old |= {"image_mean": [0.4, 0.4, 0.4], "image_std": [0.3, 0.3, 0.3]}
    (clip_copy / "preprocessor_config.json").write_text(json.dumps(old))
    encoder = open_encoder(clip_copy)
    assert encoder.pixels(png(IMAGES[0])).shape == (3, 24, 24)
    assert "resize 24 bicubic:centre-crop 24" in encoder.facts.preprocessing


def test_an_openclip_folder_equals_clipmed_load(checkpoint):
    encoder, loaded = open_encoder(checkpoint), clipmed.load(checkpoint)
    torch.testing.assert_close(embedded(encoder), loaded.embed_images(IMAGES), atol=0, rtol=0)
    torch.testing.assert_close(encoder.embed_texts(TEXTS), loaded.embed_texts(TEXTS), atol=0, rtol=0)
    facts = describe_encoder(checkpoint)
    assert facts == encoder.facts
    assert facts.digest == checkpoint_digest(checkpoint)
    assert facts.name == f"{checkpoint.parent.name}/model"
    assert facts.logit_scale == pytest.approx(1 / 0.07, rel=1e-6)
    assert facts.logit_bias is None


@pytest.mark.parametrize("mode", ["squash", "longest"])
def test_openclip_resize_modes_and_statistics_are_the_configs(checkpoint, tmp_path, mode):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["preprocess_cfg"] |= {"resize_mode": mode, "interpolation": "bilinear", "fill_color": 7}
    config["preprocess_cfg"] |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    encoder = open_encoder(folder)
    torch.testing.assert_close(encoder.pixels(png(IMAGES[1])), transform(IMAGES[1]), atol=0, rtol=0)
    assert f"{mode}:bilinear" in encoder.facts.preprocessing
    assert encoder.facts.preprocessing != describe_encoder(checkpoint).preprocessing


@pytest.mark.parametrize("kind", ["clip", "openclip"])
def test_deep_greys_keep_their_range(folders, checkpoint, kind):
    ramp = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))
    pixels = open_encoder(folders["clip"] if kind == "clip" else checkpoint).pixels(png(Image.fromarray(ramp)))
    assert len(pixels[0].unique()) > 20  # clipped to 8 bits, all but a few columns would be white


def test_bytes_that_are_no_image_are_a_data_error(folders):
    encoder = open_encoder(folders["clip"])
    for data in (b"", b"not an image", png(IMAGES[0])[:200]):
        with pytest.raises(DataError, match="do not decode as an image"):
            encoder.pixels(data)


def test_lower_precision_stays_near_and_comes_back_as_float32(folders):
    exact, narrow = open_encoder(folders["clip"]), open_encoder(folders["clip"], dtype="bfloat16")
    vectors = embedded(narrow)
    assert vectors.dtype == torch.float32
    difference = (vectors - embedded(exact)).abs().max()
    assert 0 < difference < 0.05
    with pytest.raises(ConfigError, match="dtype: got 'int8'; allowed: float32"):
        open_encoder(folders["clip"], dtype="int8")


def test_weights_in_several_files_are_read_whole(folders, clip_copy):
    model = transformers.CLIPModel.from_pretrained(folders["clip"])
    (clip_copy / "model.safetensors").unlink()
    model.save_pretrained(clip_copy, max_shard_size="40KB")
    assert (clip_copy / "model.safetensors.index.json").is_file()
    torch.testing.assert_close(embedded(open_encoder(clip_copy)), embedded(open_encoder(folders["clip"])))
    assert describe_encoder(clip_copy).logit_scale == describe_encoder(folders["clip"]).logit_scale
    sorted(clip_copy.glob("model-*.safetensors"))[-1].unlink()
    with pytest.raises(CheckpointError, match=r"index.json names 'model-.*which is not in it"):
        describe_encoder(clip_copy)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_the_scale_is_read_in_any_precision(clip_copy, kind):
    state = load_file(clip_copy / "model.safetensors")
    state["logit_scale"] = torch.tensor(2.5, dtype=kind)
    save_file(state, clip_copy / "model.safetensors", metadata={"format": "pt"})
    assert describe_encoder(clip_copy).logit_scale == pytest.approx(np.exp(2.5))


def test_pickled_weights_are_refused_with_what_to_do(clip_copy, checkpoint, tmp_path):
    torch.save(load_file(clip_copy / "model.safetensors"), clip_copy / "pytorch_model.bin")
    (clip_copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pickled weights .* can run code; convert them to safetensors first"):
        open_encoder(clip_copy)
    folder = Path(shutil.copytree(checkpoint, tmp_path / "openclip"))
    (folder / WEIGHTS_FILE).rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickled weights are not read.*convert them to safetensors first"):
        describe_encoder(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_models_that_need_their_repositorys_code_are_refused_and_it_never_runs(clip_copy, file):
    marker = clip_copy / "ran"
    (clip_copy / "modeling.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    path = clip_copy / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "modeling.Model"}}))
    with pytest.raises(CheckpointError, match=rf"{file} names code of its own repository .*never run here; convert"):
        open_encoder(clip_copy)
    assert not marker.exists()


def test_weights_of_another_model_are_refused(clip_copy):
    state = load_file(clip_copy / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in state.items() if "layers.1" not in name}, clip_copy / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"do not match config.json: \d+ tensors are missing"):
        open_encoder(clip_copy)
    save_file(state | {"text_projection.bias": torch.zeros(3)}, clip_copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 are unexpected \['text_projection.bias'\]"):
        open_encoder(clip_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "model_type 'bert'; allowed: clip",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda folder: (folder / "config.json").unlink(), "is not a checkpoint"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "pixel statistics; they are not guessed"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer in it"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "is damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{"), "is damaged"),
        (lambda folder: save_file({"a": torch.zeros(2)}, folder / "model.safetensors"), "have no logit_scale"),
        (lambda folder: save_file({"logit_scale": torch.zeros(2)}, folder / "model.safetensors"), "one floating-point"),
    ],
)
def test_folders_that_are_no_model_say_what_is_missing(clip_copy, change, message):
    change(clip_copy)
    with pytest.raises(CheckpointError, match=message):
        describe_encoder(clip_copy)


def test_locations_that_are_nothing_list_what_is_allowed(tmp_path):
    with pytest.raises(CheckpointError, match="no encoder at 'medsiglop'; did you mean 'medsiglip'"):
        open_encoder("medsiglop")
    with pytest.raises(ConfigError, match=r"conch .*needs code of its own"):
        open_encoder("conch")
    with pytest.raises(ConfigError, match="no weights 'opennai'; did you mean 'openai'"):
        open_encoder("ViT-B-32:opennai")
    with pytest.raises(ConfigError, match="no model config is called 'ViT-B-33'"):
        open_encoder("ViT-B-33:openai")
