"""Annotation files before a reader knows what they are; pickles that would run code."""

from __future__ import annotations

import os
import pickle
from collections import defaultdict
from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.errors import ClipcapError
from tests.datasets.test_published import CLIPS, EXPECTED_MSVD, msvd_lists, msvd_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    assert read_annotations([msvd_pickle(tmp_path, protocol), *msvd_lists(tmp_path)]) == EXPECTED_MSVD
    kept: defaultdict[str, list] = defaultdict(list, {CLIPS[0]: ["a dog"]})
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(kept, protocol=protocol))
    assert read_annotations([tmp_path / "raw-captions.pkl", *msvd_lists(tmp_path)])[0].captions == ["a dog"]


class Attack:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "raw-captions.pkl"
    file.write_bytes(pickle.dumps({CLIPS[0]: [Attack()]}, protocol=protocol))
    with pytest.raises(ClipcapError, match=r"it asks for posix\.mkdir"):
        read_annotations([file])
    assert not (tmp_path / "pwned").exists()
    file.write_bytes(pickle.dumps({CLIPS[0]: [["a", "dog"]]}, protocol=protocol)[:-4])
    with pytest.raises(ClipcapError, match="is not a whole pickle"):
        read_annotations([file])
