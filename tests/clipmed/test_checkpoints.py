"""Checkpoints: loaded exactly and lean, refused where anything is not what it was saved as."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipmed.checkpoint_files import CONFIG_FILE, SUMS_FILE, WEIGHTS_FILE, read_sums, write_sums
from clipmed.checkpoints import load_checkpoint
from clipmed.errors import CheckpointError
from clipmed.files import sha256_file
from clipmed.loading import without_values
from clipmed.towers import ModelConfig, build_two_tower
from tests.clipmed.tiny import TINY, save_tiny
from tests.clipmed.tiny_text_tower import bert_config, save_bert

RESNET = {**TINY, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
TIMM = {**TINY, "vision_cfg": {"timm_model_name": "resnet18", "timm_pool": "avg", "image_size": 64}}
SIGLIP = {
    "embed_dim": 192,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "avg",
        "timm_proj": "none",
    },
    "text_cfg": {**TINY["text_cfg"], "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def original_bert(tmp_path_factory):
    root = tmp_path_factory.mktemp("bert")
    return save_tiny(root / "model", config=bert_config(save_bert(root / "bert")))


@pytest.fixture
def checkpoint(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy"))


@pytest.fixture
def bert_checkpoint(original_bert, tmp_path):
    return Path(shutil.copytree(original_bert, tmp_path / "copy"))


def edit(folder, file=CONFIG_FILE, sums=True, **changes):
    """Change values of a JSON file by their dotted names, and let SHA256SUMS agree."""
    config = json.loads((folder / file).read_text())
    for dotted, value in changes.items():
        *parts, last = dotted.split("__")
        place = config
        for part in parts:
            place = place[part]
        place[last] = value
    (folder / file).write_text(json.dumps(config))
    if sums:
        write_sums(folder)


@pytest.mark.parametrize(
    "config", [TINY, RESNET, TIMM, SIGLIP, "bert"], ids=["vit", "resnet", "timm", "siglip", "bert"]
)
def test_a_model_built_without_values_is_the_one_that_was_saved(config, tmp_path):
    if config == "bert":
        config = bert_config(save_bert(tmp_path / "bert"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    built = build_two_tower(ModelConfig(config=str(tmp_path / "config.json")))
    from clipmed.checkpoints import save_checkpoint

    save_checkpoint(tmp_path / "model", built, "card")
    loaded = load_checkpoint(tmp_path / "model")
    mine, theirs = built.model.eval(), loaded.model
    for kind in ("named_parameters", "named_buffers"):
        expected, got = dict(getattr(mine, kind)()), dict(getattr(theirs, kind)())
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], tensor) for name, tensor in got.items())
        assert all(expected[name].requires_grad == tensor.requires_grad for name, tensor in got.items())
    pixels = torch.randn(2, 3, *loaded.pixels.size)
    tokens = loaded.tokenizer(["a lung", "the mass of a slide"])
    with torch.no_grad():
        assert torch.equal(mine.encode_image(pixels), theirs.encode_image(pixels))
        assert torch.equal(mine.encode_text(tokens), theirs.encode_text(tokens))


def test_other_threads_keep_their_values():
    import threading

    made = []
    with without_values():
        thread = threading.Thread(target=lambda: made.append(torch.nn.Linear(2, 2)))
        thread.start()
        thread.join()
        assert torch.nn.Linear(2, 2).weight.is_meta
    assert not made[0].weight.is_meta
    assert not torch.nn.Linear(2, 2).weight.is_meta


def test_half_precision_weights_become_the_models_type(checkpoint):
    expected = load_checkpoint(checkpoint).model.state_dict()
    halves = {name: tensor.half() for name, tensor in load_file(checkpoint / WEIGHTS_FILE).items()}
    save_file(halves, checkpoint / WEIGHTS_FILE)
    write_sums(checkpoint)
    got = load_checkpoint(checkpoint).model.state_dict()
    assert all(torch.equal(tensor, expected[name].half().float()) for name, tensor in got.items())


def test_weights_are_not_windows_into_the_file(checkpoint):
    model = load_checkpoint(checkpoint).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = checkpoint / WEIGHTS_FILE
    with path.open("r+b") as stream:  # in place, as `cp` onto it does
        stream.write(b"\0" * path.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_sums_are_those_of_sha256sum(bert_checkpoint):
    sums = read_sums(bert_checkpoint)
    assert {CONFIG_FILE, WEIGHTS_FILE, "config.json", "tokenizer.json", "tokenizer_config.json"} <= sums.keys()
    assert not {"README.md", SUMS_FILE} & sums.keys()
    assert all(sha256_file(bert_checkpoint / name) == sha256 for name, sha256 in sums.items())
    if shutil.which("sha256sum"):
        done = subprocess.run(
            ["sha256sum", "--strict", "-c", SUMS_FILE], cwd=bert_checkpoint, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_folders_without_sums_load(checkpoint):
    (checkpoint / SUMS_FILE).unlink()
    load_checkpoint(checkpoint)


def swap_bytes(folder):
    """Other numbers of the same shape."""
    weights = load_file(folder / WEIGHTS_FILE)
    save_file(
        {name: tensor.flip(0) if tensor.ndim else tensor for name, tensor in weights.items()}, folder / WEIGHTS_FILE
    )


def cut(folder):
    data = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(data[:-1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            swap_bytes,
            rf"{WEIGHTS_FILE} is not the file that it should be: sha256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}; fetch",
        ),
        (cut, f"{WEIGHTS_FILE} is not the file"),
        (lambda folder: edit(folder, sums=False, model_cfg__quick_gelu=True), f"{CONFIG_FILE} is not the file"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "SHA256SUMS does not list tokenizer.json"),
        (lambda folder: (folder / SUMS_FILE).write_text(""), f"does not list {CONFIG_FILE}, {WEIGHTS_FILE}"),
        (
            lambda folder: (folder / SUMS_FILE).write_text(f"{'0' * 64}  ../x\n"),
            "line 1: got .*; allowed: 64 hex digits",
        ),
        (lambda folder: (folder / SUMS_FILE).write_bytes(b"\xff\xfe"), "is not readable"),
        (lambda folder: (folder / SUMS_FILE).write_bytes(b"x" * 2_000_000), "more than 1048576 bytes"),
        (
            lambda folder: (folder / SUMS_FILE).write_text(
                (folder / SUMS_FILE).read_text() + f"{'0' * 64}  vocab.txt\n"
            ),
            "vocab.txt is not readable",
        ),
    ],
)
def test_a_folder_that_is_not_what_was_saved_is_refused(checkpoint, spoil, message):
    spoil(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint)


HUGE = 10**12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_cfg__embed_dim": "abc"}, r"model_cfg.embed_dim is 'abc'; allowed: a whole number"),
        ({"model_cfg__embed_dim": -16}, "embed_dim is -16"),
        ({"model_cfg__embed_dim": 0}, "embed_dim is 0; allowed: numbers above 0"),
        ({"model_cfg__embed_dim": 17}, "does not match its config: .* differ in shape"),
        ({"model_cfg__embed_dim": HUGE}, "its output has 1000000000000 numbers"),
        ({"model_cfg__vision_cfg__width": 10**6}, "image tower's layer has 1000000000000 numbers"),
        ({"model_cfg__vision_cfg__width": None}, r"vision_cfg.width is None"),
        ({"model_cfg__vision_cfg__layers": 10**9}, "1000000000 layers, and .* tensors"),
        ({"model_cfg__vision_cfg__layers": True}, "layers is True"),
        ({"model_cfg__vision_cfg__patch_size": 0}, "patch_size is 0"),
        ({"model_cfg__vision_cfg__image_size": 10**6}, "of another model"),
        ({"model_cfg__vision_cfg__image_size": [32, 64]}, "differ in shape"),
        ({"model_cfg__vision_cfg__mlp_ratio": float("inf")}, "mlp_ratio is inf; allowed: a number"),
        ({"model_cfg__vision_cfg__head_width": 10}, "no model can be built from it"),
        ({"model_cfg__vision_cfg__pool_type": "none"}, "pool_type is 'none'; allowed: tok, avg"),
        ({"model_cfg__vision_cfg__act_kwargs": {"inplace": 1}}, r"act_kwargs.inplace is 1; allowed here: approximate"),
        ({"model_cfg__vision_cfg__timm_model_name": "hf-hub:org/name"}, "allowed: the name of a timm model"),
        ({"model_cfg__vision_cfg__timm_model_name": "no_such_model"}, "no model can be built .*Unknown model"),
        ({"model_cfg__text_cfg__context_length": 10**7}, "table of positions has"),
        ({"model_cfg__text_cfg__vocab_size": HUGE}, "its vocabulary has"),
        (
            {"model_cfg__text_cfg__tokenizer_kwargs": {"trust_remote_code": True}},
            "tokenizer_kwargs.trust_remote_code is True",
        ),
        ({"model_cfg__text_cfg__tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, "tokenizer_kwargs.bpe_path is"),
        ({"model_cfg__text_cfg__hf_model_name": "../../x"}, r"hf_model_name is '../../x'; allowed: '.'"),
        ({"model_cfg__text_cfg__hf_tokenizer_name": "/etc"}, "hf_tokenizer_name is '/etc'"),
        ({"model_cfg__text_cfg__hf_tokenizer_name": "."}, "lacks tokenizer.json of its text tower"),
        (
            {"model_cfg__text_cfg__hf_model_name": "org/absent"},
            "hf-hub:org/absent is not in the cache .*offline mode is on",
        ),
        ({"model_cfg__colour": "red"}, "model_cfg.colour is not a setting of OpenCLIP"),
        (
            {"model_cfg__vision_cfg__witdh": 32},
            r"vision_cfg.witdh is not a setting of OpenCLIP; did you mean 'width'\?",
        ),
        ({"model_cfg__multimodal_cfg": {}}, "multimodal_cfg is not a setting"),
        ({"model_cfg__vision_cfg": []}, "model_cfg lacks 'vision_cfg'"),
        ({"model_cfg": None}, "lacks 'model_cfg'"),
        ({"preprocess_cfg": 3}, "preprocess_cfg is 3"),
        ({"preprocess_cfg__mean": ["a", "b", "c"]}, "mean"),
        ({"preprocess_cfg__std": [0, 1, 1]}, "std"),
        ({"preprocess_cfg__interpolation": "nearest"}, "interpolation 'nearest'"),
    ],
)
def test_configs_that_are_not_sound_are_refused(checkpoint, changes, message, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    edit(checkpoint, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"model_cfg": ' + "9" * 5000 + "}", "\ud800"])
def test_a_config_that_is_no_config_is_refused(checkpoint, text):
    (checkpoint / CONFIG_FILE).write_bytes(text.encode(errors="surrogatepass"))
    write_sums(checkpoint)
    with pytest.raises(CheckpointError, match=CONFIG_FILE):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "gpt2"}, "model_type is 'gpt2'; allowed: roberta"),
        ("config.json", {"hidden_size": 10**9}, "numbers in all"),
        ("config.json", {"hidden_size": "abc"}, "no model can be built from it"),
        ("config.json", {"num_hidden_layers": 10**6}, "tensors in all"),
        ("config.json", {"vocab_size": 3}, "differ in shape|its tokenizer has"),
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "'auto_map', which names code"),
        ("config.json", {"attn_implementation": "org/kernel"}, "'attn_implementation', which names code"),
        ("config.json", {"max_position_embeddings": 8}, "max_position_embeddings is 8, less than context_length 16"),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}},
            "'auto_map', which names code",
        ),
    ],
)
def test_text_towers_that_are_not_sound_are_refused(bert_checkpoint, file, changes, message):
    edit(bert_checkpoint, file, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(bert_checkpoint)


def test_a_tokenizer_of_another_model_is_refused(bert_checkpoint):
    tokenizer = json.loads((bert_checkpoint / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"word{number}": 100 + number for number in range(50)}
    (bert_checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_sums(bert_checkpoint)
    with pytest.raises(CheckpointError, match="its tokenizer has 61 tokens, and its text tower knows 11"):
        load_checkpoint(bert_checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(checkpoint, value):
    weights = load_file(checkpoint / WEIGHTS_FILE)
    weights["text.positional_embedding"][3, 3] = value
    save_file(weights, checkpoint / WEIGHTS_FILE)
    write_sums(checkpoint)
    with pytest.raises(CheckpointError, match=r"text.positional_embedding holds numbers that are not finite"):
        load_checkpoint(checkpoint)


def test_integers_in_place_of_numbers_are_refused(checkpoint):
    weights = load_file(checkpoint / WEIGHTS_FILE)
    weights["text.positional_embedding"] = weights["text.positional_embedding"].int()
    save_file(weights, checkpoint / WEIGHTS_FILE)
    write_sums(checkpoint)
    with pytest.raises(CheckpointError, match=r"text\.positional_embedding is I32"):
        load_checkpoint(checkpoint)


def test_a_pickle_names_the_command_that_converts_it(checkpoint):
    (checkpoint / WEIGHTS_FILE).rename(checkpoint / "epoch_3.pt")
    (checkpoint / SUMS_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"clipmed import .* makes safetensors of its epoch_3.pt"):
        load_checkpoint(checkpoint)


def test_position_ids_of_older_libraries_are_checked_and_dropped(bert_checkpoint):
    weights = load_file(bert_checkpoint / WEIGHTS_FILE)
    weights["text.transformer.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(weights, bert_checkpoint / WEIGHTS_FILE)
    write_sums(bert_checkpoint)
    load_checkpoint(bert_checkpoint)
    save_file(
        weights | {"text.transformer.embeddings.position_ids": torch.zeros(1, 24).long()},
        bert_checkpoint / WEIGHTS_FILE,
    )
    write_sums(bert_checkpoint)
    with pytest.raises(CheckpointError, match="does not count positions"):
        load_checkpoint(bert_checkpoint)


def test_a_text_tower_that_is_only_named_is_fetched_from_the_hub_and_then_cached(local_hub, original_bert, tmp_path):
    bert = save_bert(tmp_path / "bert")
    local_hub.add("org/bert", bert)
    folder = tmp_path / "named"
    folder.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copy(original_bert / name, folder)
    names = {"model_cfg__text_cfg__hf_model_name": "org/bert", "model_cfg__text_cfg__hf_tokenizer_name": "org/bert"}
    edit(folder, **names)
    expected, loaded = load_checkpoint(original_bert), load_checkpoint(folder)
    tokens = loaded.tokenizer(["a lung"])
    assert torch.equal(tokens, expected.tokenizer(["a lung"]))
    assert torch.equal(loaded.model.encode_text(tokens), expected.model.encode_text(tokens))
    assert loaded.model_cfg["text_cfg"]["hf_model_name"] == "org/bert"
    seen = len(local_hub.seen)
    load_checkpoint(folder, offline=True)
    assert len(local_hub.seen) == seen


PEAK = """
import sys
from pathlib import Path
from clipmed.checkpoints import load_checkpoint
def peak_bytes():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["VmHWM"].split()[0])
load_checkpoint(sys.argv[1])
before = peak_bytes()
load_checkpoint(sys.argv[2])
print(peak_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_loading_holds_the_model_once_and_the_file(checkpoint, tmp_path):
    wide = {**TINY, "text_cfg": {**TINY["text_cfg"], "width": 512, "heads": 8}}
    large = save_tiny(tmp_path / "large", config=wide)
    size = (large / WEIGHTS_FILE).stat().st_size
    done = subprocess.run([sys.executable, "-c", PEAK, checkpoint, large], check=True, capture_output=True, text=True)
    assert size > 100_000_000
    assert int(done.stdout) < 2.3 * size  # mapped pages of the file are counted, too


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "vit_b16_bert.json"},
        {"config": "ViT-B-32", "pretrained": "openai"},
        {"config": "timm.json", "pretrained_image": True},
    ],
)
def test_what_a_config_names_and_no_network_brings_is_explained(changes, tmp_path, local_hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    text = {**TINY["text_cfg"], "hf_model_name": "org/none", "hf_tokenizer_name": "org/none"}
    Path("vit_b16_bert.json").write_text(json.dumps({**TINY, "text_cfg": text}))
    Path("timm.json").write_text(json.dumps(TIMM))
    with pytest.raises(CheckpointError, match=r"cannot be fetched .* run the same once on a machine that has one"):
        build_two_tower(ModelConfig(**changes))
