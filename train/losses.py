"""Contrastive losses over the global batch, each process answering for its own rows.

With B pairs on W processes, process r computes the mean over its B/W rows against all B columns. The mean over
processes is the loss of the whole batch, and the mean of their gradients is its gradient, given embeddings gathered by
`collectives.gather_rows`. Rank and world size come as integers: a test needs no processes to check the arithmetic.

Logits exist a tile at a time, and since a loss is one number, its gradients are made along with it and only multiplied
in the backward pass: memory is O(B x D) and a tile, never B x B. Arithmetic is in float32, or in float64 where the
embeddings are; `torch.set_float32_matmul_precision` says how exact CUDA's products are.

**InfoNCE** (Radford et al. 2021): the cross-entropy of picking each row's partner among all columns, from images to
texts and from texts to images, halved. A bias cancels and has a gradient of zero.

**SigLIP** (Zhai et al. 2023): the sigmoid loss of every pair, summed over columns and averaged over rows.

**Pairs of equal meaning.** Where captions are made from labels, many pairs of a batch that are not partners belong
together. `equals` says what they are; a row's own partner is a positive in any case.

- `negatives`: what CLIP takes them for.
- `masked`: left out. InfoNCE's sum runs over the own partner and columns of other meanings; SigLIP's pair weighs 0.
- `positives`: InfoNCE is -log of the share of all positives p together, -log(sum_p exp(s_p) / sum_j exp(s_j)); SigLIP's
  pair has the sign of a partner.

Not among them are uniform soft targets, 1/k on each of a row's k positives, since they are InfoNCE itself where equal
meaning comes with equal captions. With S the log-sum-exp of a row's logits, InfoNCE of row i is S_i - s_ii and the
soft one S_i - mean_p s_ip. Of images to texts: equal captions have equal embeddings, so s_ip = s_ii for all p. Of texts
to images: k equal texts have the same logits and the same S, so over them InfoNCE sums to k S - sum_p s_p, and the soft
one does too. The losses are equal as functions of the weights, hence their gradients are. By the same steps, for images
to texts `positives` is InfoNCE - log k, with InfoNCE's gradient: with equal captions it differs from texts to images
alone, while `masked` differs in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from clipmed.errors import ConfigError
from train.config import LossConfig
from train.tiles import Pairs, TileKernel, TorchKernel, log_sums, sigmoid, softmax_gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Unit-length embeddings of a global batch as one process sees them.

    `image` and `text` are this process's rows, shape (B / W, D); `all_images` and `all_texts` those of all processes in
    rank order, shape (B, D). `meanings`, int64 (B / W,), and `all_meanings`, (B,), are equal where samples mean the
    same; they are needed unless equal pairs are negatives. On one process, `all_images` should be `image` itself and
    `all_texts` `text` itself, not copies: InfoNCE then makes each logit once for both its directions.
    """

    image: torch.Tensor
    text: torch.Tensor
    all_images: torch.Tensor
    all_texts: torch.Tensor
    rank: int = 0
    meanings: torch.Tensor | None = None
    all_meanings: torch.Tensor | None = None


class Loss(NamedTuple):
    """`value`: differentiable scalar, the mean of `rows`. `rows`: each own row's part, detached, shape (B / W,)."""

    value: torch.Tensor
    rows: torch.Tensor


