"""Progress: nothing is drawn of work that is over at once, all of work that takes longer."""

import pytest

from zeroshot_eval import progress as module
from zeroshot_eval.progress import progress


def test_short_work_draws_nothing_and_is_counted(capsys: pytest.CaptureFixture[str]):
    with progress(3, "scoring", "task") as bar:
        for _ in range(3):
            bar.update()
    assert bar.done == 3
    assert capsys.readouterr().err == ""


def test_longer_work_is_drawn_with_what_was_done_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    with progress(4, "scoring", "task") as bar:
        bar.update(2)
        monkeypatch.setattr(module, "DELAY_S", 0.0)
        bar.update()
        bar.update()
    drawn = capsys.readouterr().err
    assert "scoring" in drawn
    assert "3/4" in drawn
    assert "4/4" in drawn
