"""transformers' image processors: the same pixels after a conversion, or an error; never other pixels in silence."""

import json

import pytest
import torch
import transformers
from PIL import Image

from clipmed.errors import CheckpointError
from clipmed.importing.transformers_pixels import convert_processor
from clipmed.pixels import image_pixels, pixel_config
from tests.zeroshot_eval.tiny_models import noise_image

SIDE = 32
SHORTEST = {"size": {"shortest_edge": SIDE}, "crop_size": SIDE}
SQUARE = {"height": SIDE, "width": SIDE}
KINDS = {
    "as CLIP's": SHORTEST,
    "bilinear": SHORTEST | {"resample": Image.Resampling.BILINEAR},
    "both sides scaled": {"size": SQUARE, "crop_size": SQUARE},
    "both sides scaled, without a crop": {"size": SQUARE, "do_center_crop": False},
    "statistics of its own": SHORTEST | {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
    "not normalised": SHORTEST | {"do_normalize": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nested", [False, True])
def test_pixels_are_those_of_transformers(tmp_path, kind, nested):
    processor = transformers.CLIPImageProcessor(**KINDS[kind])
    processor.save_pretrained(tmp_path)
    if nested:  # as transformers 5 saves a whole processor
        (path,) = tmp_path.iterdir()
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(path.read_text())}))
        path.unlink()
    config = pixel_config(convert_processor(tmp_path, SIDE), SIDE, "here")
    image = noise_image(90, 60)
    theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
    ours = image_pixels(image, config)
    assert ((ours - theirs).abs() * torch.tensor(config.std)[:, None, None]).max() < 4 / 255  # of rounding


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"shortest_edge": 40}, "crop_size": SIDE}, r"size: got size .*40.*; allowed.*32 pixels"),
        ({"size": {"shortest_edge": SIDE}, "crop_size": 24}, r"size: got .*24"),
        ({"size": {"shortest_edge": SIDE}, "do_center_crop": False}, "no crop"),
        ({"size": {"height": 32, "width": 48}, "do_center_crop": False}, "size: got"),
        ({"size": {"longest_edge": SIDE}}, "size: got"),
        ({"size": 40, "crop_size": SIDE}, "size: got"),
        (SHORTEST | {"resample": 0}, "resample: got 0; allowed"),
        (SHORTEST | {"rescale_factor": 1.0}, "rescale_factor: got 1.0"),
        (SHORTEST | {"do_rescale": False}, "do_rescale: got False"),
        (SHORTEST | {"do_resize": False}, "do_resize: got False"),
        (SHORTEST | {"image_processor_type": "ViTImageProcessor"}, "image_processor_type: got 'ViTImageProcessor'"),
        ({"anything": 1}, "no processor_config.json or preprocessor_config.json that tells"),
    ],
)
def test_what_openclip_cannot_do_is_refused(tmp_path, settings, message):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=message):
        convert_processor(tmp_path, SIDE)


def test_old_files_give_sizes_as_numbers(tmp_path):
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIDE, "crop_size": SIDE, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert convert_processor(tmp_path, SIDE)["resize_mode"] == "shortest"


def test_of_two_files_the_one_counts_that_transformers_reads(tmp_path):
    transformers.CLIPImageProcessor(**SHORTEST).save_pretrained(tmp_path)
    nested = {"image_processor": SHORTEST | {"image_mean": [0.1, 0.2, 0.3], "image_std": None}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    theirs = transformers.CLIPImageProcessor.from_pretrained(tmp_path)
    assert convert_processor(tmp_path, SIDE)["mean"] == list(theirs.image_mean) == [0.1, 0.2, 0.3]


def test_sizes_that_are_not_said_are_those_of_transformers(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    assert convert_processor(tmp_path, transformers.CLIPImageProcessor().size["shortest_edge"])
    with pytest.raises(CheckpointError, match="size: got size 224"):
        convert_processor(tmp_path, 336)


def test_pixels_are_not_guessed(tmp_path):
    with pytest.raises(CheckpointError, match="they are not guessed"):
        convert_processor(tmp_path, SIDE)
