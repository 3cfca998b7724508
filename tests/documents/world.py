"""The world that the documents speak of, small: what `make demo` leaves, data of all kinds, servers on loopback."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shlex
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from dataset_builders.datasets import load_entry
from tests.dataset_builders.bucket_server import bucket_server
from tests.dataset_builders.llm_server import Answer, Body, llm_server
from tests.dataset_builders.test_catalogue_fixtures import FIXTURES, WRITERS
from tests.documents.programs import programs
from tests.hub_server import serve as hub_server

REPOSITORY = Path(__file__).parents[2]
BUILT = """
python -m dataset_builders phantoms --out build/demo/archives
python -m dataset_builders build phantoms --root build/demo/archives --out build/demo/spools
python -m shards pack build/demo/spools/* --out build/demo/set
python -m shards browse build/demo/set --out build/demo/set.html
python -m train demo --data.sets build/demo/set --out build/demo/run
python -m zeroshot_eval score build/demo/run/model --suite phantoms --sets build/demo/set --out build/demo/scores
python -m dataset_builders build real_small --root real --out build/real/spools
python -m shards pack build/real/spools/* --out build/real/set --license-groups commercial noncommercial other \
  --val-fraction 0.1 --test-fraction 0.25
"""
IMAGES_PER_CLASS = 4
NUM_ARTICLES = 9  # the tenth and later ones of the stand-in are served with errors: asking again takes seconds
MEDPIX = ("plane", "technique", "location", "location_category", "diagnosis")
BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


@dataclass(frozen=True, slots=True)
class World:
    """A folder to copy, and how a page's shell sees the rest."""

    folder: Path
    environment: dict[str, str]
    llm: str
    """address of the language model's stand-in"""

    def copy(self, where: Path) -> None:
        """Copy the folder; its environment, `.venv`, holds this process's programs."""
        shutil.copytree(self.folder, where, symlinks=True)
        (where / ".venv").mkdir()
        (where / ".venv" / ".ready").touch()
        (where / ".venv" / "bin").symlink_to(self.environment["PATH"].split(":")[0])

    def run(self, script: str, where: Path, log: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a script by bash as a reader would, who keeps one shell open; it ends at the first command that fails."""
        kept, logged = (shlex.quote(str(path)) for path in (where.with_name("exported"), log or where / "log.jsonl"))
        begin = f"if [ -f {kept} ]; then . {kept}; fi\nexport DOCUMENTS_LOG={logged}"
        script = f"{begin}\n{script}\nexport -p > {kept}"
        command = ["bash", "-eu", "-o", "pipefail", "-c", script]
        return subprocess.run(
            command, cwd=where, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )


@contextlib.contextmanager
def world(shared: Path, own: Path) -> Iterator[World]:
    """Yield the world. `shared` is a folder of all test processes, of which one builds; `own` is this one's."""
    with (
        bucket_server(NUM_ARTICLES) as bucket,
        llm_server(_answer) as llm,
        hub_server(own / "hub") as hub,
        programs(own, hub_variables(own, hub.url)) as binaries,
    ):
        environment = {
            **hub_variables(own, hub.url),
            "PATH": f"{binaries}:/usr/bin:/bin",
            "HOME": str(own),
            "CLIPMED_CACHE": str(own / "cache"),
            "NO_ALBUMENTATIONS_UPDATE": "1",
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
            "DOCUMENTS_PORT": str(_free_port()),
            **bucket.environment,
        }
        made = World(shared / "world", environment, llm.url)
        with (shared / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / "built").exists():
                _build(made, shared / "hub")
                (shared / "built").touch()
        for folder in (shared / "hub").glob("*/*"):
            hub.add(f"{folder.parent.name}/{folder.name}", folder)
        yield made


