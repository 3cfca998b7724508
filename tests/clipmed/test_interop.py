"""Plain OpenCLIP loads what clipmed saves, clipmed loads what OpenCLIP saves, and both embed the same."""

import contextlib
import json

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_config_for_hf, save_for_hf
from safetensors.torch import save_file

import clipmed
from clipmed.cards import use_section
from clipmed.hub.publishing import Push, push
from tests.clipmed.tiny import FULL_CARD
from tests.clipmed.tiny_towers import (
    NATIVE_TEXT,
    NATIVE_VISION,
    RESNET_VISION,
    TIMM_VISION,
    checkpoint,
    config_of,
    hugging_face,
    native,
    scan,
    two_tower,
    write_bert,
    write_roberta,
)

TEXTS = ["a mass!", "T2 – the patient’s “lesion” &lt; 3 cm", "one word " * 30]
KINDS = {
    "native towers": lambda files: native(),
    "quick gelu": lambda files: native(quick_gelu=True),
    "text in a tower of its own": lambda files: native(custom_text=True),
    "resnet": lambda files: native(vision_cfg=RESNET_VISION),
    "average of patches": lambda files: native(vision_cfg=NATIVE_VISION | {"pool_type": "avg"}),
    "sigmoid loss, as SigLIP": lambda files: native(
        custom_text=True,
        init_logit_scale=2.0,
        init_logit_bias=-10.0,
        text_cfg=NATIVE_TEXT
        | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
    ),
    "timm": lambda files: native(custom_text=True, vision_cfg=TIMM_VISION),
    "timm with its own head": lambda files: native(
        custom_text=True, vision_cfg=TIMM_VISION | {"timm_pool": "avg", "timm_proj": None}
    ),
    "bert, mean, two matrices": lambda files: native(text_cfg=hugging_face(files["bert"], "mean_pooler")),
    "bert, its own pooler": lambda files: native(text_cfg=hugging_face(files["bert"], "cls_pooler", "linear")),
    "timm and roberta": lambda files: native(vision_cfg=TIMM_VISION, text_cfg=hugging_face(files["roberta"])),
}
PREPROCESSING = {
    "native towers": {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
    "sigmoid loss, as SigLIP": {
        "resize_mode": "squash",
        "interpolation": "bilinear",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    },
    "timm": {"resize_mode": "longest", "fill_color": 9},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text-towers")
    return {"bert": write_bert(folder / "bert"), "roberta": write_roberta(folder / "roberta")}


def embedded_by_open_clip(model, preprocess, tokenizer):
    images = torch.stack([preprocess(scan(seed)) for seed in range(3)])
    with torch.no_grad():
        return model.encode_image(images, normalize=True), model.encode_text(tokenizer(TEXTS), normalize=True)


def named_by_hub(model_cfg, files, hub):
    """Return the config as of a text tower that came from the hub, where it is put, and not from a folder."""
    config = json.loads(json.dumps(model_cfg))
    text_cfg = config["text_cfg"]
    if "hf_model_name" in text_cfg:
        name = next(name for name, folder in files.items() if str(folder) == text_cfg["hf_model_name"])
        hub.add(f"org/{name}", files[name])
        text_cfg |= {"hf_model_name": f"org/{name}", "hf_tokenizer_name": f"org/{name}"}
    return config


def require_equal(folder, images, texts):
    """Assert that clipmed gives these embeddings, from the folder alone."""
    model = clipmed.load(folder, "cpu")
    torch.testing.assert_close(model.embed_images([scan(seed) for seed in range(3)]), images, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.embed_texts(TEXTS), texts, atol=1e-6, rtol=0)
    assert (texts[0] - texts[1]).abs().max() > 1e-4
    assert (images[0] - images[1]).abs().max() > 1e-4


def is_hugging_face(folder):
    return "hf_model_name" in config_of(folder)["model_cfg"]["text_cfg"]


@pytest.mark.parametrize("kind", KINDS)
def test_open_clip_loads_what_clipmed_saves(kind, files, tmp_path):
    """From anywhere; where the text tower is called ".", which OpenCLIP looks for in the current folder, from there."""
    folder = checkpoint(tmp_path / "model", KINDS[kind](files), **PREPROCESSING.get(kind, {}))
    name = f"local-dir:{folder}"
    tokenizer = open_clip.get_tokenizer(name)
    with contextlib.chdir(folder) if is_hugging_face(folder) else contextlib.nullcontext():
        model, preprocess = open_clip.create_model_from_pretrained(name)
        again, _, preprocess_again = open_clip.create_model_and_transforms(name)
    images, texts = embedded_by_open_clip(model.eval(), preprocess, tokenizer)
    require_equal(folder, images, texts)
    torch.testing.assert_close(embedded_by_open_clip(again.eval(), preprocess_again, tokenizer), (images, texts))


def test_a_text_tower_beside_its_config_is_found_by_open_clip_from_inside_the_folder_alone(files, tmp_path):
    """What the card, the docs and save_checkpoint say; clipmed finds it from anywhere."""
    folder = checkpoint(tmp_path / "model", KINDS["bert, mean, two matrices"](files))
    with contextlib.chdir(tmp_path), pytest.raises((OSError, ValueError), match=r"in \."):
        open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with contextlib.chdir(folder):
        model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")
        tokenizer = open_clip.get_tokenizer("local-dir:.")
    require_equal(folder, *embedded_by_open_clip(model.eval(), preprocess, tokenizer))
    assert "as `local-dir:.`" in use_section()


@pytest.mark.parametrize("kind", KINDS)
def test_clipmed_loads_what_open_clip_saves(kind, files, tmp_path, local_hub):
    """Files as OpenCLIP's `save_for_hf` writes them, without the pickle; it cannot save its own tokenizer.

    It does not save `fill_color` either, nor the config of a text tower, which is fetched from the hub by its name.
    """
    source = KINDS[kind](files)
    built = two_tower(source, **PREPROCESSING.get(kind, {}) | {"fill_color": 0})
    model, folder = built.model, tmp_path / "model"
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
    )
    config = named_by_hub(source, files, local_hub)
    if "hf_model_name" in source["text_cfg"]:
        save_for_hf(model, built.tokenizer, config, folder, safe_serialization=True)
    else:
        folder.mkdir()
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        save_config_for_hf(model, folder / "open_clip_config.json", config)
    require_equal(folder, *embedded_by_open_clip(model, preprocess, built.tokenizer))


# huggingface_hub 2.4 hands files to its HTTP client in a way that the client is about to drop.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize(
    "kind", ["native towers", "sigmoid loss, as SigLIP", "bert, mean, two matrices", "timm and roberta"]
)
def test_both_load_what_was_pushed(kind, files, tmp_path, local_hub, monkeypatch):
    folder = checkpoint(tmp_path / "model", KINDS[kind](files), **PREPROCESSING.get(kind, {}))
    (folder / "README.md").write_text(FULL_CARD)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    name = f"org/{kind.split()[0].strip(',')}"  # each its own: transformers remembers a name's commit
    push(Push(folder=folder, repository=name, license="mit"))
    if is_hugging_face(folder):
        assert config_of(folder)["model_cfg"]["text_cfg"]["hf_model_name"] == "."
    monkeypatch.chdir(tmp_path)
    model, preprocess = open_clip.create_model_from_pretrained(f"hf-hub:{name}")
    tokenizer = open_clip.get_tokenizer(f"hf-hub:{name}")
    require_equal(f"hf-hub:{name}", *embedded_by_open_clip(model.eval(), preprocess, tokenizer))
    require_equal(folder, *embedded_by_open_clip(model.eval(), preprocess, tokenizer))
