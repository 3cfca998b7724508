"""Configs: YAML in and out, unknown keys refused by name, command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from clipmed.configuration import from_dict, load_yaml, parse_cli, save_yaml
from clipmed.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """Optimiser."""

    lr: float = 1e-3
    """peak learning rate"""
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float | None = None

    def __post_init__(self):
        if self.lr <= 0:
            raise ConfigError(f"lr must be positive: got {self.lr}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run."""

    optimiser: Optimiser = Optimiser()
    precision: Literal["fp32", "bf16"] = "fp32"
    paths: tuple[Path, ...] = ()
    seed: int = 0
    weights: dict[str, float] = field(default_factory=dict)


def test_yaml_round_trip(tmp_path):
    config = Run(optimiser=Optimiser(lr=0.5, clip=1.0), paths=(Path("a"), Path("b")), weights={"x": 2.0})
    save_yaml(config, tmp_path / "c.yaml")
    assert load_yaml(Run, tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"optimizer": {}},
            r"unknown key 'optimizer'; did you mean 'optimiser'\? Valid keys here: optimiser, precision",
        ),
        ({"optimiser": {"lrr": 1}}, r"unknown key 'optimiser\.lrr'; did you mean 'lr'\?"),
        ({"zzz": 1}, r"unknown key 'zzz'\. Valid keys here"),
        ({"precision": "fp31"}, r"precision: got 'fp31'; allowed: 'fp32', 'bf16'; did you mean 'fp32'\?"),
        ({"seed": "1"}, r"seed: got '1' of type str; allowed: int"),
        ({"seed": True}, r"seed: got True of type bool; allowed: int"),
        ({"optimiser": {"lr": -1}}, r"optimiser: lr must be positive: got -1"),
        ({"optimiser": {"clip": "x"}}, r"optimiser: clip: got 'x' of type str; allowed: float, null"),
    ],
)
def test_wrong_configs_are_refused_by_name(data, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(Run, data, "run.yaml")


def test_files_that_are_not_yaml_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(Run, tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_yaml(Run, tmp_path / "bad.yaml")
    (tmp_path / "code.yaml").write_text("seed: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_yaml(Run, tmp_path / "code.yaml")


def test_options_override_the_default(capsys):
    parsed = parse_cli(Run, ["--optimiser.lr", "0.1"], default=Run(seed=3), prog="x", description="d")
    assert (parsed.optimiser.lr, parsed.seed) == (0.1, 3)
    with pytest.raises(SystemExit) as error:
        parse_cli(Run, ["--optimiser.lrr", "0.1"], default=Run(), prog="x", description="d")
    assert error.value.code == 2
    assert "--optimiser.lr" in capsys.readouterr().err


def test_help_shows_field_comments_and_defaults(capsys):
    with pytest.raises(SystemExit) as error:
        parse_cli(Run, ["--help"], default=Run(seed=7), prog="x", description="what it does")
    assert error.value.code == 0
    shown = capsys.readouterr().out
    assert "peak learning rate" in shown
    assert "(default: 7)" in shown
    assert "what it does" in shown
