"""Exports for transformers: loaded there as a stranger would, and refused where transformers cannot hold a part."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

import clipmed
from clipmed.__main__ import main
from clipmed.calibration import read_calibration
from clipmed.cards import Card
from clipmed.checkpoints import checkpoint_digest
from clipmed.description import read_card
from clipmed.errors import ConfigError
from clipmed.exporting import transformers_export
from clipmed.exporting.parity import probe_pixels
from clipmed.exporting.transformers_export import export_transformers
from clipmed.towers import assemble, model_config
from clipmed.zeroshot import embed_images, embed_texts
from tests.clipmed.tiny_towers import (
    NATIVE_TEXT,
    NATIVE_VISION,
    RESNET_VISION,
    TIMM_VISION,
    calibrate,
    checkpoint,
    hugging_face,
    native,
    scan,
    two_tower,
    write_bert,
    write_roberta,
)

TEXTS = ["a mass!", "T2 – the patient’s “lesion” &lt; 3 cm, ﬂuid", "Word and word " * 20, "<|endoftext|> 12.5%"]
EXPORTED = {
    "a vision transformer": lambda bert: native(),
    "text in a tower of its own": lambda bert: native(custom_text=True),
    "quick gelu": lambda bert: native(quick_gelu=True),
    "tanh gelu": lambda bert: native(
        vision_cfg=NATIVE_VISION | {"act_kwargs": {"approximate": "tanh"}},
        text_cfg=NATIVE_TEXT | {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
    ),
    "other shapes": lambda bert: native(
        vision_cfg=NATIVE_VISION | {"mlp_ratio": 2.0, "patch_dropout": 0.5, "final_ln_after_pool": True, "layers": 1},
        text_cfg=NATIVE_TEXT | {"heads": 4, "layers": 3},
    ),
    "bert, first token, one matrix": lambda bert: native(text_cfg=hugging_face(bert, projection="linear")),
    "bert, first token, two matrices": lambda bert: native(text_cfg=hugging_face(bert)),
    "bert, first token, no matrix": lambda bert: native(embed_dim=24, text_cfg=hugging_face(bert, projection=None)),
    "bert, its own pooler": lambda bert: native(text_cfg=hugging_face(bert, "cls_pooler", "linear")),
    "timm, native text": lambda bert: native(custom_text=True, vision_cfg=TIMM_VISION),
    "timm, average, bert": lambda bert: native(
        vision_cfg=TIMM_VISION | {"timm_pool": "avg"}, text_cfg=hugging_face(bert)
    ),
    "timm resnet, bert": lambda bert: native(
        vision_cfg=TIMM_VISION | {"timm_model_name": "test_resnet", "timm_pool": "avg"}, text_cfg=hugging_face(bert)
    ),
    "no projection of timm's": lambda bert: native(
        embed_dim=64, custom_text=True, vision_cfg=TIMM_VISION | {"timm_proj": "none", "timm_pool": "token"}
    ),
}
REFUSED = {
    "mean_pooler": lambda bert: native(text_cfg=hugging_face(bert, "mean_pooler")),
    "timm_proj='mlp'": lambda bert: native(custom_text=True, vision_cfg=TIMM_VISION | {"timm_proj": "mlp"}),
    "timm_proj=None": lambda bert: native(
        custom_text=True, vision_cfg=TIMM_VISION | {"timm_proj": None, "timm_pool": "avg"}
    ),
    "timm_proj_bias=True": lambda bert: native(custom_text=True, vision_cfg=TIMM_VISION | {"timm_proj_bias": True}),
    "no ResNet": lambda bert: native(vision_cfg=RESNET_VISION),
    "pool_type='avg'": lambda bert: native(vision_cfg=NATIVE_VISION | {"pool_type": "avg"}),
    "ls_init_value=0.1": lambda bert: native(vision_cfg=NATIVE_VISION | {"ls_init_value": 0.1}),
    "square images": lambda bert: native(vision_cfg=NATIVE_VISION | {"image_size": [32, 40]}),
    "no_causal_mask=True": lambda bert: native(custom_text=True, text_cfg=NATIVE_TEXT | {"no_causal_mask": True}),
    "pool_type='last'": lambda bert: native(custom_text=True, text_cfg=NATIVE_TEXT | {"pool_type": "last"}),
    "does not fit into one more layer": lambda bert: native(embed_dim=24, text_cfg=hugging_face(bert)),
    "tokenizer_kwargs={'clean': 'canonicalize'}": lambda bert: native(
        text_cfg=NATIVE_TEXT | {"tokenizer_kwargs": {"clean": "canonicalize"}}
    ),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("towers") / "bert")


def embeddings(folder, pixels, texts):
    """Return unit-length embeddings of images and texts from a folder, through transformers alone."""
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels).pooler_output
        text = model.get_text_features(**processor(text=texts, return_tensors="pt")).pooler_output
    return [torch.nn.functional.normalize(features, dim=-1) for features in (image, text)]


@pytest.mark.parametrize("kind", EXPORTED)
def test_transformers_embeds_as_the_checkpoint_does(kind, bert, tmp_path):
    tower = two_tower(EXPORTED[kind](bert))
    report = export_transformers(tower, tmp_path / "export", {})
    pixels = probe_pixels(tower)
    images, texts = embeddings(tmp_path / "export", pixels, TEXTS)
    expected = embed_texts(tower, TEXTS)
    torch.testing.assert_close(images, embed_images(tower, pixels), atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-4  # the texts tell: not all of them have one embedding
    assert json.loads((tmp_path / "export" / "export.json").read_text()) == report
    assert max(report["image_embeddings_differ_by"], report["text_embeddings_differ_by"]) <= 1e-5


def test_a_roberta_tower(tmp_path):
    tower = two_tower(native(text_cfg=hugging_face(write_roberta(tmp_path / "roberta"))))
    export_transformers(tower, tmp_path / "export", {})
    _, texts = embeddings(tmp_path / "export", probe_pixels(tower), TEXTS)
    torch.testing.assert_close(texts, embed_texts(tower, TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", REFUSED)
def test_what_transformers_cannot_hold_is_refused_by_name(part, bert, tmp_path):
    with pytest.raises(ConfigError) as caught:
        export_transformers(two_tower(REFUSED[part](bert)), tmp_path / "export", {})
    assert part in str(caught.value)
    assert not (tmp_path / "export").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_difference_is_not_written(monkeypatch, tmp_path):
    convert = transformers_export._convert

    def slightly_wrong(tower):
        model = convert(tower)
        with torch.no_grad():
            model.text_projection.weight[0, 0] += 0.01
        return model

    monkeypatch.setattr(transformers_export, "_convert", slightly_wrong)
    with pytest.raises(ConfigError, match=r"text embeddings differ from the checkpoint.s by 0\.00"):
        export_transformers(two_tower(native()), tmp_path / "export", {})
    assert not (tmp_path / "export").exists()


def test_logits_have_the_checkpoints_scale_and_the_processor_cuts_texts(tmp_path):
    tower = two_tower(native(init_logit_scale=1.5, init_logit_bias=-3.0))
    report = export_transformers(tower, tmp_path / "export", {})
    model, processor = (kind.from_pretrained(tmp_path / "export") for kind in (AutoModel, AutoProcessor))
    inputs = processor(text=["a mass", "long " * 90], images=[scan()], return_tensors="pt")
    assert inputs["input_ids"].shape == (2, 16)
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    text = embed_texts(tower, ["a mass", "long " * 90])
    expected = embed_images(tower, inputs["pixel_values"]) @ text.T * tower.model.logit_scale.exp()
    torch.testing.assert_close(logits, expected.detach(), atol=1e-4, rtol=0)
    assert model.config.logit_bias == -3.0
    assert "logit_bias" in (tmp_path / "export" / "README.md").read_text()
    assert report["processor_lowest_cosine"] > 0.9
    assert report["processor_pixels_differ_by_mean"] < 10


def test_a_squashed_image_is_squashed_by_the_processor(tmp_path):
    tower = two_tower(native(), resize_mode="squash", interpolation="bilinear")
    export_transformers(tower, tmp_path / "export", {})
    processor = AutoProcessor.from_pretrained(tmp_path / "export")
    bands = scan(height=320, width=32).resize((32, 320))
    bands.paste((255, 0, 0), (0, 0, 32, 40))  # at the top, which a centre crop would lose
    pixels = processor(images=bands, return_tensors="pt")["pixel_values"]
    red, blue = (pixels[0, channel, :3] * tower.std[channel] + tower.mean[channel] for channel in (0, 2))
    assert red.mean() > 0.9
    assert blue.mean() < 0.1
    assert float(red.std()) < 0.1


@pytest.mark.parametrize("name", ["clipmed_tiny", "clipmed_demo", "clipmed_laptop"])
def test_shipped_configs_are_clip_models(name, tmp_path):
    report = export_transformers(assemble(model_config(name)), tmp_path / "export", {})
    assert report["class"] == "CLIPModel"


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("clipmed_unimed_b16", "VisionTextDualEncoderModel"),
        ("clipmed_vit_b16_bert", "VisionTextDualEncoderModel"),
        ("clipmed_unimed_l14_336", "does not fit into one more layer"),
    ],
)
def test_shipped_configs_with_bert(name, outcome, tmp_path):
    """Sizes as shipped where the projection is decided (768, embed_dim, 3072), few layers otherwise."""
    shipped = model_config(name)
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 1}
    folder = write_bert(tmp_path / "bert", **sizes)
    text_cfg = shipped["text_cfg"] | {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    vision_cfg = shipped["vision_cfg"]
    smaller = {"timm_model_name": "test_vit", "image_size": 160} if "timm_model_name" in vision_cfg else NATIVE_VISION
    tower = two_tower(shipped | {"text_cfg": text_cfg, "vision_cfg": vision_cfg | smaller})
    if outcome == "VisionTextDualEncoderModel":
        assert export_transformers(tower, tmp_path / "export", {})["class"] == outcome
    else:
        with pytest.raises(ConfigError, match=f"{outcome}.*--format onnx"):
            export_transformers(tower, tmp_path / "export", {})


def test_command_and_the_code_of_the_readme(tmp_path, capfd):
    folder = checkpoint(tmp_path / "model", native())
    calibration = calibrate(folder, 45.0)
    out = tmp_path / "export"
    for _ in range(2):  # the second one replaces the first
        capfd.readouterr()
        main(["export", str(folder), "--format", "transformers", "--out", str(out), "--json"])
    printed = capfd.readouterr()
    report = json.loads(printed.out)
    assert printed.err == ""
    assert report["checkpoint_digest"] == checkpoint_digest(folder)
    scan().save(out / "image.png")
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=out, capture_output=True, text=True, check=True
    )
    row = [float(value) for value in ran.stdout.strip().removeprefix("tensor([[").removesuffix("]])").split(",")]
    ours = clipmed.load(folder).classify(scan(), {"a": ["a normal scan"], "b": ["a scan with a mass"]})[0]
    assert row == pytest.approx(list(ours.probabilities.values()), abs=0.02)
    assert float(AutoModel.from_pretrained(out).logit_scale.detach().exp()) == pytest.approx(45)
    assert (report["logit_scale"], report["calibrated"]) == (45, True)
    assert report["learned_logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4)
    assert read_calibration(out) == calibration
    assert "multiplied by 45, which `clipmed calibrate` fitted" in (out / "README.md").read_text()


@pytest.mark.parametrize("kind", ["transformers", "onnx"])
def test_only_another_export_is_replaced(kind, tmp_path):
    folder = checkpoint(tmp_path / "model", native())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit, match=r"is no export \(it has no export\.json\)"):
        main(["export", str(folder), "--format", kind, "--out", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("kind", ["transformers", "onnx"])
def test_the_card_goes_along(kind, tmp_path):
    folder = checkpoint(tmp_path / "model", native())
    given = Card(title="Lungs", intro="Of lungs.", sections={"Use": "by clipmed.load", "Data": "40 scans", "More": "x"})
    (folder / "README.md").write_text(given.with_metadata(license="cc-by-4.0").text())
    main(["export", str(folder), "--format", kind, "--out", str(tmp_path / "export")])
    card = read_card(tmp_path / "export")
    assert (card.metadata["license"], card.metadata["library_name"]) == ("cc-by-4.0", kind)
    assert (card.title, card.intro, card.sections["Data"], card.sections["More"]) == (
        "Lungs",
        "Of lungs.",
        "40 scans",
        "x",
    )
    assert "clipmed.load" not in card.sections["Use"]
    assert "exported by clipmed" in card.sections["Use"]
    assert not (tmp_path / "export" / "calibration.json").exists()
    (folder / "README.md").unlink()
    main(["export", str(folder), "--format", kind, "--out", str(tmp_path / "export")])
    assert "Not a medical device" in read_card(tmp_path / "export").intro


def test_half_is_for_onnx(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", "x", "--format", "transformers", "--half", "--out", str(tmp_path / "export")])
    assert "half: only ONNX graphs are stored in float16" in capsys.readouterr().err


def test_an_export_that_is_tampered_with_is_noticed_by_its_reader(tmp_path):
    """The comparison reads the folder back: weights that are not there would be made up by transformers."""
    tower = two_tower(native())
    export_transformers(tower, tmp_path / "export", {})
    weights = tmp_path / "export" / "model.safetensors"
    state = load_file(weights)
    del state["text_projection.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="text embeddings differ"):
        transformers_export._compare(tower, tmp_path / "export")
