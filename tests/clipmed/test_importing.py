"""Published layouts converted: the same embeddings as the source's, complete folders, nothing run, nothing guessed."""

import contextlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

import clipmed
from clipmed.__main__ import main
from clipmed.cards import missing, parse_card
from clipmed.checkpoint_files import CARD_FILE, CONFIG_FILE, SUMS_FILE, file_sha256
from clipmed.checkpoints import load_checkpoint
from clipmed.errors import CheckpointError, ConfigError
from clipmed.importing import Import, import_checkpoint
from clipmed.importing.published import BY_LAYOUT, UNIMED_MODELS
from clipmed.towers import ModelConfig, build_two_tower, model_config
from tests.clipmed.tiny import TINY, save_tiny
from tests.clipmed.tiny_text_tower import bert_config, save_bert
from tests.clipmed.tiny_towers import checkpoint, native, scan

TEXTS = ["a lung", "the mass of a slide"]


@pytest.fixture
def bert(tmp_path):
    return save_bert(tmp_path / "bert")


def built(config, tmp_path):
    path = tmp_path / "built.json"
    path.write_text(json.dumps(config))
    torch.manual_seed(0)
    two_tower = build_two_tower(ModelConfig(config=str(path)))
    two_tower.model.eval()
    return two_tower


def plain(config):
    """OpenCLIP's older class, whose text tower is not a module of its own."""
    torch.manual_seed(0)
    return open_clip.CLIP(**{key: value for key, value in config.items() if key != "custom_text"}).eval()


def same(model, folder, tokenizer=None):
    """Whether the folder embeds as the model does, and plain OpenCLIP finds the same in it."""
    loaded = load_checkpoint(folder, offline=True)
    pixels = torch.randn(2, 3, *loaded.pixels.size)
    tokens = (tokenizer or loaded.tokenizer)(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.encode_image(pixels), model.encode_image(pixels))
        torch.testing.assert_close(loaded.model.encode_text(tokens), model.encode_text(tokens))
        torch.testing.assert_close(loaded.model.logit_scale, model.logit_scale)
        with contextlib.chdir(folder):  # where a text tower's "." leads
            theirs, _ = open_clip.create_model_from_pretrained("local-dir:.")
        theirs.eval()
        torch.testing.assert_close(theirs.encode_image(pixels), model.encode_image(pixels))
        torch.testing.assert_close(theirs.encode_text(tokens), model.encode_text(tokens))
    return True


def as_unimed(two_tower):
    """What UniMed-CLIP's trainer saves: its names, a data-parallel prefix, an optimizer with NumPy learning rates."""
    state = {
        f"module.text_encoder.{name.removeprefix('text.')}" if name.startswith("text.") else f"module.{name}": tensor
        for name, tensor in two_tower.model.state_dict().items()
    }
    optimizer = {"state": {}, "param_groups": [{"lr": np.float64(5e-4), "betas": (0.9, 0.98), "params": [0, 1]}]}
    return {"epoch": 10, "name": "b16", "state_dict": state, "optimizer": optimizer, "scaler": {"scale": 65536.0}}


def test_biomedclip_with_its_config_beside_it(tmp_path, bert, local_hub):
    name = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    local_hub.add(name, bert)
    config = bert_config(bert)
    config["vision_cfg"] = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"} | {
        "timm_model_pretrained": False,
        "image_size": 224,
    }
    source = built(config, tmp_path)
    published = tmp_path / "published"
    published.mkdir()
    config["text_cfg"] |= {"hf_model_name": name, "hf_tokenizer_name": name}
    (published / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}))
    state = source.model.state_dict() | {"text.transformer.embeddings.position_ids": torch.arange(24)[None]}
    torch.save(state, published / "open_clip_pytorch_model.bin")
    local_hub.add("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", published)

    done = import_checkpoint(Import(source=str(published), out=tmp_path / "out", layout="biomedclip"))
    assert done.left_out == ("text.transformer.embeddings.position_ids",)
    assert same(source.model, tmp_path / "out")
    assert load_checkpoint(tmp_path / "out").mean == (0.1, 0.2, 0.3)
    assert {"config.json", "tokenizer.json", SUMS_FILE} <= {path.name for path in done.folder.iterdir()}

    hub = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
    again = import_checkpoint(Import(source=hub, out=tmp_path / "again"))
    assert again.sha256 == done.sha256
    assert same(source.model, tmp_path / "again")
    card = parse_card((tmp_path / "again" / CARD_FILE).read_text())
    assert card.metadata["license"] == "mit"
    assert "PMC-15M" in card.sections["Data"]
    assert f"from: {hub}" in card.sections["Source"]
    assert again.sha256 in card.sections["Source"]
    assert missing(card, scores=False) == {}


