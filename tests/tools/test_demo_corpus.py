"""The training kit of the packaged model builds the very text that the model was trained on, and says what it is."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from ssis_dispatcher.models.catalogue import demo_path

KIT = Path(__file__).parents[2] / "tools" / "demo_model"

CORPUS_SHA256 = "cc6cb42557447d4e78720857a5273558e36850b027dd65697fcb3f5c4de011f4"


def output_of_corpus(*arguments: str) -> bytes:
    command = [sys.executable, "-B", str(KIT / "corpus.py"), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=50).stdout


def test_the_text_is_the_one_that_the_model_was_trained_on() -> None:
    assert hashlib.sha256(output_of_corpus("--print")).hexdigest() == CORPUS_SHA256


def test_the_summary_of_the_text_names_its_digest() -> None:
    assert output_of_corpus().decode().split() == [
        *("41212", "documents,", "13992612", "characters,", "sha256", CORPUS_SHA256)
    ]


def test_the_kit_states_the_digests_of_text_and_model() -> None:
    readme = (KIT / "README.md").read_text()
    assert CORPUS_SHA256 in readme
    assert hashlib.sha256(demo_path().read_bytes()).hexdigest() in readme
