"""Both towers as ONNX graphs, which onnxruntime runs without PyTorch.

image.onnx       pixels (N, 3, H, W) float32, normalised, to embeddings (N, D) float32 of unit length; any N
text.onnx        tokens (N, L) int64, padded to the context length L, to embeddings (N, D) float32 of unit length
*.onnx.data      weights beside the graph where they are too large for one file
preprocess.json  how pixels are made of an image
tokenizer.json   how tokens are made of a text, for the tokenizers package: cut and padded
export.json      what was compared, with onnxruntime, and by how much it differed
README.md        the checkpoint's card, and how to use this
calibration.json the checkpoint's, if it has one
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from importlib import metadata
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.errors import ConfigError
from clipmed.exporting.carried import Carried
from clipmed.exporting.parity import (
    PROBE_TEXTS,
    REPORT_FILE,
    TOLERANCE,
    largest_difference,
    probe_pixels,
    require_parity,
    require_replaceable,
)
from clipmed.extras import require
from clipmed.files import atomic_folder, write_json

if TYPE_CHECKING:
    import torch

    from clipmed.towers import TwoTower

OPSET = 20
BATCH_SIZES = (1, 3, 8)
HALF_TOLERANCE = 5e-3
SMALL_BYTES = 4096  # of norms and biases, which stay as they are
EXTERNAL_DATA_BYTES = 1_900_000_000  # a graph of more than 2 GB does not fit into one protobuf message


def export_onnx(
    two_tower: TwoTower,
    out: Path,
    source: Mapping[str, Any],
    carried: Carried | None = None,
    *,
    half: bool = False,
    external_data_bytes: int = EXTERNAL_DATA_BYTES,
) -> dict[str, Any]:
    """Write a folder with both towers as ONNX, atomically, after comparing them in onnxruntime with the checkpoint.

    Args:
        two_tower: the checkpoint, on the CPU in float32.
        out: the folder to write.
        source: what the report says of the checkpoint, such as its digest.
        carried: the checkpoint's card, and its calibration, whose scale is that of preprocess.json.
        half: store weights in float16, for half the size; they are float32 again when a session is made.
        external_data_bytes: weights of more bytes are written beside the graph.

    Returns:
        the report, which is `export.json` in the folder too.

    Raises:
        ConfigError: onnx or onnxruntime is not installed, a model that PyTorch cannot export, or embeddings that differ
            by more than 1e-5 (5e-3 with `half`).
    """
    for module in ("onnx", "onnxruntime", "onnxscript"):
        require(module, "onnx")
    require_replaceable(out)
    from clipmed.exporting.transformers_export import quiet_transformers

    carried = carried or Carried()
    scales = carried.scales(two_tower)
    inputs = {"image": probe_pixels(two_tower), "text": two_tower.tokenizer(list(PROBE_TEXTS))}
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    report: dict[str, Any] = {
        "format": "onnx",
        **source,
        **scales,
        "opset": OPSET,
        "weights": "float16" if half else "float32",
        "batch_sizes": list(BATCH_SIZES),
        "tolerance": tolerance,
        "onnxruntime": metadata.version("onnxruntime"),
        "torch": metadata.version("torch"),
    }
    with quiet_transformers(), atomic_folder(out) as partial:
        for name, probe in inputs.items():
            path = partial / f"{name}.onnx"
            program = _graph(_tower(two_tower.model, name), name, probe)
            _save(program, path, half=half, external_data_bytes=external_data_bytes)
            difference = _largest_difference(two_tower, name, probe, path)
            report[f"{name}_embeddings_differ_by"] = require_parity(f"{name} embeddings", difference, tolerance)
        _write_tokenizer(two_tower, partial)
        write_json(partial / "preprocess.json", _preprocessing(two_tower) | scales)
        write_json(partial / REPORT_FILE, report)
        carried.write(partial, "onnx", _use(two_tower, report), scales)
    return report


def _tower(model: Any, name: str) -> torch.nn.Module:
    """Return a module from the tower's input to unit-length float32 embeddings."""
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            features = self.model.encode_image(batch) if name == "image" else self.model.encode_text(batch)
            return torch.nn.functional.normalize(features.float(), dim=-1)

    return Tower().eval()


def _graph(tower: torch.nn.Module, name: str, probe: torch.Tensor) -> Any:
    import torch

    logging.disable(logging.ERROR)  # the exporter's own notes; what fails raises
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                tower,
                (probe[:2],),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"batch": {0: torch.export.Dim("N")}},
                input_names=["pixels" if name == "image" else "tokens"],
                output_names=["embeddings"],
                verbose=False,
            )
    except Exception as error:
        raise ConfigError(
            f"PyTorch cannot export the {name} tower to ONNX: {' '.join(str(error).split())[:300]}; use the "
            "checkpoint with clipmed or open_clip"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _save(program: Any, path: Path, *, half: bool, external_data_bytes: int) -> None:
    import onnx

    proto = program.model_proto
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.functions, proto.graph, proto):
        del part.metadata_props[:]  # the exporter's stack traces, with paths of this machine
    if half:
        _halve_weights(proto.graph)
    num_bytes = sum(len(weight.raw_data) for weight in proto.graph.initializer)
    external = num_bytes > external_data_bytes
    onnx.save_model(proto, str(path), save_as_external_data=external, location=f"{path.name}.data")