def hub_variables(own: Path, address: str) -> dict[str, str]:
    """What makes the stand-in the hub; all of it is read when huggingface_hub is imported."""
    variables = {"HF_HOME": str(own / "huggingface"), "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}
    return {**variables, "HF_HUB_DISABLE_XET": "1"}  # the stand-in does not speak it


def _build(made: World, hub: Path) -> None:
    """Make the folder by the real tools, at the size that rules.py gives."""
    made.folder.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, made.folder)
    write_real_small(made.folder / "real")
    write_webdataset(made.folder / "data" / "wds_pcam")
    done = made.run(BUILT, made.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    model = made.folder / "build" / "demo" / "run" / "model"
    for name in ("org/name", "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"):
        shutil.copytree(model, hub / name)
    _write_bert(hub / BERT)


def _write_bert(folder: Path) -> None:
    """Write what `train plan` asks the hub for: a text tower's config and tokenizer, and no weights."""
    from transformers import BertConfig

    from tests.zeroshot_eval.tiny_models import bert_tokenizer

    BertConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=2).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)


def write_catalogue_data(name: str, folder: Path) -> None:
    """Write files in the layout of a catalogue entry, as the entries' own tests have them."""
    fixture = yaml.safe_load((FIXTURES / f"{name}.yaml").read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    for kind in fixture.keys() - {"expect"}:
        WRITERS[kind](folder, fixture[kind])


def write_real_small(folder: Path) -> None:
    """Write images of noise in the layout of the shipped sources `real_small`: the real ones are not for everyone."""
    path = REPOSITORY / "dataset_builders" / "catalogue" / "sources" / "real_small.yaml"
    for source in yaml.safe_load(path.read_text())["sources"]:
        root, entry = folder / source["root"], load_entry(source["entry"])
        if entry.layout.files:
            for task in entry.tasks.values():
                for name in task.classes:
                    _write_images([root / name / f"{number}_{number}_left.png" for number in range(IMAGES_PER_CLASS)])
        else:
            _write_pairs(root)


def write_webdataset(folder: Path) -> None:
    """Write images of noise as a WebDataset in CLIP_benchmark's layout."""
    _write_images([folder / f"{number}.png" for number in range(6)])
    (folder / "test").mkdir()
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number in range(6):
            (folder / "cls").write_text(str(number % 2))
            tar.add(folder / f"{number}.png", f"{number}.png")
            tar.add(folder / "cls", f"{number}.cls")
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("normal tissue\ntumour tissue\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a slide of {c}\n")
    (folder / "dataset_type.txt").write_text("classification")


def _write_pairs(root: Path) -> None:
    names = [f"images/{number}.png" for number in range(IMAGES_PER_CLASS)]
    _write_images([root / name for name in names])
    rows = [
        {"image": name, "caption": f"Axial image of case {number} with a large mass.", "case": str(number)}
        | {"modality": "CT", "licence": "CC BY (eLife)", "references": [], **dict.fromkeys(MEDPIX, "x"), "source": "x"}
        for number, name in enumerate(names)
    ]
    (root / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _write_images(paths: list[Path]) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = [ord(letter) for letter in str(path)[-60:]]
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)


def _answer(body: Body, _: int) -> Answer:
    """What the stand-in of a language model says: the facts that the question names, as two plain sentences."""
    question = str(body["messages"][-1]["content"])
    told = {name: value.partition(" (")[0] for name, value in re.findall(r"^([^:\n]+): (.+)$", question, re.M)}
    kind, part = told.get("Image type", "image"), told.get("Body part", "")
    findings = "; ".join(value for name, value in told.items() if name.startswith("Must state"))
    place = f" of the {part}" if part else ""
    sentences = [f"This {kind}{place} shows {findings}.", f"{kind}{place}: {findings} can be seen."]
    return Answer(content=json.dumps({"captions": sentences}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def replaced(script: str, words: Mapping[str, str]) -> str:
    """Put what a page's placeholders stand for into a script."""
    for placeholder, value in words.items():
        script = script.replace(placeholder, value)
    return script
