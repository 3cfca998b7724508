"""What can be chosen of an index; apart, so that the command line need not import what builds one."""

from __future__ import annotations

from typing import Literal, TypeAlias

DType: TypeAlias = Literal["float32", "float16"]
Kind: TypeAlias = Literal["exact", "clustered"]
KindChoice: TypeAlias = Literal["auto", "exact", "clustered"]