def _halve_weights(graph: Any) -> None:
    """Store each large float32 weight in float16, with a cast to float32 before its use."""
    import numpy as np
    import onnx

    casts = []
    for weight in graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.raw_data) < SMALL_BYTES:
            continue
        name, stored = weight.name, f"{weight.name}.float16"
        values = onnx.numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _largest_difference(two_tower: TwoTower, name: str, probe: torch.Tensor, path: Path) -> float:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    reference = _tower(two_tower.model, name)
    differences = []
    for batch_size in BATCH_SIZES:
        batch = torch.stack(list(islice(cycle(probe), batch_size)))
        (embeddings,) = session.run(None, {given.name: batch.numpy()})
        with torch.no_grad():
            differences.append(largest_difference(embeddings, reference(batch)))
    return max(differences)


def _write_tokenizer(two_tower: TwoTower, folder: Path) -> None:
    """Write tokenizer.json with the padding and the cut of the checkpoint in it."""
    import torch

    from clipmed.exporting.tokenizers_export import export_tokenizer

    tokenizer = export_tokenizer(two_tower)
    own = getattr(two_tower.tokenizer, "tokenizer", None)
    pad_id = 0 if own is None else int(own.pad_token_id)
    backend = tokenizer.backend_tokenizer
    length = two_tower.context_length
    backend.enable_truncation(length, direction=tokenizer.truncation_side)
    pad_token = str(tokenizer.convert_ids_to_tokens(pad_id))
    backend.enable_padding(pad_id=pad_id, pad_token=pad_token, length=length, direction=tokenizer.padding_side)
    backend.save(str(folder / "tokenizer.json"))
    ids = torch.tensor([encoding.ids for encoding in backend.encode_batch(list(PROBE_TEXTS))])
    require_parity("token ids", largest_difference(ids, two_tower.tokenizer(list(PROBE_TEXTS))), 0)


def _preprocessing(two_tower: TwoTower) -> dict[str, Any]:
    model: Any = two_tower.model
    pixels = two_tower.pixels
    return {
        "height": pixels.size[0],
        "width": pixels.size[1],
        "resize_mode": pixels.resize_mode,
        "interpolation": pixels.interpolation,
        "fill_color": pixels.fill_color,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "context_length": two_tower.context_length,
        "logit_bias": None if model.logit_bias is None else float(model.logit_bias.detach()),
    }


def _use(two_tower: TwoTower, report: Mapping[str, Any]) -> str:
    pixels = two_tower.pixels
    height, width = pixels.size
    mode = "other" if pixels.resize_mode == "shortest" and height != width else pixels.resize_mode
    resize = _RESIZE.get(mode, "# bring the image to `size` as preprocess.json says")
    differs = max(report["image_embeddings_differ_by"], report["text_embeddings_differ_by"])
    return _USE.format(
        opset=report["opset"],
        weights=report["weights"],
        height=height,
        width=width,
        length=two_tower.context_length,
        resize=resize.format(resampling=pixels.interpolation.upper()),
        differs=f"{differs:.1e}",
        batches=", ".join(map(str, report["batch_sizes"])),
    )


_RESIZE = {
    "shortest": """shorter, (width, height) = min(image.size), size
image = image.resize([width * side // shorter for side in image.size], Image.Resampling.{resampling})
left, top = (round((side - width) / 2) for side in image.size)
image = image.crop((left, top, left + width, top + height))""",
    "squash": "image = image.resize(size, Image.Resampling.{resampling})",
}
_USE = """Both towers, exported by clipmed with ONNX opset {opset}, weights in {weights}.

`image.onnx`: `pixels` (N, 3, {height}, {width}) float32, normalised. `text.onnx`: `tokens` (N, {length}) int64. Both
give `embeddings` (N, D) float32 of unit length, for any N. In onnxruntime they differ from the checkpoint's by at most
{differs} in batches of {batches} (export.json).

```python
import json
import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

settings = json.load(open("preprocess.json"))
mean, std = (np.array(settings[name], dtype=np.float32) for name in ("mean", "std"))
size, image = (settings["width"], settings["height"]), Image.open("image.png").convert("RGB")
{resize}
pixels = ((np.asarray(image, dtype=np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]
tokens = [text.ids for text in Tokenizer.from_file("tokenizer.json").encode_batch(["a normal scan", "a mass"])]
image_embeddings = onnxruntime.InferenceSession("image.onnx").run(None, {{"pixels": pixels}})[0]
text_embeddings = onnxruntime.InferenceSession("text.onnx").run(None, {{"tokens": np.array(tokens)}})[0]
logits = settings["logit_scale"] * image_embeddings @ text_embeddings.T
print(np.exp(logits) / np.exp(logits).sum())
```
"""
