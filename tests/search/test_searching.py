"""`clipcap-video search` as a user types it, on clips and a tiny CLIP, against the CLIP itself."""

from __future__ import annotations

from pathlib import Path

import clip
import numpy as np
import pytest
import torch

from clipcap_video.errors import ClipcapError
from clipcap_video.features.hdf5 import write_hdf5
from clipcap_video.features.layouts import open_features
from clipcap_video.retrieval.model import RetrievalModel
from clipcap_video.search.searching import VideoSearch
from tests.commands import refused, run
from tests.search.conftest import TEXT, Library, find, retrieval_model
from tests.tiny_clip import tiny_clip


def expected(features: Path, query: np.ndarray, rank_by: str) -> list[tuple[str, float, dict[float, float]]]:
    """(video, score, time of each frame -> its cosine), best first, by a loop over the features."""
    store = open_features(features)
    found = []
    for video_id in store.ids():
        video = store.load(video_id)
        assert video.timestamps is not None
        frames = video.features / np.linalg.norm(video.features, axis=1, keepdims=True)
        cosines = frames @ query / np.linalg.norm(query)
        mean = frames.mean(axis=0)
        of_video = float(mean @ query / np.linalg.norm(mean) / np.linalg.norm(query))
        score = float(cosines.max()) if rank_by == "moment" else of_video
        found.append((video_id, score, dict(zip(video.timestamps.round(3).tolist(), cosines.tolist(), strict=True))))
    return sorted(found, key=lambda item: -item[1])


def same(results: list[dict], wanted: list[tuple[str, float, dict[float, float]]]) -> None:
    assert [found["rank"] for found in results] == list(range(1, len(results) + 1))
    for found, (_, score, _) in zip(results, wanted, strict=True):
        assert found["score"] == pytest.approx(score, abs=2e-3)
    # Scores closer than float16 can tell may change places, those of two frames of a video, too.
    by_id = {video: (score, cosines) for video, score, cosines in wanted}
    for found in results:
        score, cosines = by_id[found["video"]]
        assert found["score"] == pytest.approx(score, abs=2e-3)
        nearest = min(cosines, key=lambda time: abs(time - found["time"]))
        assert found["time"] == pytest.approx(nearest, abs=1e-3)
        assert cosines[nearest] > max(cosines.values()) - 2e-3


@pytest.mark.parametrize("rank_by", ["moment", "video"])
def test_a_text_finds_what_clip_says(library: Library, rank_by: str) -> None:
    with torch.no_grad():
        query = tiny_clip().encode_text(clip.tokenize([TEXT]))[0].numpy()
    wanted = expected(library.features, query, rank_by)
    same(find(library, TEXT, "--rank_by", rank_by, "--top", 12), wanted)
    assert len(find(library, TEXT, "--rank_by", rank_by)) == 10
    best = find(library, TEXT, "--rank_by", rank_by, "--top", 1)
    assert best[0]["video"] == wanted[0][0]


def test_a_video_finds_itself_and_its_like(library: Library, tmp_path: Path) -> None:
    frames = open_features(library.features).load("video7").features
    query = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).mean(axis=0)
    wanted = expected(library.features, query, "video")
    copy = tmp_path / "holiday.mp4"
    copy.write_bytes((library.videos / "video7.mp4").read_bytes())
    found = find(library, "--like", copy, "--rank_by", "video", "--top", 12)
    same(found, wanted)
    assert found[0]["video"] == "video7"
    assert found[0]["score"] == pytest.approx(1, abs=1e-3)
    others = find(library, "--like", "video7", "--rank_by", "video", "--top", 12)
    assert [hit["video"] for hit in others] == [hit["video"] for hit in found[1:]]


def test_features_that_change_are_found(library: Library, tmp_path: Path) -> None:
    features = tmp_path / "features"
    features.mkdir()
    for name in ("video1", "video2"):
        (features / f"{name}.safetensors").write_bytes((library.features / f"{name}.safetensors").read_bytes())
    own = Library(library.videos, features, library.clip)
    assert {hit["video"] for hit in find(own, TEXT)} == {"video1", "video2"}
    (features / "video2.safetensors").unlink()
    (features / "video9.safetensors").write_bytes((library.features / "video9.safetensors").read_bytes())
    assert {hit["video"] for hit in find(own, TEXT)} == {"video1", "video9"}
    other = tmp_path / "elsewhere"
    find(own, TEXT, "--index_dir", other)
    assert (other / "plain.index").exists()


def test_hdf5_features_need_the_encoder_by_name_where_they_do_not_say(library: Library, tmp_path: Path) -> None:
    import h5py

    file = tmp_path / "old.hdf5"
    write_hdf5(open_features(library.features), file)
    with h5py.File(file, "r+") as opened:
        del opened.attrs["fingerprint"]
    assert "name it with --encoder" in refused("clipcap-video", "search", TEXT, "--features", file)
    own = Library(library.videos, file, library.clip)
    found = find(own, TEXT, "--encoder", library.clip)
    assert [hit["video"] for hit in found] == [hit["video"] for hit in find(library, TEXT)]
    assert found[0]["time"] is None
    done = run("clipcap-video", "search", TEXT, "--features", file, "--encoder", library.clip, "--top", 1)
    assert f"frame {found[0]['frame'] + 1}" in done.stdout


@pytest.mark.parametrize("sim_header", ["meanP", "seqLSTM", "seqTransf"])
def test_a_retrieval_model_ranks_as_its_head_does(library: Library, tmp_path: Path, sim_header: str) -> None:
    folder = retrieval_model(library, tmp_path / "model", sim_header)
    model = RetrievalModel.from_pretrained(folder, "cpu")
    store = open_features(library.features)
    frames = torch.from_numpy(np.stack([store.load(video_id).features[[0, 2, 4]] for video_id in store.ids()]))
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    similarity = model.similarity(model.embed_text([TEXT]), model.embed_frames(frames, mask), mask)[0]
    best = similarity.argsort(descending=True)
    found = find(library, TEXT, "--model_dir", folder, "--rank_by", "video", "--top", 12)
    scale = model.head.logit_scale
    assert scale is not None
    np.testing.assert_allclose(
        [hit["score"] for hit in found], (similarity / scale.detach().exp())[best].tolist(), atol=1e-3
    )
    assert found[0]["video"] == store.ids()[int(best[0])]
    like = find(library, "--like", library.videos / "video4.mp4", "--model_dir", folder, "--rank_by", "video")
    assert (like[0]["video"], round(like[0]["score"], 2)) == ("video4", 1.0)


def test_each_model_has_an_index_of_its_own(library: Library, tmp_path: Path) -> None:
    one, other = (retrieval_model(library, tmp_path / head, head) for head in ("meanP", "seqTransf"))
    keys = [VideoSearch(library.features, model, device="cpu").index.path for model in (None, one, other)]
    assert len(set(keys)) == 3
    assert VideoSearch(library.features, one, device="cpu").index.path == keys[1]


def test_an_encoder_without_texts_says_what_to_do(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcap_video.encoders.base import ImageEncoder
    from clipcap_video.encoders.clip import ClipEncoder

    monkeypatch.setattr(ClipEncoder, "encode_text", ImageEncoder.encode_text)
    with pytest.raises(
        ClipcapError, match=r"no text side; .*; or make a model .*clipcap-video train-retrieval .* --model_dir"
    ):
        VideoSearch(library.features, device="cpu").by_text(TEXT)