def test_unimed_by_its_names(tmp_path, bert, local_hub):
    local_hub.add("microsoft/x", bert)  # where OpenCLIP looks for what is called so
    config = bert_config(bert) | {"quick_gelu": True}
    source = built(config, tmp_path)
    torch.save(as_unimed(source), tmp_path / "unimed_clip_vit_b16.pt")
    tiny = tmp_path / "model.json"
    config["text_cfg"] |= {"hf_model_name": "microsoft/x", "hf_tokenizer_name": "microsoft/x"}
    tiny.write_text(json.dumps(config))
    wanted = Import(
        source=str(tmp_path / "unimed_clip_vit_b16.pt"), out=tmp_path / "out", model=str(tiny), tokenizer=str(bert)
    )
    done = import_checkpoint(wanted)
    assert done.layout == "unimed"
    assert same(source.model, tmp_path / "out")
    clipmed.load(tmp_path / "out", device="cpu", offline=True).embed_texts(TEXTS)


def test_the_shipped_configs_of_unimed_have_its_sizes():
    for (width, text_width), name in UNIMED_MODELS.items():
        config = model_config(name)
        assert config["vision_cfg"]["width"] == width
        assert ("BERT-large" if text_width == 1024 else "BERT-base") in config["text_cfg"]["hf_model_name"]
        assert config["quick_gelu"]
        assert config["text_cfg"]["hf_proj_type"] == "mlp"
        assert config["text_cfg"]["hf_pooler_type"] == "cls_last_hidden_state_pooler"
    assert model_config(BY_LAYOUT["bmc-clip"].model)["vision_cfg"]["width"] == 1024


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((1024, 1024), r"BiomedNLP-BiomedBERT-large-uncased-abstract"),
        ((1024, 768), r"BiomedNLP-BiomedBERT-base-uncased-abstract"),
        ((512, 768), r"widths \(512, 768\); known of UniMed-CLIP: .*\(1024, 1024\); give --model"),
    ],
)
def test_the_model_of_unimed_is_known_by_the_widths_of_its_towers(tmp_path, local_hub, widths, message):
    words = "text_encoder.transformer.embeddings.word_embeddings.weight"
    state = {"visual.class_embedding": torch.zeros(widths[0]), words: torch.zeros(3, widths[1])}
    path = save_state(tmp_path / "unimed.pt", state)
    with pytest.raises((CheckpointError, ConfigError), match=message):  # its text tower is asked for: an empty hub
        import_checkpoint(Import(source=str(path), out=tmp_path / "out"))


def test_a_pinned_file_is_not_read_where_it_is_another(tmp_path, capsys):
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    path = save_state(tmp_path / "model.pt", plain(TINY).state_dict())
    right = file_sha256(path)
    arguments = ["--model", str(tmp_path / "tiny.json"), "--out", str(tmp_path / "out")]
    main(["import", f"{path}#sha256={right}", *arguments])
    main(["import", str(path), "--sha256", right, *arguments])
    card = (tmp_path / "out" / CARD_FILE).read_text()
    assert "- from: model.pt\n" in card
    assert str(tmp_path) not in card  # a path of this machine
    trace = tmp_path / "trace"
    save_state(path, {"state_dict": Command(trace)})
    for pinned in ([f"{path}#sha256={right}"], [str(path), "--sha256", right]):
        with pytest.raises(SystemExit, match="another than the one that was pinned; it was not read"):
            main(["import", *pinned, *arguments])
    with pytest.raises(SystemExit, match="64 lower-case hex"):
        main(["import", str(path), "--sha256", "abc", *arguments])


