"""Learning from several data sets: which file a caption is of, one spelling, captions without videos."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.models.checkpoint import load_checkpoint
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.consensus import train_consensus
from clipcap_video.training.consensus_config import ConsensusTrainConfig
from clipcap_video.training.run import prepare, train
from tests.tiny import captions_of, write_annotations, write_feature_folder, write_language_model

PICTURES = range(40, 52)


def shouted(number: int) -> str:
    """As another data set has it: the other way about, with a capital and a full stop."""
    return f"Photo of {captions_of(number)[0]} ."


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """features/, videos.json (24 training videos and 6 to validate on), pictures.csv and lm/."""
    folder = tmp_path_factory.mktemp("sets")
    write_feature_folder(folder / "features", range(52))
    write_annotations(folder / "videos.json", range(24), range(24, 30))
    with (folder / "pictures.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("video", "caption", "split"))
        for number in PICTURES:
            rows.writerow((f"video{number}", shouted(number), "validate" if number == PICTURES[-1] else "train"))
    write_language_model(folder / "lm")
    return folder


@pytest.fixture(scope="module")
def trained(two_sets: Path) -> Path:
    train(
        TrainConfig(
            data=two_sets / "features",
            caption=[two_sets / "videos.json", two_sets / "pictures.csv"],
            out_dir=two_sets / "out",
            lm=str(two_sets / "lm"),
            origin_token=True,
            lower_case=True,
            epochs=25,
            bs=6,
            num_layers=1,
            prefix_length=4,
            lr=5e-3,
            lm_lr=5e-3,
            eval_every=25,
            precision="fp32",
            device="cpu",
        )
    )
    return two_sets / "out"


def test_it_writes_as_the_first_set_does_and_knows_the_other(trained: Path, two_sets: Path) -> None:
    captioner = Captioner.from_pretrained(trained / "last", device="cpu")
    model = captioner.model
    assert isinstance(model, PrefixCaptioner)
    store = open_features(two_sets / "features")
    said = [one.captions[0].text for one in captioner.caption_store(store, [f"video{n}" for n in PICTURES])]
    assert not any(text.startswith("photo") for text in said)

    frames = torch.from_numpy(store.load("video41").features)[None]
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    texts = {0: captions_of(41)[0], 1: "photo of " + captions_of(41)[0]}
    tokens = {place: model.encode_captions([text], 40)[0] for place, text in texts.items()}
    photo = tokens[1][0]
    with torch.inference_mode():
        odds = {}
        for place in texts:
            prefix = model.prefix(frames, mask, torch.tensor([place]))
            odds[place] = model.language_model(inputs_embeds=prefix).logits[0, -1].softmax(-1)[photo].item()
    assert odds[0] < 0.1 < 0.8 < odds[1]


def test_the_token_stands_behind_the_prefix_and_in_the_checkpoint(trained: Path) -> None:
    model, _ = load_checkpoint(trained / "last")
    assert isinstance(model, PrefixCaptioner)
    assert model.config.origins == 2
    frames, mask = torch.randn(2, 3, model.config.feature_dim), torch.ones(2, 3, dtype=torch.bool)
    model.eval()
    with torch.inference_mode():
        prefix = model.prefix(frames, mask, torch.tensor([0, 1]))
        assert torch.equal(prefix[:, :-1], model.mapping(frames, mask))
        assert torch.equal(prefix[:, -1], model.origin.weight)
        assert torch.equal(model.prefix(frames, mask)[1, -1], model.origin.weight[0])


def test_one_file_needs_no_telling_apart(two_sets: Path) -> None:
    with pytest.raises(ClipcapError, match="--origin_token tells several annotation files apart, and there is one"):
        TrainConfig(caption=[two_sets / "videos.json"], data=two_sets / "features", origin_token=True)


def test_only_the_first_set_is_validated_on(two_sets: Path, tmp_path: Path) -> None:
    both = [two_sets / "videos.json", two_sets / "pictures.csv"]
    for origin_token, count in ((True, 6), (False, 7)):
        config = TrainConfig(
            data=two_sets / "features", caption=both, out_dir=tmp_path / "out", lm=str(two_sets / "lm"),
            num_layers=1, device="cpu", lower_case=True, origin_token=origin_token,
        )  # fmt: skip
        run, _ = prepare(config)
        assert len(run.validation) == count
        assert "photo of a man is riding a horse" in [text for texts in run.train_data.texts for text in texts]


def test_the_first_set_is_learned_from(two_sets: Path) -> None:
    """By its place among the files with captions; one that lists splits has none."""
    (two_sets / "train_list.txt").write_text("video0\nvideo40\n")
    listed = [two_sets / "train_list.txt", two_sets / "videos.json", two_sets / "pictures.csv"]
    assert {record.video_id: record.origin for record in read_annotations(listed)} == {"video0": 0, "video40": 1}
    write_annotations(two_sets / "nothing_to_train.json", range(0), range(24, 30))
    config = TrainConfig(
        data=two_sets / "features", caption=[two_sets / "nothing_to_train.json", two_sets / "pictures.csv"],
        out_dir=two_sets / "none", lm=str(two_sets / "lm"), num_layers=1, device="cpu", origin_token=True,
    )  # fmt: skip
    with pytest.raises(
        ClipcapError, match=r"nothing_to_train\.json, whose captions --origin_token writes like, has no"
    ):
        prepare(config)


def test_the_consensus_network_learns_from_both_and_speaks_as_the_first(trained: Path) -> None:
    file, _, validation = train_consensus(
        ConsensusTrainConfig(model_dir=trained / "last", ngrams=80, networks=2, epochs=6, device="cpu", overwrite=True)
    )
    assert {record.origin for record in validation} == {0}
    captioner = Captioner.from_pretrained(file.parent, device="cpu")
    ranker = captioner.ranker
    assert ranker is not None
    assert ("photo",) in ranker.known  # after those of the first set
    assert ranker.known[("photo",)] >= 80
    frames = torch.randn(1, 4, ranker.config.feature_dim)
    shares = ranker(ranker.pool(frames, torch.ones(1, 4, dtype=torch.bool))).sigmoid()[0]
    assert shares[ranker.known[("photo",)]] < 0.05
    assert shares[ranker.known[("a",)]] > 0.5


def test_a_file_without_training_videos_between_others_changes_no_network(trained: Path, two_sets: Path) -> None:
    write_annotations(two_sets / "middle.json", range(0), range(30, 32))
    networks = []
    for between in ([], [two_sets / "middle.json"]):
        config = ConsensusTrainConfig(
            model_dir=trained / "last", caption=[two_sets / "videos.json", *between, two_sets / "pictures.csv"],
            ngrams=80, networks=1, epochs=2, device="cpu", overwrite=True,
        )  # fmt: skip
        networks.append(train_consensus(config)[0].read_bytes())
    assert networks[0] == networks[1]
