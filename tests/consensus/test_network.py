"""The consensus network: what it expects of captions, against CIDEr itself; and what it does to a captioner."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import Caption
from clipcap_video.consensus.caution import content_words
from clipcap_video.consensus.config import UNSURE_BELOW
from clipcap_video.consensus.network import (
    INDEPENDENT_PEOPLE,
    Calibration,
    ConsensusConfig,
    ConsensusRanker,
    Judgement,
    NgramTable,
)
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.forced import forced_logprobs
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import stack_features
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.metrics.cider import END, CiderReward
from clipcap_video.models.checkpoint import CONSENSUS, read_config
from clipcap_video.runs.record import file_digest
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.run import prepare
from tests.cli.test_cli import no_java, run  # noqa: F401  (no_java applies here too)
from tests.conftest import TinyProject
from tests.tiny import WIDTH, captions_of, features_of, fingerprint, write_annotations, write_feature_folder

VOCABULARY = ["a", "man", "is", "riding", "on", "the", "brown", "horse", "in", "field", "and", "two", "dogs", "run"]


def predicting(ranker: ConsensusRanker, shares: torch.Tensor) -> ConsensusRanker:
    """The ranker, changed to predict these shares of every video."""
    last = ranker.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(shares.clamp(1e-9, 1 - 1e-7).logit())
    return ranker.eval()


def merit(caption: Caption) -> float:
    assert caption.expected_cider is not None
    assert caption.support is not None
    return Judgement(caption.expected_cider, caption.support, 1.0).merit(0.0)


@pytest.mark.parametrize("seed", range(4))
def test_expects_the_cider_that_comes_out_when_it_predicts_right(seed: int) -> None:
    """Of words and pairs that are equally rare, every n-gram of a caption weighs the same, and nothing is estimated:
    then, for captions of one length, the expectation is the score."""
    rng = random.Random(seed)
    # Every video has words of its own, so that all n-grams are in one video; two captions of it share some of them.
    videos = []
    for number in range(5):
        own = [f"{word}{number}" for word in VOCABULARY]
        videos.append([rng.sample(own, 7) for _ in range(3)])
    reward = CiderReward({str(number): captions for number, captions in enumerate(videos)})
    table = NgramTable.of(videos, 10_000)
    assert table.rarity.tolist() == pytest.approx([math.log(5)] * len(table.ngrams))
    ranker = ConsensusRanker(ConsensusConfig(feature_dim=3, hidden_dim=4), table)
    for number, captions in enumerate(videos):
        predicting(ranker, ranker.targets(captions))
        candidates = [rng.sample([f"{word}{number}" for word in VOCABULARY], 7) for _ in range(20)] + captions
        (found,) = ranker.judge(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), [candidates])
        assert [one.cider for one in found] == pytest.approx(reward.score(str(number), candidates), abs=1e-4)


def test_the_order_is_that_of_cider_where_weights_are_estimated() -> None:
    rng = random.Random(1)
    common = ["a", "man", "is", "riding", "on", "the", "</s>"]

    def caption(number: int) -> list[str]:
        return [*rng.sample(common[:-1], 4), *rng.sample([f"{word}{number % 9}" for word in VOCABULARY], 3), "</s>"]

    videos = [[caption(number) for _ in range(8)] for number in range(40)]
    reward = CiderReward({str(number): captions for number, captions in enumerate(videos)})
    ranker = ConsensusRanker(ConsensusConfig(feature_dim=3, hidden_dim=4), NgramTable.of(videos, 400))
    correlations = []
    for number, captions in enumerate(videos):
        predicting(ranker, ranker.targets(captions))
        candidates = [caption(other) for other in range(20)]
        (found,) = ranker.judge(torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool), [candidates])
        correlations.append(np.corrcoef([one.cider for one in found], reward.score(str(number), candidates))[0, 1])
    assert np.mean(correlations) > 0.95


def test_support_is_how_often_somebody_says_the_words() -> None:
    """Against people drawn at random who each use a word as often as was predicted, and whom nobody else influences."""
    videos = [[["a", "dog", "runs"], ["a", "cat"]], [["two", "dogs"]], [["a", "dog", "sits"]]]
    table = NgramTable.of(videos, 100)
    ranker = ConsensusRanker(ConsensusConfig(feature_dim=3, hidden_dim=4), table)
    shares = {"a": 0.9, "dog": 0.3, "runs": 0.05}
    predicting(ranker, torch.tensor([shares.get(ngram[0], 0.0) if len(ngram) == 1 else 0.0 for ngram in table.ngrams]))
    rng, draws = np.random.default_rng(0), 100_000
    rarity = {"a": math.log(3 / 2), "dog": math.log(3 / 2), "runs": math.log(3), "zebra": float(table.unknown[0])}

    def simulated(caption: str) -> float:
        words = caption.split()
        said = {word: (rng.random((draws, INDEPENDENT_PEOPLE)) < shares.get(word, 0.0)).any(1).mean() for word in words}
        return sum(rarity[word] * said[word] for word in said) / sum(rarity[word] for word in words)

    captions = ["a dog runs", "a dog", "runs", "a zebra", "a dog a dog"]
    (found,) = ranker.judge(
        torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool), [[caption.split() for caption in captions]]
    )
    assert [one.support for one in found] == pytest.approx([simulated(caption) for caption in captions], abs=0.01)
    assert found[4].support == pytest.approx(found[1].support / 2)  # what is said twice is supported once


def test_targets_are_the_shares_of_captions() -> None:
    captions = [["a", "dog", "</s>"], ["a", "cat", "</s>"], ["a", "dog", "a", "dog"]]
    ranker = ConsensusRanker(ConsensusConfig(2), NgramTable.of([captions, [["two", "dogs"]]], 100))
    shares = dict(zip(ranker.ngrams, ranker.targets(captions).tolist(), strict=True))
    assert shares[("a",)] == pytest.approx(1.0)
    assert shares[("a", "dog")] == pytest.approx(2 / 3)
    assert shares[("cat", "</s>")] == pytest.approx(1 / 3)
    assert shares[("two",)] == 0.0


def test_folded_networks_say_the_mean_of_what_each_says() -> None:
    table = NgramTable.of([[["a", "dog"]], [["a", "cat", "runs"]]], 10)
    rankers = [ConsensusRanker(ConsensusConfig(WIDTH, hidden), table).eval() for hidden in (5, 3, 8)]
    for ranker in rankers:
        ranker.mean, ranker.std = torch.arange(2.0 * WIDTH), torch.arange(1.0, 2 * WIDTH + 1)
    one = ConsensusRanker.folded(rankers)
    pooled = one.pool(torch.randn(4, 3, WIDTH), torch.ones(4, 3, dtype=torch.bool))
    torch.testing.assert_close(one(pooled), torch.stack([ranker(pooled) for ranker in rankers]).mean(0))
    assert one.config.hidden_dim == 16


def test_padded_frames_do_not_count() -> None:
    ranker = ConsensusRanker(ConsensusConfig(WIDTH), NgramTable.of([[["a", "dog"]], [["a", "cat"]]], 10))
    frames = torch.from_numpy(features_of(1, frames=3))
    padded = torch.cat([frames, torch.full((2, WIDTH), 99.0)])
    mask = torch.tensor([[True] * 3 + [False] * 2])
    assert torch.equal(ranker.pool(padded[None], mask)[0, :WIDTH], ranker.pool(frames[None], mask[:, :3])[0, :WIDTH])
    expected = torch.cat([frames.mean(0), frames.amax(0)])
    torch.testing.assert_close(ranker.pool(padded[None], mask)[0], expected)


@pytest.fixture(scope="module")
def ranked(tiny_project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner that was hardly trained, and a consensus network that was."""
    folder = tmp_path_factory.mktemp("ranked")
    features = write_feature_folder(folder / "features", range(120))
    annotations = write_annotations(folder / "videos.json", range(96), range(96, 108), range(108, 120))
    trained = run(
        "train_vtt.py", "--data", features, "--caption", annotations, "--lm", tiny_project.lm, "--out_dir",
        folder / "out", "--epochs", 3, "--bs", 8, "--num_layers", 1, "--prefix_length", 4, "--lr", "2e-3", "--lm_lr",
        "2e-3", "--device", "cpu", "--save_every", 0,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    done = run(
        "clipcap-video", "train-consensus", "--model_dir", folder / "out", "--hidden", 32, "--epochs", 40, "--bs", 16,
        "--dropout", 0.1, "--mixup", 0.2, "--lr", "1e-2", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(folder / "out" / "best" / CONSENSUS) in done.stdout
    return folder


def test_it_predicts_what_people_say(ranked: Path) -> None:
    """Of unseen videos, a caption that is right is expected to score more than one of another video."""
    ranker = ConsensusRanker.load(ranked / "out" / "best" / CONSENSUS)
    right = wrong = 0.0
    for number in range(108, 120):
        frames = torch.from_numpy(features_of(number))[None]
        captions = [[*captions_of(shown)[0].split(), END] for shown in (number, number + 1)]
        ((mine, other),) = ranker.judge(frames, torch.ones(frames.shape[:2], dtype=torch.bool), [captions])
        right, wrong = right + mine.cider, wrong + other.cider
        assert mine.support > other.support
    assert right > 2 * wrong


def test_hypotheses_come_in_its_order(ranked: Path) -> None:
    captioner = Captioner.from_pretrained(ranked / "out", device="cpu")
    store = open_features(ranked / "features")
    ids = [f"video{number}" for number in range(108, 120)]
    settings = DecodingSettings(beam_size=6, num_return=6, length_penalty=captioner.model.length_penalty)
    plain = captioner.caption_store(store, ids, DecodingSettings(**{**vars(settings), "rerank": "none"}))
    found = captioner.caption_store(store, ids, settings)
    for before, after in zip(plain, found, strict=True):
        assert sorted(caption.text for caption in before.captions) == sorted(caption.text for caption in after.captions)
        assert all(caption.expected_cider is caption.support is None for caption in before.captions)
        merits = [merit(caption) for caption in after.captions if not caption.cut]
        assert merits == sorted(merits, reverse=True)
    best = captioner.caption_store(store, ids, DecodingSettings(**{**vars(settings), "num_return": 1}))
    assert [one.text for one in best] == [one.text for one in found]
    alone = [captioner.caption_store(store, [name], settings)[0] for name in ids]
    assert [one.text for one in alone] == [one.text for one in found]


def test_inference_ranks_by_it_and_says_so(ranked: Path) -> None:
    with_it, without = ranked / "with.json", ranked / "without.json"
    for out, more in ((with_it, ()), (without, ("--use_beam_search", "--no_consensus"))):
        done = run("inference_vtt.py", "--model_dir", ranked / "out", "--split", "test", "--out", out, *more)
        assert done.returncode == 0, done.stderr
    content = json.loads(with_it.read_text())
    assert content["decoding"]["beam_size"] == 40
    assert content["decoding"]["use_beam_search"]
    assert all(entry["captions"][0]["expected_cider"] > 0 for entry in content["predictions"])
    assert all(0 < entry["captions"][0]["support"] <= 1 for entry in content["predictions"])
    record = yaml.safe_load(with_it.with_suffix(".run.yaml").read_text())["record"]
    assert record["data"]["checkpoint"]["consensus"] == file_digest(ranked / "out" / "best" / CONSENSUS)
    plain = json.loads(without.read_text())
    record = yaml.safe_load(without.with_suffix(".run.yaml").read_text())["record"]
    assert "consensus" not in record["data"]["checkpoint"]
    assert plain["decoding"]["beam_size"] == 5
    assert all(entry["captions"][0]["expected_cider"] is None for entry in plain["predictions"])
    assert all(entry["captions"][0]["support"] is None for entry in plain["predictions"])
    files = (file.with_suffix(".scores.json") for file in (with_it, without))
    scores = [json.loads(file.read_text())["CIDEr"] for file in files]
    assert scores[0] >= scores[1]


def test_training_it_again_gives_the_same_file(ranked: Path, tmp_path: Path) -> None:
    copies = []
    for name in ("a", "b"):
        shutil.copytree(ranked / "out" / "best", tmp_path / name)
        done = run("clipcap-video", "train-consensus", "--model_dir", tmp_path / name, "--epochs", 2, "--device", "cpu")
        assert done.returncode == 0, done.stderr
        copies.append((tmp_path / name / CONSENSUS).read_bytes())
    assert copies[0] == copies[1]


def test_a_run_that_goes_on_keeps_it(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked / "out", tmp_path / "out")
    last = tmp_path / "out" / "last"
    shutil.copy(tmp_path / "out" / "best" / CONSENSUS, last)
    before = (last / "model.safetensors").read_bytes()
    info = read_config(last)[1]
    going_on, resuming = prepare(TrainConfig(**(info.training | {"out_dir": tmp_path / "out", "resume": True})))
    assert resuming
    going_on.data_digest = info.progress["data_digest"]
    going_on._save("last")  # of weights that were not restored, so that they are others
    assert (last / "model.safetensors").read_bytes() != before
    assert (last / CONSENSUS).read_bytes() == (ranked / "out" / "best" / CONSENSUS).read_bytes()


def test_a_packed_and_a_saved_checkpoint_keep_it(ranked: Path, tmp_path: Path) -> None:
    before = (ranked / "out" / "best" / CONSENSUS).read_bytes()
    assert run("clipcap-video", "pack", "--model_dir", ranked / "out", "--out", tmp_path / "packed").returncode == 0
    assert (tmp_path / "packed" / CONSENSUS).read_bytes() == before
    Captioner.from_pretrained(ranked / "out", device="cpu").save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / CONSENSUS).read_bytes() == before


def test_what_cannot_be_read_is_one_sentence(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked / "out" / "best", tmp_path / "copy")
    file = tmp_path / "copy" / CONSENSUS
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ClipcapError, match=r"cannot read the consensus network .* train-consensus"):
        Captioner.from_pretrained(tmp_path / "copy", device="cpu")
    other = ConsensusRanker(ConsensusConfig(WIDTH + 1), NgramTable.of([[["a"]], [["b"]]], 10))
    other.save(file)
    with pytest.raises(ClipcapError, match=f"reads features {WIDTH + 1} wide"):
        Captioner.from_pretrained(tmp_path / "copy", device="cpu")


