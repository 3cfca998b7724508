"""Checkpoints sent to a hub: one commit, checked, repeated for nothing, refused where a stranger would be misled."""

import json
import logging
import shutil
from pathlib import Path

import pytest

import clipmed
from clipmed.__main__ import main
from clipmed.checkpoint_files import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    SUMS_FILE,
    WEIGHTS_FILE,
    check_sums,
    checkpoint_digest,
)
from clipmed.errors import CheckpointError, ConfigError
from clipmed.hub import resolve
from clipmed.hub.publishing import Push, push
from tests.clipmed.test_cards import row, scores
from tests.clipmed.tiny import FULL_CARD, save_tiny
from tests.clipmed.tiny_text_tower import bert_config, save_bert

NAME = "org/new"
# huggingface_hub 2.4 hands files to its HTTP client in a way that the client is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("push") / "model", card=FULL_CARD)


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    return Path(shutil.copytree(original, tmp_path / "model"))


def calibration(digest):
    names = ("logit_scale", "temperature", "ece_before", "ece_after", "nll_before", "nll_after", "nll_gain_error")
    numbers = dict.fromkeys(names, 0.5) | {"schema": 2, "num_images": 20}
    return {**numbers, "labels": ["a", "b"], "prompts": "0" * 64, "checkpoint": digest, "at_bound": False}


def wanted(folder, **changes):
    return Push(**({"folder": folder, "repository": NAME, "license": "mit"} | changes))


def test_a_pushed_checkpoint_is_the_one_that_is_pulled(local_hub, folder):
    done = push(wanted(folder, private=True))
    repository = local_hub.repositories[NAME]
    assert repository.branches["main"] == done.commit
    assert len(repository.commits) == 2  # its making, and ours
    assert repository.token == "hf_writer"  # private
    assert {WEIGHTS_FILE, SUMS_FILE, CARD_FILE} < set(done.sent)
    found = resolve(f"hf-hub:{NAME}@{done.commit}")
    assert checkpoint_digest(found.folder) == checkpoint_digest(folder)
    card = (found.folder / CARD_FILE).read_text()
    assert f'clipmed.load("hf-hub:{NAME}")' in card
    assert "license: mit" in card
    assert clipmed.load(f"hf-hub:{NAME}", device="cpu").digest == checkpoint_digest(folder)


def test_a_text_tower_is_called_as_its_repository_and_its_calibration_holds(local_hub, folder, tmp_path):
    made = save_tiny(tmp_path / "made", config=bert_config(save_bert(tmp_path / "bert")), card=FULL_CARD)
    digest = checkpoint_digest(made)
    (made / CALIBRATION_FILE).write_text(json.dumps(calibration(digest)))
    assert CONFIG_FILE in push(wanted(made)).sent
    assert push(wanted(made)).sent == ()
    pulled = resolve(f"hf-hub:{NAME}").folder
    text = json.loads((pulled / CONFIG_FILE).read_text())["model_cfg"]["text_cfg"]
    assert text["hf_model_name"] == text["hf_tokenizer_name"] == NAME
    assert check_sums(pulled)
    loaded = clipmed.load(f"hf-hub:{NAME}", device="cpu", offline=True)
    assert loaded.digest == digest
    assert loaded.calibration.checkpoint == digest
    push(wanted(pulled, repository="org/copy"))
    assert checkpoint_digest(resolve("hf-hub:org/copy").folder) == digest
    (pulled / CONFIG_FILE).resolve().write_text((pulled / CONFIG_FILE).read_text().replace("mlp", "linear"))
    assert checkpoint_digest(pulled) != digest