class _Result(NamedTuple):
    """Each row's loss, and gradients of `divisor` times their mean, with the inputs that they belong to."""

    rows: torch.Tensor
    gradients: list[tuple[torch.Tensor, torch.Tensor]]
    divisor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Everything a loss is a function of."""

    config: LossConfig
    embeddings: Embeddings
    scale: torch.Tensor
    bias: torch.Tensor | None
    kernel: TileKernel
    with_gradients: bool

    def pairs(self, rows: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None = None) -> Pairs:
        dtype = torch.promote_types(rows.dtype, torch.float32)
        return Pairs(
            rows=rows.to(dtype),
            columns=columns.to(dtype),
            scale=self.scale.to(dtype).reshape(()),
            bias=None if bias is None else bias.to(dtype).reshape(()),
            shift=self.embeddings.rank * len(rows),
            equals=self.config.equals,
            row_meanings=self.embeddings.meanings,
            column_meanings=self.embeddings.all_meanings,
        )


def contrastive_loss(
    config: LossConfig, embeddings: Embeddings, scale: torch.Tensor, bias: torch.Tensor | None
) -> Loss:
    """Return this process's part of the loss; the mean over processes of its value is the loss of the batch.

    Args:
        config: which loss, what equal pairs are, and the tiles. The kernel `auto` is torch's own operations on every
            device; `triton` fuses those between the matrix products, so that a tile is read and written fewer times,
            and is checked against them but not timed on a GPU.
        embeddings: see `Embeddings`.
        scale: what cosines are multiplied by (the inverse temperature), a scalar.
        bias: what is added to the logits, a scalar, or None for none.

    Raises:
        ConfigError: if the kernel is `triton` and cannot run here.
    """
    inputs = [embeddings.image, embeddings.text, embeddings.all_images, embeddings.all_texts, scale, bias]
    with_gradients = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs)
    with torch.no_grad(), torch.autocast(embeddings.image.device.type, enabled=False):
        problem = _Problem(
            config=config,
            embeddings=embeddings,
            scale=scale,
            bias=bias,
            kernel=_kernel(config, embeddings.image.device),
            with_gradients=with_gradients,
        )
        result = _siglip(problem) if config.name == "siglip" else _infonce(problem)
        value = result.rows.mean()
    return Loss(_with_gradients(value, result), result.rows)


def _infonce(problem: _Problem) -> _Result:
    own = problem.embeddings
    # On one process the logits of texts to images are those of images to texts, turned: their columns' sums serve.
    alone = own.all_images is own.image and own.all_texts is own.text
    losses: list[torch.Tensor] = []
    gradients = [] if problem.bias is None else [(problem.bias, torch.zeros_like(problem.bias))]
    for rows, columns in [(own.image, own.all_texts), (own.text, own.all_images)][: 1 if alone else 2]:
        pairs = problem.pairs(rows, columns)
        sums = log_sums(pairs, problem.kernel, problem.config.tile, of_columns=alone)
        losses += [side.denominators - side.numerators for side in sums if side is not None]
        if problem.with_gradients:
            found = softmax_gradients(pairs, problem.kernel, problem.config.tile, sums)
            gradients += [(rows, found.rows), (columns, found.columns), (problem.scale, found.scale)]
    return _Result((losses[0] + losses[1]) / 2, gradients, 2 * len(own.image))


def _siglip(problem: _Problem) -> _Result:
    own = problem.embeddings
    pairs = problem.pairs(own.image, own.all_texts, problem.bias)
    losses, found = sigmoid(pairs, problem.kernel, problem.config.tile, problem.with_gradients)
    if found is None:
        return _Result(losses, [], len(losses))
    gradients = [(own.image, found.rows), (own.all_texts, found.columns), (problem.scale, found.scale)]
    if problem.bias is not None:
        gradients.append((problem.bias, found.bias))
    return _Result(losses, gradients, len(losses))


class _WithGradients(torch.autograd.Function):
    """A scalar that hands gradients made beforehand to the tensors it depends on."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, divisor: int, *tensors: torch.Tensor) -> torch.Tensor:
        """`tensors`: those that `value` depends on, then the gradient of `divisor` times the value for each."""
        inputs, gradients = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ctx.like = [(tensor.dtype, tensor.shape) for tensor in inputs]
        ctx.divisor = divisor
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        factor = grads[0] / ctx.divisor
        found = [
            (gradient * factor).to(dtype).reshape(shape)
            for gradient, (dtype, shape) in zip(ctx.saved_tensors, ctx.like, strict=True)
        ]
        return (None, None, *found, *(None for _ in found))


def _with_gradients(value: torch.Tensor, result: _Result) -> torch.Tensor:
    wanted = [(tensor, gradient) for tensor, gradient in result.gradients if tensor.requires_grad]
    if not wanted:
        return value
    tensors, made = zip(*wanted, strict=True)
    attached: torch.Tensor = _WithGradients.apply(value, result.divisor, *tensors, *made)
    return attached


def _kernel(config: LossConfig, device: torch.device) -> TileKernel:
    if config.kernel != "triton":
        return TorchKernel()
    try:
        from train.triton_tiles import TritonKernel, runs_on
    except ImportError as error:
        raise ConfigError(
            f"loss.kernel: got 'triton', but {error}; allowed here: 'auto', 'torch'; torch's CUDA builds bring triton"
        ) from error
    if not runs_on(device):
        raise ConfigError(
            f"loss.kernel: got 'triton' for embeddings on {device}; allowed without CUDA: 'auto', 'torch'"
        )
    return TritonKernel()