def test_features_of_another_kind_are_refused(ranked: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for number in range(4):
        made = fingerprint(encoder="another", weights="sha256:1")
        write_features(tmp_path / "other", f"video{number}", features_of(number, 2), np.arange(2.0), made)
    before = (ranked / "out" / "best" / CONSENSUS).read_bytes()
    words = ["clipcap-video", "train-consensus", "--model_dir", ranked / "out", "--data", tmp_path / "other"]
    assert "consensus.safetensors is there already" in run(*words).stderr
    done = run(*words, "--overwrite")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the features in")
    assert (ranked / "out" / "best" / CONSENSUS).read_bytes() == before


def test_the_threshold_of_unsure_is_kept_with_the_network(tmp_path: Path) -> None:
    table = NgramTable.of([[["a", "dog"]], [["a", "cat"]]], 10)
    for below in (UNSURE_BELOW, 0.5):
        ConsensusRanker(ConsensusConfig(WIDTH, 4, unsure_below=below), table).save(tmp_path / CONSENSUS)
        ranker = ConsensusRanker.load(tmp_path / CONSENSUS)
        judged = [Judgement(1.0, support, 0.5) for support in (below - 0.01, below)]
        assert [ranker.is_unsure(one, 0.0) for one in judged] == [True, False]


def test_a_calibration_decides_where_there_is_one(tmp_path: Path) -> None:
    table = NgramTable.of([[["a", "dog"]], [["a", "cat"]]], 10)
    fitted = (Calibration(2.0, 1.0, 0.0, 0.7), Calibration(0.0, 0.5, -1.0, 0.4))
    ConsensusRanker(ConsensusConfig(WIDTH, 4, calibrations=fitted), table).save(tmp_path / CONSENSUS)
    ranker = ConsensusRanker.load(tmp_path / CONSENSUS)
    assert ranker.config.calibrations == fitted
    assert ranker.caution == 2.0
    assert [ranker.is_unsure(Judgement(0.0, 1.0, sure), 3.0) for sure in (0.69, 0.71)] == [True, False]
    assert ranker.config.calibration(0.4) is not None
    assert fitted[1].probability(0.8) == pytest.approx(1 / (1 + np.exp(-0.5 * np.log(4) + 1)))


def test_caution_says_less() -> None:
    captioner = Captioner.from_pretrained(device="cpu", precision="fp32")
    rng = np.random.default_rng(0)
    features = [rng.uniform(0, 1, (5, captioner.model.feature_dim)).astype(np.float32) for _ in range(6)]
    bold, careful = (
        captioner.caption_features(features, replace(captioner.default_settings(), beam_size=10, caution=caution))
        for caution in (0.0, 2.0)
    )
    said = [[captioner.model.decode_tokens(one[0].tokens).split() for one in found] for found in (bold, careful)]
    assert sum(map(len, map(content_words, said[1]))) < sum(map(len, map(content_words, said[0])))
    assert any(words[0] == "someone" for words in said[1])
    alone = [
        captioner.caption_features([one], replace(captioner.default_settings(), beam_size=10, caution=2.0))[0]
        for one in features
    ]
    assert [one[0].tokens for one in alone] == [one[0].tokens for one in careful]
    # A form has the log-probability that the model gives it.
    state = captioner.model.start(*stack_features(features[:1]), 40)
    best = careful[0][0]
    expected = forced_logprobs(state, [[*best.tokens, best.stop_token or 0]])
    assert best.logprob == pytest.approx(float(expected[0]), abs=1e-3)