def test_a_pickle_of_openclips_trainer(tmp_path):
    """As BMC-CLIP's: a state dict of the older class under `state_dict`, with `module.` before each name."""
    source = plain(TINY)
    state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": state}, tmp_path / "epoch_3.pt")
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    wanted = Import(source=str(tmp_path / "epoch_3.pt"), out=tmp_path / "out", model=str(tmp_path / "tiny.json"))
    assert import_checkpoint(wanted).layout == "openclip"
    assert same(source, tmp_path / "out")
    assert parse_card((tmp_path / "out" / CARD_FILE).read_text()).metadata.get("license") is None


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_transformers_clip(tmp_path, safe, activation):
    import transformers

    from tests.zeroshot_eval import tiny_models

    folder = tiny_models.save_clip(tmp_path / "clip")
    source = transformers.CLIPModel.from_pretrained(folder).eval()
    for config in (source.config.vision_config, source.config.text_config):
        config.hidden_act = activation
    source = transformers.CLIPModel(source.config).eval()
    source.save_pretrained(folder)
    if not safe:
        state = source.state_dict() | {"text_model.embeddings.position_ids": torch.arange(24)[None]}
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
    import_checkpoint(Import(source=str(folder), out=tmp_path / "out"))
    loaded = load_checkpoint(tmp_path / "out", offline=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = torch.randn(2, 3, 32, 32)
    theirs = tokenizer(TEXTS, return_tensors="pt", padding="max_length", max_length=24)
    with torch.no_grad():
        expected = source(pixel_values=pixels, **theirs)
        images = torch.nn.functional.normalize(loaded.model.encode_image(pixels), dim=-1)
        texts = torch.nn.functional.normalize(loaded.model.encode_text(loaded.tokenizer(TEXTS)), dim=-1)
    torch.testing.assert_close(images, expected.image_embeds)
    torch.testing.assert_close(texts, expected.text_embeds)
    torch.testing.assert_close(loaded.model.logit_scale.detach(), source.logit_scale.detach())
    assert same(loaded.model, tmp_path / "out")


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_what_was_exported_comes_back_the_same(tmp_path, mode):
    """Weights, pixels and tokens: an export for transformers imported again."""
    settings = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "resize_mode": mode, "interpolation": "bilinear"}
    folder = checkpoint(tmp_path / "model", native(), **settings)
    main(["export", str(folder), "--format", "transformers", "--out", str(tmp_path / "exported")])
    import_checkpoint(Import(source=str(tmp_path / "exported"), out=tmp_path / "back"))
    before, back = clipmed.load(folder, device="cpu"), clipmed.load(tmp_path / "back", device="cpu")
    assert back.two_tower.pixels == before.two_tower.pixels
    image = scan(height=90, width=60)
    torch.testing.assert_close(back.embed_images([image]), before.embed_images([image]))
    torch.testing.assert_close(back.embed_texts(TEXTS), before.embed_texts(TEXTS))


