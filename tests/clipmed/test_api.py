"""Checkpoints and zero-shot use: saved, loaded by us and by plain OpenCLIP, errors that say what is wrong."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import clipmed
from clipmed.__main__ import main
from clipmed.checkpoints import checkpoint_digest, load_checkpoint, save_checkpoint
from clipmed.errors import CheckpointError, ClipmedError, ConfigError
from clipmed.towers import ModelConfig, build_two_tower
from clipmed.zeroshot import class_embeddings, embed_texts

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    torch.manual_seed(0)
    save_checkpoint(folder / "model", build_two_tower(ModelConfig(config=str(folder / "tiny.json"))), "# A card\n")
    return folder / "model"


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)


def test_plain_open_clip_loads_the_folder_and_embeds_the_same(checkpoint, image):
    ours = clipmed.load(checkpoint)
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{checkpoint}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{checkpoint}")
    with torch.no_grad():
        image_embedding = theirs.encode_image(preprocess(Image.fromarray(image))[None], normalize=True)
        text_embedding = theirs.encode_text(tokenizer(["a lung"]), normalize=True)
    torch.testing.assert_close(ours.embed_images(image), image_embedding)
    torch.testing.assert_close(ours.embed_texts("a lung"), text_embedding)


def test_images_may_be_paths_bytes_arrays_or_pil(checkpoint, image, tmp_path):
    model = clipmed.load(checkpoint)
    Image.fromarray(image).save(tmp_path / "a.png")
    kinds = [
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        (tmp_path / "a.png").read_bytes(),
        Image.fromarray(image),
        image,
    ]
    embeddings = model.embed_images(kinds)
    assert embeddings.shape == (5, 16)
    torch.testing.assert_close(embeddings, embeddings[:1].expand(5, -1))
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(5))


def test_classify_gives_probabilities_of_scaled_cosines(checkpoint, image):
    model = clipmed.load(checkpoint)
    (result,) = model.classify(image, {"a": ["one"], "b": ["two", "three"]})
    texts = embed_texts(model.two_tower, ["one", "two", "three"])
    second = torch.nn.functional.normalize(texts[1:].mean(dim=0), dim=0)
    logits = model.embed_images(image) @ torch.stack([texts[0], second]).T * model.two_tower.model.logit_scale.exp()
    expected = logits.softmax(dim=-1)[0].tolist()
    assert list(result.probabilities.values()) == pytest.approx(expected, abs=1e-6)
    assert result.label == ("a" if expected[0] >= expected[1] else "b")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["only one"], "two or more different labels: got 1"),
        (["x", "x"], "got 'x' twice"),
        ("lung", "labels must be a list"),
        ({"a": ["p"], "b": []}, "prompts that are not empty: got an empty list for .b."),
    ],
)
def test_wrong_labels_are_refused(checkpoint, image, labels, message):
    with pytest.raises(ClipmedError, match=message):
        clipmed.load(checkpoint).classify(image, labels)


@pytest.mark.parametrize("bad", [b"", b"garbage", "no-such-file.png"])
def test_wrong_images_are_refused(checkpoint, bad):
    with pytest.raises(ClipmedError, match="cannot read image"):
        clipmed.load(checkpoint).classify(bad, ["a", "b"])


def test_wrong_checkpoints_are_refused(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"no open_clip_config\.json"):
        clipmed.load(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "open_clip_config.json").write_bytes((checkpoint / "open_clip_config.json").read_bytes())
    (copy / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        clipmed.load(copy)
    weights = load_file(checkpoint / "open_clip_model.safetensors")
    first = next(iter(weights))
    save_file({name: tensor for name, tensor in weights.items() if name != first}, copy / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match="1 tensors are missing"):
        clipmed.load(copy)
    (copy / "open_clip_model.safetensors").write_bytes((checkpoint / "open_clip_model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is damaged"):
        clipmed.load(copy)


def test_unknown_models_name_the_nearest():
    with pytest.raises(ConfigError, match=r"'ViT-B-33'; did you mean 'ViT-B-32'\?"):
        build_two_tower(ModelConfig(config="ViT-B-33"))
    with pytest.raises(ConfigError, match=r"no pretrained weights 'opena'; did you mean 'openai'\?"):
        build_two_tower(ModelConfig(config="ViT-B-32", pretrained="opena"))


def test_a_model_name_without_a_tag_lists_the_tags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"'vit-b-32' is an OpenCLIP model .*as in ViT-B-32:openai; its tags: openai, "
    ):
        clipmed.load("vit-b-32", "cpu")
    with pytest.raises(CheckpointError, match="nowhere is not a checkpoint"):
        clipmed.load("nowhere", "cpu")


def test_training_can_start_from_a_checkpoint_folder(checkpoint):
    config = ModelConfig(config=str(checkpoint / "open_clip_config.json"), pretrained=str(checkpoint))
    ours, saved = build_two_tower(config).model.state_dict(), load_checkpoint(checkpoint).model.state_dict()
    assert all(torch.equal(ours[name], saved[name]) for name in saved)


def test_a_hugging_face_text_tower_travels_with_its_tokenizer(tmp_path):
    from transformers import BertConfig, BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lung", "mass"]
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(bert / "vocab.txt")).save_pretrained(bert)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertConfig(vocab_size=len(vocabulary), **sizes).save_pretrained(bert)
    text_cfg = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert), "hf_proj_type": "mlp", "context_length": 8}
    config = {**TINY, "text_cfg": text_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    built = build_two_tower(ModelConfig(config=str(tmp_path / "config.json")))
    built.model.eval()
    expected = embed_texts(built, ["lung mass"])
    save_checkpoint(tmp_path / "model", built, "card")
    assert str(tmp_path) not in (tmp_path / "model" / "open_clip_config.json").read_text()
    moved = (tmp_path / "model").rename(tmp_path / "moved")
    torch.testing.assert_close(clipmed.load(moved).embed_texts("lung mass"), expected)


def test_a_digest_changes_with_the_weights(checkpoint, tmp_path):
    two_tower = load_checkpoint(checkpoint)
    with torch.no_grad():
        two_tower.model.logit_scale += 1e-3
    save_checkpoint(tmp_path / "other", two_tower, "card")
    assert checkpoint_digest(checkpoint) != checkpoint_digest(tmp_path / "other")


def test_class_embeddings_have_one_unit_row_a_class(checkpoint):
    rows = class_embeddings(load_checkpoint(checkpoint), {"a": ["x"], "b": ["y", "z"], "c": ["w"]})
    assert rows.shape == (3, 16)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(3))


def test_command_line(checkpoint, image, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(image + np.uint8(number)).save(folder / f"{number}.png")
    main(["classify", str(folder), "--labels", "a lung", "a skull", "--checkpoint", str(checkpoint), "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [str(folder / "0.png"), str(folder / "1.png")]
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)
    main(["embed", str(folder), "--out", str(tmp_path / "e.npz"), "--checkpoint", str(checkpoint)])
    with np.load(tmp_path / "e.npz") as saved:
        assert saved["embeddings"].shape == (2, 16)
    main(["info", str(checkpoint)])
    assert "image size  32" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"clipmed: no image at absent\.png"):
        main(["classify", "absent.png", "--labels", "a", "b", "--checkpoint", str(checkpoint)])
