"""The settings that make one run differ from another, in words, for the run page and the model card."""

from __future__ import annotations

from train.charts import compact
from train.config import TrainConfig
from train.history import RunFacts


def settings_in_words(config: TrainConfig, facts: RunFacts | None = None) -> list[tuple[str, str]]:
    """Return (what, words) of the settings; `facts` add what only a run knows."""
    rows = [
        ("data", _data(config, facts)),
        ("batch", _batch(config)),
        ("model", config.model.config + (f", {compact(facts.parameters, 3)} parameters" if facts else "")),
        ("loss", f"{config.loss.name}, samples with equal facts as {config.loss.equals}"),
        ("optimiser", _optimiser(config)),
        ("weights", _weights(config)),
        ("machine", (f"{facts.processes} × {facts.device}, " if facts else "") + config.precision),
        ("seed", str(config.seed)),
    ]
    return [(name, words) for name, words in rows if words]


def _data(config: TrainConfig, facts: RunFacts | None) -> str:
    total = f"{facts.samples:,} samples of " if facts else ""
    return f"{total}{', '.join(config.data.sets)} ({config.data.split})"


def _batch(config: TrainConfig) -> str:
    cache = config.gradcache
    limits = ((cache.image_micro_batch, "images"), (cache.text_micro_batch, "texts"), (cache.text_tokens, "tokens"))
    parts = [f"{value:,} {unit}" for value, unit in limits if value is not None]
    cut = f"at most {', '.join(parts)} at once" if parts else "all at once"
    return f"{config.data.batch_size:,} pairs, encoded {cut}"


def _optimiser(config: TrainConfig) -> str:
    optim = config.optim
    words = [
        f"AdamW, learning rate {optim.lr:g} after {optim.warmup_steps:,} steps of warm-up",
        f"weight decay {optim.weight_decay:g}",
    ]
    if optim.clip_grad_norm is not None:
        words.append(f"gradient norm at most {optim.clip_grad_norm:g}")
    factors = (
        ("image tower at {:g} × the rate", optim.image_lr_factor),
        ("text tower at {:g} × the rate", optim.text_lr_factor),
        ("layer decay {:g}", optim.layer_decay),
    )
    return ", ".join(words + [text.format(value) for text, value in factors if value != 1])


def _weights(config: TrainConfig) -> str:
    optim = config.optim
    words = [f"{tower} tower locked" for tower in optim.locked]
    if optim.ema_decay is not None:
        words.append(f"running mean with decay {optim.ema_decay:g}")
    if optim.wise_ft is not None:
        words.append(f"published {optim.wise_ft:.0%} of the way from the initial weights")
    return ", ".join(words)
