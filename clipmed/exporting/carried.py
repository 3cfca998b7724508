"""What goes along with exported towers: the checkpoint's card, and the scale of its probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.cards import DISCLAIMER, Card
from clipmed.checkpoint_files import CARD_FILE
from clipmed.files import write_text

if TYPE_CHECKING:
    from clipmed.calibration import Calibration
    from clipmed.towers import TwoTower


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A checkpoint's own words and scale."""

    card: Card = field(default_factory=Card)
    calibration: Calibration | None = None
    """`clipmed.load` refuses one that was fitted on other weights"""

    def scales(self, two_tower: TwoTower) -> dict[str, Any]:
        """Return what cosines are multiplied by before the softmax, as `ClipModel.classify` does, and whence it is."""
        model: Any = two_tower.model
        learned = float(model.logit_scale.detach().exp())
        if self.calibration is None:
            return {"logit_scale": learned, "calibrated": False}
        return {"logit_scale": self.calibration.logit_scale, "calibrated": True, "learned_logit_scale": learned}

    def write(self, folder: Path, library: str, use: str, scales: Mapping[str, Any]) -> None:
        """Write the calibration, if there is one, and the card with another library and another section on use."""
        if self.calibration is not None:
            self.calibration.save(folder)
            use = f"{use.rstrip()}\n\n{_CALIBRATED.format(**scales)}\n"
        card = replace(
            self.card,
            intro=self.card.intro or DISCLAIMER,
            metadata={**self.card.metadata, "library_name": library},
        )
        write_text(folder / CARD_FILE, card.with_section("Use", use).text())


_CALIBRATED = (
    "Cosines are multiplied by {logit_scale:.4g}, which `clipmed calibrate` fitted (calibration.json), in place of the "
    "{learned_logit_scale:.4g} that training left."
)
