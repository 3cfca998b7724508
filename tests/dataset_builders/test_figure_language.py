"""Languages of captions: those of real English articles, and of other scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataset_builders.figures.language import caption_language


@pytest.mark.parametrize(
    ("caption", "language"),
    [
        ("Axial CT of the chest shows a nodule in the right upper lobe (arrow).", "en"),
        ("IRM cérébrale en coupe axiale montrant une lésion frontale gauche", "fr"),
        ("Radiografia de tórax mostrando derrame pleural à direita", "pt"),
        ("Radiografía de tórax que muestra una opacidad en el lóbulo superior", "es"),
        ("Röntgenbild des Thorax mit Verschattung rechts", "de"),
        ("胸部CT显示右肺上叶结节。", "zh"),
        ("胸部X線写真で右上肺野に結節影を認める。", "ja"),
        ("흉부 CT에서 우상엽 결절이 보인다.", "ko"),
        ("Рентгенограмма органов грудной клетки в прямой проекции", "ru"),
        ("صورة الأشعة السينية للصدر تظهر عقيدة", "ar"),
        ("CT scan", ""),
        ("胸部CT", ""),
        ("1.2 ± 0.3 (n = 12), p < 0.001; 95 % 1.1–1.9; 20 × 30 mm", ""),
        ("", ""),
    ],
)
def test_language_of_captions(caption: str, language: str):
    assert caption_language(caption) == language


@pytest.mark.parametrize(
    "caption",
    [
        "Bruchinae in Xinjiang, dorsal view. 1 Spermophagus sericeus 2 Bruchidius apicipennis 3 Bruchus pisorum",
        "Preoperative intraoral periapical radiograph",
        "Transoesophageal echocardiogram of a secundum type ASD",
        "Subacromial bursitis in MRI, T1 TSE FS CM",
    ],
)
def test_names_of_species_and_anatomy_do_not_make_another_language_of_english(caption: str):
    assert caption_language(caption) in {"en", ""}


def test_a_caption_is_read_on_where_its_first_characters_do_not_tell():
    numbers = "1.2 ± 0.3 (n = 12), p < 0.001; 95 % 1.1–1.9; 20 × 30 mm; " * 3
    french = "Radiographie thoracique de face montrant de multiples opacités arrondies des deux champs pulmonaires. "
    english = "Axial CT of the chest shows a nodule in the right upper lobe and an effusion on the same side. "
    assert caption_language(numbers + french) == "fr"
    assert caption_language(2 * english + french) == "en"
    assert caption_language(2 * french + english) == "fr"


def test_lone_surrogates_do_not_stop_it():
    assert caption_language("\ud800 Axial CT of the chest shows a nodule in the right lobe") == "en"


@pytest.mark.real_data
def test_real_english_captions_are_english(real_data: Path):
    lines = (real_data / "pairs" / "roco_captions_textonly" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:4000]]
    captions = [row["caption"] for row in rows if len(row["caption"]) > 80 and row["caption"].isascii()]
    others = [caption for caption in captions if caption_language(caption) != "en"]
    assert len(captions) > 2000
    assert len(others) < 0.005 * len(captions), others
