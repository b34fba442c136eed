"""How features were made: kept, compared, and named where they differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.video.sampling import SamplingSpec
from tests.tiny import fingerprint


def test_fingerprint_survives_json_and_knows_its_like() -> None:
    made = fingerprint(sampling=SamplingSpec("head", 12), normalized=True)
    assert Fingerprint.from_json(made.to_json()) == made
    assert made.matches(replace(made, encoder="/elsewhere/tiny.pt"))
    for change in (
        {"weights": "sha256:1"},
        {"preprocessing": "x"},
        {"normalized": False},
        {"sampling": SamplingSpec()},
    ):
        assert not made.matches(replace(made, **change))


def test_features_of_another_encoder_are_refused_naming_both() -> None:
    other = fingerprint(encoder="ViT-B/32", weights="sha256:2")
    with pytest.raises(ClipcapError, match=r"in features/ are features of ViT-B/32 .*trained on features of tiny "):
        check_fingerprints(fingerprint(), other, "features/")
    # One difference is named alone, several with all that there is to know.
    more = fingerprint(sampling=SamplingSpec("fps", fps=2))
    said = (
        r"are features of frames taken fps all at 2 fps, but the model was trained on features of frames taken \w+ \d+;"
    )
    with pytest.raises(ClipcapError, match=said):
        check_fingerprints(fingerprint(), more, "features/")
    with pytest.raises(ClipcapError, match=r"are tiny \(.*normalised\), but the model was trained on tiny \("):
        check_fingerprints(fingerprint(), replace(more, normalized=True), "features/")
    check_fingerprints(fingerprint(), None, "old.hdf5")
    check_fingerprints(None, other, "features/")