@pytest.mark.parametrize("kind", ["hub", "web folder"])
def test_a_text_tower_that_is_only_named_is_fetched_too(local_hub, tmp_path, kind):
    bert = save_bert(tmp_path / "bert")
    local_hub.add("org/bert", bert)
    made = save_tiny(tmp_path / "made", config=bert_config(bert))
    config = json.loads((made / CONFIG_FILE).read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": "org/bert", "hf_tokenizer_name": "org/bert"}
    local_hub.commit("org/named", {CONFIG_FILE: json.dumps(config).encode(), WEIGHTS_FILE: made / WEIGHTS_FILE})
    location = "hf-hub:org/named" if kind == "hub" else f"{local_hub.url}/files/org/named"
    main(["pull", location])
    seen = len(local_hub.seen)
    assert clipmed.load(location, device="cpu", offline=True).embed_texts(["a lung"]).shape == (1, 16)
    assert len(local_hub.seen) == seen


def test_a_second_push_sends_nothing(local_hub, folder, caplog):
    first = push(wanted(folder))
    with caplog.at_level(logging.WARNING):
        second = push(wanted(folder))
    assert second.commit == first.commit
    assert second.sent == ()
    assert not caplog.text
    (folder / CARD_FILE).write_text(FULL_CARD + "\nMore.\n")
    third = push(wanted(folder))
    assert third.sent == (CARD_FILE,)
    assert third.commit != first.commit
    assert len([seen for seen in local_hub.seen if seen.method == "PUT"]) == 1


def test_branches_and_tags(local_hub, folder):
    push(wanted(folder))
    (folder / CARD_FILE).write_text(FULL_CARD + "\nMore.\n")
    done = push(wanted(folder, branch="next", tag="v2"))
    repository = local_hub.repositories[NAME]
    assert repository.branches["next"] == repository.tags["v2"] == done.commit != repository.branches["main"]
    assert push(wanted(folder, branch="next", tag="v2")).commit == done.commit
    (folder / CARD_FILE).write_text(FULL_CARD + "\nEven more.\n")
    num_commits = len(repository.commits)
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match=r"tag: 'v2' names the commit .* already"):
            push(wanted(folder, branch="next", tag="v2"), dry_run=dry_run)
    with pytest.raises(ConfigError, match=r"tag: 'v2' names"):
        push(wanted(folder, branch="third", tag="v2"))
    assert len(repository.commits) == num_commits  # it is said before anything is sent
    assert "third" not in repository.branches


def test_a_new_branch_does_not_keep_what_does_not_belong(local_hub, folder, tmp_path):
    """The hub makes branches from the main one: here with a text tower's files, which would be read."""
    other = save_tiny(tmp_path / "other", config=bert_config(save_bert(tmp_path / "bert")), card=FULL_CARD)
    push(wanted(other))
    assert push(wanted(folder, branch="next"), dry_run=True).removed == push(wanted(folder, branch="next")).removed
    assert not (local_hub.files_of(NAME, "next") & {"config.json", "tokenizer_config.json"})
    assert {"config.json", "tokenizer_config.json"} <= local_hub.files_of(NAME, "main")
    assert clipmed.load(f"hf-hub:{NAME}@next", device="cpu").digest == checkpoint_digest(folder)


def test_files_that_are_gone_are_removed_and_pickles_never_sent(local_hub, folder):
    (folder / CALIBRATION_FILE).write_text(json.dumps(calibration(checkpoint_digest(folder))))
    (folder / "optimizer.pt").write_bytes(b"pickle")
    done = push(wanted(folder))
    assert CALIBRATION_FILE in done.sent
    assert done.left_out == ("optimizer.pt",)
    (folder / CALIBRATION_FILE).unlink()
    assert push(wanted(folder)).removed == (CALIBRATION_FILE,)
    repository = local_hub.repositories[NAME]
    assert CALIBRATION_FILE not in repository.commits[repository.branches["main"]]


def test_a_dry_run_sends_nothing(local_hub, folder):
    done = push(wanted(folder), dry_run=True)
    assert done.commit is None
    assert WEIGHTS_FILE in done.sent
    assert NAME not in local_hub.repositories
    assert {seen.method for seen in local_hub.seen} == {"GET"}


