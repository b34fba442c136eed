"""The ClipCap programs' own commands, as their users type them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from clipcap_video.features.layouts import open_features
from clipcap_video.metrics import java
from tests.clips import write_clip
from tests.commands import Done, predictions, refused, run
from tests.golden import recorded
from tests.tiny_clip import cosine_distance, save_tiny_clip, tiny_clip

TRAIN = (
    "train_vtt.py --mapping_type transformer --num_layers 8 --prefix_length_clip 28 --bs 40 --only_prefix "
    "--save_every 10 --epochs 10 --cross --out_dir cross_length20 --prefix_length 20"
)
INFER = (
    "inference_vtt.py --model_dir cross_length20 --prefix_length 20 --mapping_type transformer --cross "
    "--entry_length 10 --num_layers 8 --epoch 9"
)


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)


def done(*arguments: object, cwd: Path) -> Done:
    finished = run(*arguments, cwd=cwd)
    assert finished.returncode == 0, finished.stderr
    return finished


def workplace(golden: Path, folder: Path, features: str, annotations: str) -> Path:
    """A working folder with the recorded features and annotations, eight videos of them to train on, and gpt2."""
    shutil.copytree(golden / "msrvtt-clipcap" / "gpt2-tiny", folder / "gpt2")
    for name in (features, annotations):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(golden / "msrvtt-clipcap" / "features.hdf5", folder / features)
    content = json.loads((golden / "msrvtt-clipcap" / "annotations.json").read_text())
    for video in content["videos"][:8]:
        video["split"] = "train"
    (folder / annotations).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("data_folder", [pytest.param("CV_Project_Dataset", marks=pytest.mark.slow), "."])
def test_both_commands_of_the_readme(golden: Path, tmp_path: Path, data_folder: str) -> None:
    workplace(
        golden,
        tmp_path,
        f"{data_folder}/MSRVTT_TRNVAL_CLIP_FEATURES.hdf5",
        f"{data_folder}/train_val_videodatainfo.json",
    )
    (tmp_path / "features").mkdir()  # ours would be an error
    done(*TRAIN.split(), cwd=tmp_path)
    done(*INFER.split(), cwd=tmp_path)
    out = tmp_path / "cross_length20"
    ours = predictions(out / "predictions.json")
    theirs = json.loads((out / "pred.json").read_text())
    assert theirs == {video: [captions[0]["text"]] for video, captions in ours.items()}
    assert len(theirs) == 2
    scores = json.loads((out / "scorepred.json").read_text())
    assert scores.keys() == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"}
    assert all(isinstance(value, float) for value in scores.values())

    done(*INFER.split(), "--use_beam_search", "--bs", "1", cwd=tmp_path)
    assert (out / "pred_beam.json").exists()
    assert (out / "scorepred_beam.json").exists()
    assert json.loads((out / "pred.json").read_text()) == theirs
    # Its own defaults contradict its training; ours come from the checkpoint.
    done("inference_vtt.py", "--model_dir", "cross_length20", "--overwrite", cwd=tmp_path)
    assert "prefix-009" in refused(
        "inference_vtt.py", "--model_dir", "cross_length20", "--epoch", "10", "--out", "new.json", cwd=tmp_path
    )
    assert "contradicts" in refused(*INFER.split(), "--prefix_length_clip", "20", "--overwrite", cwd=tmp_path)
    done(*INFER.split(), "--prefix_length_clip", "40", "--overwrite", cwd=tmp_path)


def test_our_own_file_names_serve_where_theirs_are_not(golden: Path, tmp_path: Path) -> None:
    workplace(golden, tmp_path, "f.hdf5", "videodatainfo.json")
    (tmp_path / "features").mkdir()
    for video_id, array in ((i, open_features(tmp_path / "f.hdf5").load(i)) for i in ("video6530", "video6538")):
        np.save(tmp_path / "features" / f"{video_id}.npy", array.features[:20])
    short = TRAIN.replace("--epochs 10", "--epochs 1")
    done(*short.split(), cwd=tmp_path)  # --prefix_length_clip 28 is more than the 20 frames that there are
    done(*INFER.replace("--epoch 9", "--epoch 0").split(), "--prefix_length_clip", "28", cwd=tmp_path)
    assert json.loads((tmp_path / "cross_length20" / "pred.json").read_text()).keys() == {"video6538"}


@pytest.mark.parametrize("name", ["mlp", "transformer", "cross"])
def test_inference_on_their_checkpoints(golden: Path, tmp_path: Path, name: str) -> None:
    case = recorded(golden, f"msrvtt-clipcap/{name}")
    data, annotations = golden / "msrvtt-clipcap" / "features.hdf5", golden / "msrvtt-clipcap" / "annotations.json"
    folder = shutil.copytree(case.checkpoint.parent, tmp_path / "model")
    flags = ["--mapping_type", "mlp" if name == "mlp" else "transformer", *(["--cross"] if name == "cross" else [])]
    infer = [
        "inference_vtt.py", "--model_dir", folder, "--data", data, "--caption", annotations, "--lm", case.lm, *flags,
        "--prefix", "msrvtt_prefix", "--epoch", "9", "--bs", "4",
    ]  # fmt: skip
    done(*infer, "--use_beam_search", cwd=tmp_path)
    done(*infer, cwd=tmp_path)
    beam, greedy = (json.loads((folder / f"{mode}.json").read_text()) for mode in ("pred_beam", "pred"))
    assert beam == {video: [texts[0]] for video, texts in zip(case.ids, case.beam, strict=True)}
    assert greedy == {video: [text] for video, text in zip(case.ids, case.greedy, strict=True)}
    assert {"scorepred.json", "scorepred_beam.json", "predictions.json"} <= {path.name for path in folder.iterdir()}

    # A converted checkpoint says the same, with no more flags.
    convert = ["clipcap-video", "convert", case.checkpoint, "--out", tmp_path / "ours", "--lm", case.lm]
    said = done(*convert, *flags[2:], cwd=tmp_path).stdout
    assert f"prefix length: {case.prefix.shape[1]}" in said
    assert "dropped  gpt.transformer.h.1.attn.masked_bias" in said
    assert "is there already" in refused(*convert, "--prefix_length_clip", "40", "--out", folder)
    # The folder that --model_dir takes will do, too; one of ours has no need of it.
    convert[2] = folder
    done(*convert[:3], "--out", tmp_path / "again", *convert[5:], *flags[2:], cwd=tmp_path)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("ours", "again")]
    assert weights[0] == weights[1]
    convert[2] = tmp_path / "ours"
    assert "needs no conversion" in refused(*convert[:3], "--out", tmp_path / "third")
    done(
        "inference_vtt.py", "--model_dir", tmp_path / "ours", "--data", data, "--caption", annotations,
        "--use_beam_search", cwd=tmp_path,
    )  # fmt: skip
    assert json.loads((tmp_path / "ours" / "pred_beam.json").read_text()) == beam


def test_their_checkpoint_needs_no_more_than_its_folder(golden: Path, tmp_path: Path) -> None:
    """With gpt2 and the data where that program looks for them; a contradicting flag is an error all the same."""
    case = recorded(golden, "msrvtt-clipcap/transformer")
    names = ("CV_Project_Dataset/MSRVTT_TRNVAL_CLIP_FEATURES.hdf5", "CV_Project_Dataset/train_val_videodatainfo.json")
    workplace(golden, tmp_path, *names)
    shutil.copytree(case.checkpoint.parent, tmp_path / "msrvtt-checkpoints")
    infer = ["inference_vtt.py", "--model_dir", "msrvtt-checkpoints"]
    done(*infer, cwd=tmp_path)
    found = json.loads((tmp_path / "msrvtt-checkpoints" / "pred.json").read_text())
    assert found == {video: [text] for video, text in list(zip(case.ids, case.greedy, strict=True))[8:]}
    assert "--prefix_length 40 contradicts" in refused(*infer, "--prefix_length", "40", cwd=tmp_path)
    assert "--is_rn" in refused(*infer, "--is_rn", cwd=tmp_path)
    assert "no checkpoint of any prefix, epoch 10" in refused(*infer, "--epoch", "10", "--overwrite", cwd=tmp_path)


class TestHDF5:
    def reference_features(self, clip: Path) -> torch.Tensor:
        """That program's extraction, which takes every frame that OpenCV gives and keeps every (count // 28)-th."""
        from clip.clip import _transform

        capture, images = cv2.VideoCapture(str(clip)), []
        while True:
            success, image = capture.read()
            if not success:
                break
            images.append(_transform(64)(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))))
        # Where the program divides by nothing, with fewer than 28 frames, all of them are meant.
        step = max(len(images) // 28, 1)
        return tiny_clip().encode_image(torch.stack(images[::step][:28]))

    def test_is_what_that_programs_extractor_writes(self, tmp_path: Path) -> None:
        videos = tmp_path / "videos"
        videos.mkdir()
        for frames in (300, 29, 12):
            write_clip(videos / f"video{frames}.mp4", frames=frames)
        save_tiny_clip(tmp_path / "clip.pt")
        extract = [
            "extract_features.py", "--videos", videos, "--encoder", "clip.pt", "--format", "hdf5", "--sampling",
            "reference", "--device", "cpu",
        ]  # fmt: skip
        done(*extract, cwd=tmp_path)
        file = tmp_path / "MSRVTT_TRNVAL_CLIP_FEATURES.hdf5"
        with h5py.File(file) as content:
            assert sorted(content) == ["video12", "video29", "video300"]
            for frames, kept in ((300, 28), (29, 28), (12, 12)):
                found = content[f"video{frames}"]
                assert (found.shape, found.dtype) == ((kept, 48), np.float32)
                expected = self.reference_features(videos / f"video{frames}.mp4")
                assert cosine_distance(torch.from_numpy(found[()]), expected) < 1e-2
                # Frames are told apart by less than that, so the order is tested by the nearest of them.
                nearest = torch.cosine_similarity(torch.from_numpy(found[()])[:, None], expected[None], dim=-1)
                assert nearest.argmax(1).tolist() == list(range(kept))
        store = open_features(file)
        assert store.fingerprint is not None
        assert "reference 28" in str(store.fingerprint)

        # A run that was stopped, or given more videos, goes on; the file appears at its end alone.
        before = file.stat().st_mtime_ns
        file.unlink()
        (tmp_path / "MSRVTT_TRNVAL_CLIP_FEATURES" / "video29.safetensors").unlink()
        assert "1 videos done, 2 done before" in done(*extract, cwd=tmp_path).stdout
        assert open_features(file).ids() == store.ids()
        assert file.stat().st_mtime_ns != before
        assert not list(tmp_path.glob(".*"))

    def test_nothing_is_lost_without_being_asked(self, golden: Path, tmp_path: Path) -> None:
        write_clip(tmp_path / "video1.mp4")
        save_tiny_clip(tmp_path / "clip.pt")
        theirs = shutil.copy(golden / "msrvtt-clipcap" / "features.hdf5", tmp_path / "theirs.hdf5")
        before = theirs.read_bytes()
        extract = ["extract_features.py", "--videos", "video1.mp4", "--encoder", "clip.pt", "--format", "hdf5", "--out"]
        assert "features of 10 other videos" in refused(*extract, "theirs.hdf5", cwd=tmp_path)
        assert theirs.read_bytes() == before
        assert not (tmp_path / "theirs").exists()
        assert "ends in .hdf5" in refused(*extract, "features", cwd=tmp_path)
        done(*extract, "theirs.hdf5", "--overwrite", "--device", "cpu", cwd=tmp_path)
        assert open_features(theirs).ids() == ["video1"]
