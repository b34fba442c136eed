"""Files that commands look for where none are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.runs.defaults import default_annotations, default_features


def test_the_programs_names_come_first_in_its_folder_then_beside_it_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (default_features(), default_annotations()) == (Path("features"), Path("videodatainfo.json"))
    for folder in (".", "MSR_VTT", "CV_Project_Dataset"):
        for name in ("MSRVTT_TRNVAL_CLIP_FEATURES.hdf5", "train_val_videodatainfo.json"):
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / name).touch()
            found = default_features() if name.endswith(".hdf5") else default_annotations()
            assert found == Path(folder) / name


def test_a_folder_of_such_a_name_is_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("MSRVTT_TRNVAL_CLIP_FEATURES.hdf5").mkdir()
    assert default_features() == Path("features")
