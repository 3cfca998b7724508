"""What each page assumes: what its placeholders stand for, and what a reader has done before."""

from __future__ import annotations

from dataclasses import dataclass, field

LLM = "http://127.0.0.1:8000/v1"  # replaced by the address of the stand-in


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What a page assumes."""

    before: str = ""
    """commands of earlier pages"""
    words: dict[str, str] = field(default_factory=dict)
    """placeholder: what stands for it"""
    data: dict[str, str] = field(default_factory=dict)
    """folder: the catalogue entry in whose layout it has files"""


REAL = "cp -r build/real/set build/demo/run build/\n"
DATA = """
cp -r real/images/cxr_pneumonia data/xrays
echo path,label > data/skin.csv
for image in real/images/derm_isic_cc0/*/*; do echo $image,$(basename $(dirname $image)) >> data/skin.csv; done
cp -r real data/
"""
EVALUATED = """
python -m train laptop --data.sets build/set --out build/tuned
python -m zeroshot_eval score build/run/model --suite real --sets build/set --out build/base --no-report
python -m zeroshot_eval score build/tuned/model --suite real --sets build/set --out build/new --no-report
"""
MY_IMAGES = """
for label in normal pneumonia; do
  mkdir -p my_images/$label
  for image in real/images/cxr_pneumonia/$label/*; do cp $image my_images/$label/p00$(basename $image); done
done
"""
TRAINED = """
cp -r build/demo/run build/
python -m train laptop --data.sets build/demo/set --out build/tuned
cp -r real/images/cxr_pneumonia my_images
"""
CAPTIONED = """
echo path,caption > my_captions.csv
for image in my_images/*/*; do echo $image,An image >> my_captions.csv; done
cp $(ls my_images/*/* | head -1) query.png
"""
VALIDATION = """
cat > sorted_by_model.py <<'END'
import shutil
from pathlib import Path
import clipmed

images, labels = sorted(Path("real/images").glob("*/*/*")), ["no abnormality", "pneumonia"]
results = clipmed.load("build/run/model").classify(images, labels)
for number, (image, result) in enumerate(zip(images, results)):  # right for nine of ten, and less sure of it
    label = result.label if number % 10 else next(other for other in labels if other != result.label)
    folder = Path("my_validation", label)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(image, folder / f"{number}.png")
END
python sorted_by_model.py
"""
PICKLED = """
cat > pickled.py <<'END'
import json, torch
from pathlib import Path
from safetensors.torch import load_file

model = Path("build/demo/run/model")
torch.save({"state_dict": load_file(model / "open_clip_model.safetensors")}, "epoch_32.pt")
config = json.loads((model / "open_clip_config.json").read_text())["model_cfg"]
Path("my_model.json").write_text(json.dumps(config))
END
python pickled.py
"""
MY_DATASET = "python -m dataset_builders show cxr_pneumonia | sed 's/^name: .*/name: my_dataset/' > my_dataset.yaml"
MIXED = """
for part in ct mri; do
  python -m dataset_builders captions make build/demo/spools/phantom_$part --store captions.sqlite \
    --llm.endpoint.model standin --llm.endpoint.url http://127.0.0.1:8000/v1
  python -m shards pack build/demo/spools/phantom_$part --captions captions.sqlite --out build/$part
done
cp -r build/demo/set build/
"""
SNAPSHOT = "python -m dataset_builders pmc snapshot s3://pmc-oa-opendata --out real/pmc.parquet"
ALL_LICENCES = 'PACK="--license-groups commercial noncommercial other --test-fraction 0.4"'
BOTH = "--first-checkpoint biomedclip --second-checkpoint run-model"
GATE = "gate build/scores --checkpoint run/model --min modality.xray=0"
PAGES: dict[str, Assumed] = {
    "README.md": Assumed(
        before=SNAPSHOT,
        words={
            "image.jpg": "real/images/cxr_pneumonia/normal/0_0_left.png",
            "ROOT=FOLDER": f"ROOT=real {ALL_LICENCES}",
            "FOLDER": "real",
            "build/base build/new": f"build/scores build/scores {BOTH}",
            "gate build/new --min modality.ct=0.6 --no-worse-than build/base": GATE,
        },
        data={"real/rocov2": "rocov2"},
    ),
    "docs/captions.md": Assumed(before="ln -s build/demo/spools spools", words={"NAME": "standin"}),
    "docs/data.md": Assumed(before=MY_DATASET, words={"SET": "build/demo/set"}),
    "docs/datasets.md": Assumed(data={"FOLDER": "chestmnist"}),
    "docs/evaluation.md": Assumed(
        before=REAL + DATA + EVALUATED,
        words={
            "score build/run/model --suite": "score biomedclip build/run/model --suite",
            "audit build/scores --train": "audit build/scores --checkpoint run-model --train",
            "SET": "build/set",
            "tuning.yaml": "real --on-test",
            "BASE": "build/run/model",
            "TUNED": "build/tuned/model",
            " A B C ": " build/run/model build/tuned/model ",
        },
    ),
    "docs/example-report/README.md": Assumed(words={"FOLDER": "real"}),
    "docs/how-to/captions.md": Assumed(before="ln -s build/demo/spools spools"),
    "docs/how-to/evaluate.md": Assumed(
        before=REAL
        + "cp -r real/images/cxr_pneumonia my_images\npython -m train laptop --data.sets build/set --out build/tuned"
    ),
    "docs/how-to/labelled-images.md": Assumed(before=MY_IMAGES, data={"chestmnist": "chestmnist"}),
    "docs/how-to/pack.md": Assumed(
        before="ln -s build/demo/spools spools\ncp -r real/images/cxr_pneumonia my_test_set"
    ),
    "docs/how-to/train-slurm.md": Assumed(before="cp -r build/demo/set build/"),
    "docs/how-to/calibrate.md": Assumed(before=TRAINED + VALIDATION),
    "docs/how-to/merge.md": Assumed(before=TRAINED),
    "docs/how-to/publish.md": Assumed(before="export HF_TOKEN=hf_any\ncp -r build/demo/run build/demo/scores build/"),
    "docs/how-to/import.md": Assumed(before=PICKLED),
    "docs/how-to/export.md": Assumed(before=TRAINED),
    "docs/how-to/offline.md": Assumed(before=TRAINED, words={"/shared": "shared"}),
    "docs/how-to/search.md": Assumed(before=TRAINED + CAPTIONED),
    "docs/how-to/serve.md": Assumed(
        before=TRAINED + "clipmed index my_images --out build/index --checkpoint build/run/model"
    ),
    "docs/results.md": Assumed(words={"FOLDER": "real", "LABELLED": "build/real/spools/*"}),
    "docs/scale.md": Assumed(words={"SET": "build/demo/set"}),
    "docs/training.md": Assumed(
        before=MIXED,
        words={"SET_A": "build/ct", "SET_B": "build/mri", "SET": "build/set", "RUN_": "build/run_"}
        | {"roco 3 medpix": "phantom_ct 3 phantom_mri", "figure 2 llm 1": "template 2 llm 1"},
    ),
}