class Command:
    """A pickle that runs a command when it is loaded in the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_malicious_pickle_is_refused_by_name_and_does_not_run(tmp_path, kind):
    trace, path = tmp_path / "trace", tmp_path / "model.pt"
    content = {"state_dict": {"visual.proj": torch.zeros(2)}, "optimizer": Command(trace)}
    if kind == "plain":
        path.write_bytes(pickle.dumps(content["optimizer"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match=r"(posix\.system, which is no tensor|without running code)"):
        import_checkpoint(Import(source=str(path), out=tmp_path / "out"))
    assert not trace.exists()
    assert not (tmp_path / "out").exists()
    torch.load(path, weights_only=False) if kind != "plain" else pickle.loads(path.read_bytes())
    assert trace.exists()  # the test's own pickle does what it is meant to


def save_state(path, state):
    torch.save(state, path)
    return path


TINY_STATE = {"visual.conv1.weight": torch.zeros(1), "token_embedding.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (torch.zeros(3), {}, "holds Tensor; allowed: a state dict"),
        ({}, {}, "holds dict; allowed: a state dict"),
        ({"epoch": 3, "weights": {}}, {}, r"2 entries are no tensors: \['epoch', 'weights'\]"),
        ({"a": torch.zeros(1)}, {}, "its 1 tensors are of none that is known: a"),
        (TINY_STATE, {"layout": "unimed"}, "are of the layout 'openclip'; asked for: unimed"),
        (TINY_STATE, {}, "model: the weights come without open_clip_config.json; give --model"),
        (TINY_STATE, {"model": "ViT-B-99"}, "no model config is called 'ViT-B-99'"),
        (TINY_STATE, {"model": "ViT-B-32"}, "does not load: .*another model"),
        (
            {"visual.proj": torch.zeros(1), "text_encoder.x": torch.zeros(1)},
            {},
            r"have the widths \(0, 0\)",
        ),
        ({"vision_model.x": torch.zeros(1), "text_model.y": torch.zeros(1)}, {}, "needs its config.json"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, content, changes, message):
    path = save_state(tmp_path / "w.pt", content)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        import_checkpoint(Import(source=str(path), out=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("ln_final.weight"), r"1 tensors are missing \['ln_final.weight'\]"),
        (lambda state: state.update(extra=torch.zeros(2)), r"1 are unexpected \['extra'\]"),
        (lambda state: state.update(text_projection=torch.zeros(16, 17)), "1 differ in shape"),
        (lambda state: state["text_projection"].fill_(float("nan")), "not finite"),
    ],
)
def test_tensors_that_are_missing_or_too_many_are_listed(tmp_path, change, message):
    state = plain(TINY).state_dict()
    change(state)
    path = save_state(tmp_path / "w.pt", state)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(Import(source=str(path), out=tmp_path / "out", model=str(tmp_path / "tiny.json")))


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04garbage", b"\x80\x02.", b"\x80\x04K\x01.", b"text"])
def test_files_that_are_no_weights_are_refused(tmp_path, raw):
    (tmp_path / "w.pt").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"w\.pt"):
        import_checkpoint(Import(source=str(tmp_path / "w.pt"), out=tmp_path / "out"))


def test_a_torchscript_archive_is_explained(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl", "version"):
            archive.writestr(f"w/{name}", b"")
    with pytest.raises(CheckpointError, match="a TorchScript archive"):
        import_checkpoint(Import(source=str(tmp_path / "w.pt"), out=tmp_path / "out"))


def test_sources_that_leave_a_choice_are_refused(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="its files of weights are none"):
        import_checkpoint(Import(source=str(folder), out=tmp_path / "out"))
    for name in ("a.pt", "b.pt"):
        save_state(folder / name, TINY_STATE)
    with pytest.raises(CheckpointError, match=r"its files of weights are a\.pt, b\.pt; give the one to convert"):
        import_checkpoint(Import(source=str(folder), out=tmp_path / "out"))
    with pytest.raises(CheckpointError, match=r"there is no .*absent"):
        import_checkpoint(Import(source=str(tmp_path / "absent.pt"), out=tmp_path / "out"))
    with pytest.raises(ConfigError, match="is there and no checkpoint"):
        import_checkpoint(Import(source=str(folder / "a.pt"), out=folder))


def test_a_text_tower_without_its_files_asks_for_them(tmp_path, bert):
    source = built(bert_config(bert), tmp_path)
    path = save_state(tmp_path / "w.pt", source.model.state_dict())
    config = bert_config(Path(), hf_tokenizer_name=".")
    (tmp_path / "model.json").write_text(json.dumps(config))
    wanted = {"source": str(path), "out": tmp_path / "out", "model": str(tmp_path / "model.json")}
    with pytest.raises(ConfigError, match=r"tokenizer: .* give --tokenizer with a folder"):
        import_checkpoint(Import(**wanted))
    import_checkpoint(Import(**wanted, tokenizer=str(bert)))
    assert same(source.model, tmp_path / "out")


def test_command(tmp_path, capsys):
    original = save_tiny(tmp_path / "original")
    state = load_checkpoint(original).model.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    (tmp_path / "tiny.json").write_text(json.dumps(TINY | {"custom_text": True}))
    arguments = ["import", str(tmp_path / "w.safetensors"), "--model", str(tmp_path / "tiny.json"), "--license", "mit"]
    main([*arguments, "--out", str(tmp_path / "out"), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["sha256"] == file_sha256(tmp_path / "w.safetensors")
    assert facts["tensors"] == len(state)
    card = (tmp_path / "out" / CARD_FILE).read_text()
    assert "license: mit" in card
    assert "clipmed import" in card
    with pytest.raises(SystemExit, match="clipmed: there is no"):
        main(["import", "absent", "--out", str(tmp_path / "other")])