def test_scores_fill_the_card(local_hub, folder, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(scores(row(checkpoint_digest=checkpoint_digest(folder)))))
    done = push(wanted(folder, scores=(path,)))
    assert "| core | pneumonia | balanced_accuracy | 0.750 |" in done.card
    assert "model-index:" in done.card


@pytest.mark.parametrize(
    ("card", "changes", "message"),
    [
        ("# Bare\n", {}, "(?s)lacks what a stranger must know:.* Data: a section .* Limits of use: "),
        (FULL_CARD, {"license": None}, "license: --license NAME"),
        (FULL_CARD.replace("None is worth a number.", "Not scored yet."), {}, "Scores: --scores FOLDER/scores.json"),
        (FULL_CARD, {"license": "mine"}, "license: got 'mine'"),
        (FULL_CARD, {"repository": "org"}, "allowed: org/name"),
    ],
)
def test_cards_that_leave_a_stranger_in_the_dark_are_refused(local_hub, folder, card, changes, message):
    (folder / CARD_FILE).write_text(card)
    with pytest.raises(ConfigError, match=message):
        push(wanted(folder, **changes))
    assert not local_hub.seen


def test_no_scores_may_be_said(local_hub, folder):
    (folder / CARD_FILE).write_text(FULL_CARD.replace("None is worth a number.", "Not scored yet."))
    assert push(wanted(folder, no_scores=True)).commit


def test_a_folder_that_does_not_load_is_refused(local_hub, folder):
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="is not the file that it should be"):
        push(wanted(folder))


def test_a_calibration_of_other_weights_is_refused(local_hub, folder):
    (folder / CALIBRATION_FILE).write_text(json.dumps(calibration("0" * 64)))
    with pytest.raises(CheckpointError, match=r"was fitted on other weights .*clipmed calibrate"):
        push(wanted(folder))


def test_no_permission_is_said_without_the_token(local_hub, folder):
    local_hub.fail("/api/repos/create", method="POST", status=403, times=9)
    with pytest.raises(CheckpointError, match=r"cannot push to org/new: .*right to write there") as caught:
        push(wanted(folder))
    assert "hf_writer" not in str(caught.value)


def test_bytes_that_arrive_otherwise_are_found_out(local_hub, folder):
    repository_commit = type(local_hub).blob

    def losing(server, name, content):
        return repository_commit(server, name, b"lost" if name == "open_clip_config.json" else content)

    local_hub.blob = losing.__get__(local_hub)
    with pytest.raises(CheckpointError, match=r"the hub has other bytes of open_clip_config\.json"):
        push(wanted(folder))


def test_commands(local_hub, folder, tmp_path, capsys):
    main(["push", str(folder), NAME, "--license", "mit", "--dry-run"])
    assert "to send" in capsys.readouterr().out
    main(["push", str(folder), NAME, "--license", "mit", "--tag", "v1", "--json"])
    commit = json.loads(capsys.readouterr().out)["commit"]
    main(["pull", f"hf-hub:{NAME}@v1", "--out", str(tmp_path / "copy"), "--json"])
    pulled = json.loads(capsys.readouterr().out)
    assert pulled["commit"] == commit
    assert pulled["to use it"] == f'clipmed.load("hf-hub:{NAME}@{commit}", sha256="{pulled["sha256"]}")'
    assert not (tmp_path / "copy" / WEIGHTS_FILE).is_symlink()
    clipmed.load(tmp_path / "copy", device="cpu")
    with pytest.raises(SystemExit, match="is there and no checkpoint"):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").write_text("x")
        main(["pull", f"hf-hub:{NAME}", "--out", str(tmp_path / "full")])
    main(["info", f"hf-hub:{NAME}", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["commit"] == commit
    assert facts["digest"] == checkpoint_digest(folder)
    assert facts["licence"] == "mit"
    assert facts["data"] == "Noise."
    assert facts["parameters"] == facts["image tower"] + facts["text tower"] + 1
    main(["info", str(folder)])
    assert "image size  32, 32" in capsys.readouterr().out
