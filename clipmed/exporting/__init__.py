"""Checkpoints in the formats of other libraries: Hugging Face transformers and ONNX.

Each export embeds a few images and texts through the checkpoint and through what was written, and writes nothing if
the two differ. `export.json` in the folder holds the differences that were measured.
"""
