"""Predicted words and retrieved captions as a prompt: what training, decoding and checkpoints make of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.results import decided_by
from clipcap_video.consensus.caution import content_words, stem
from clipcap_video.consensus.memory import CaptionMemory
from clipcap_video.consensus.network import ConsensusRanker
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.search import decode
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import stack_features
from clipcap_video.models.checkpoint import CONSENSUS, check_loads, load_checkpoint, pack_checkpoint
from clipcap_video.models.language_model import create_language_model
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.models.prompt import CANDIDATES, CAPTION_TOKENS, MEMORY, WORDS, prompt_lengths
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.consensus import train_consensus
from clipcap_video.training.consensus_config import ConsensusTrainConfig
from clipcap_video.training.run import CaptioningRun, prepare, train
from tests.conftest import TinyProject
from tests.interrupted import differing_weights
from tests.tiny import captions_of, features_of, write_annotations, write_feature_folder, write_language_model

OWN = ("zebra", "piano", "rocket", "violin", "bridge", "pizza", "river", "candle", "guitar", "tiger", "wagon", "apple")
WORD_ROOM, CAPTION_ROOM = prompt_lengths(4, 2)


def config(project: TinyProject, out: Path, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "data": project.data, "caption": [project.caption], "out_dir": out, "lm": str(project.lm), "epochs": 2, "bs": 8,
        "num_layers": 1, "prefix_length": 4, "lr": 3e-3, "lm_lr": 1e-3, "precision": "fp32", "device": "cpu",
        "dropout": 0.0, "predicted_words": 4, "memory": 2,
    }  # fmt: skip
    return TrainConfig(**(options | changes))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """Every training video has a word of its own, in each of its captions."""
    folder = tmp_path_factory.mktemp("planted")
    caption = write_annotations(folder / "videos.json", range(12), range(24, 30))
    content = json.loads(caption.read_text())
    for sentence in content["sentences"]:
        number = int(sentence["video_id"].removeprefix("video"))
        if number < len(OWN):
            sentence["caption"] += f" near a {OWN[number]}"
    caption.write_text(json.dumps(content))
    texts = [sentence["caption"] for sentence in content["sentences"]]
    create_language_model(texts * 3, folder / "lm", vocab_size=500, layers=2, width=32, heads=4)
    return TinyProject(write_feature_folder(folder / "features", range(36)), caption, folder / "lm")


@pytest.fixture(scope="module")
def prepared(project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> CaptioningRun:
    run, _ = prepare(config(project, tmp_path_factory.mktemp("prepared") / "out"))
    return run


@pytest.fixture(scope="module")
def trained(project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    train(config(project, out, epochs=25, bs=4, eval_every=25, save_every=0, lr=5e-3, lm_lr=5e-3))
    return out


def model_of(run: CaptioningRun) -> PrefixCaptioner:
    assert isinstance(run.captioner, PrefixCaptioner)
    return run.captioner


def batch_of(numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return stack_features([features_of(number) for number in numbers])


def parts_of(model: PrefixCaptioner, prompt: torch.Tensor) -> tuple[list[str], list[str]]:
    """The words of a prompt [H], and its captions."""
    end = model.tokenizer.eos_token_id

    def text(tokens: torch.Tensor) -> str:
        return model.tokenizer.decode([token for token in tokens.tolist() if token != end]).strip()

    return text(prompt[:WORD_ROOM]).split(), [text(part) for part in prompt[WORD_ROOM:].split(CAPTION_TOKENS)]


class TestTrainingPrompts:
    def test_no_video_is_told_by_what_it_alone_has(self, prepared: CaptioningRun) -> None:
        model, data = model_of(prepared), prepared.train_data
        assert data.prompts is not None
        assert data.prompts.shape == (12, model.config.prompt_length) == (12, WORD_ROOM + CAPTION_ROOM)
        others = 0
        for video, prompt in zip(data.video_ids, data.prompts, strict=True):
            words, captions = parts_of(model, prompt)
            own = OWN[int(video.removeprefix("video"))]
            said = " ".join(words + captions)
            assert own not in said
            assert len(words) == 4
            assert all(captions)
            others += sum(word in said for word in OWN)
        assert others >= 12  # captions of other videos, whose words they tell

    def test_every_part_is_read_by_a_network_without_it(
        self, project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rankers: list[ConsensusRanker] = []
        prompt_with = PrefixCaptioner.prompt_with

        def recorded(self: PrefixCaptioner, ranker: ConsensusRanker, memory: Any) -> Any:
            rankers.append(ranker)
            return prompt_with(self, ranker, memory)

        monkeypatch.setattr(PrefixCaptioner, "prompt_with", recorded)
        prepare(config(project, tmp_path / "out", memory=0))
        known = [{word for word in OWN if (word,) in ranker.known} for ranker in rankers]
        assert known[-1] == set(OWN)
        assert [len(one) for one in known[:-1]] == [9, 9, 9, 9]
        assert [sum(word not in one for one in known[:-1]) for word in OWN] == [1] * 12

    def test_they_follow_from_data_and_seed(
        self, prepared: CaptioningRun, project: TinyProject, tmp_path: Path
    ) -> None:
        prompts = [prepare(config(project, tmp_path / "out", seed=seed))[0].train_data.prompts for seed in (0, 1)]
        assert prepared.train_data.prompts is not None
        assert prompts[0] is not None
        assert prompts[1] is not None
        assert torch.equal(prompts[0], prepared.train_data.prompts)
        assert not torch.equal(prompts[1], prepared.train_data.prompts)

    def test_with_an_origin_token_they_are_of_the_first_file(self, project: TinyProject, tmp_path: Path) -> None:
        other = tmp_path / "other.csv"
        rows = [f"video{number},photo of {captions_of(number)[0]},train" for number in range(12, 24)]
        other.write_text("\n".join(["video,caption,split", *rows]))
        run, _ = prepare(config(project, tmp_path / "out", caption=[project.caption, other], origin_token=True))
        model = model_of(run)
        assert run.train_data.prompts is not None
        assert len(run.train_data.prompts) == 24
        for prompt in run.train_data.prompts:
            words, captions = parts_of(model, prompt)
            assert not any("photo" in text for text in words + captions)
        assert model.prompter is not None
        assert ("photo",) in model.prompter.ranker.known
        assert model.prefix(*batch_of([30])).shape[1] == 4 + WORD_ROOM + CAPTION_ROOM + 1


def test_the_words_are_the_likeliest_of_each_stem(prepared: CaptioningRun) -> None:
    model = model_of(prepared)
    prompter = model.prompter
    assert prompter is not None
    shares = prompter.shares(*batch_of([24, 25, 26]))
    for row, found in zip(shares.tolist(), prompter.likeliest(shares), strict=True):
        one_word = {
            ngram[0]: share for ngram, share in zip(prompter.ranker.ngrams, row, strict=True) if len(ngram) == 1
        }
        by_hand: dict[str, str] = {}
        for word in sorted(one_word, key=lambda word: -one_word[word]):
            if content_words([word]) and len(model.tokenizer(f" {word}")["input_ids"]) <= 3:
                by_hand.setdefault(stem(word), word)
        assert [word for word, _ in found] == list(by_hand.values())[: len(found)]
        assert [tokens for _, tokens in found] == [model.tokenizer(f" {word}")["input_ids"] for word, _ in found]
        assert len(found) == 4


def embedded(model: PrefixCaptioner, features: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """What stands before a caption, [1, P, E], put together by hand."""
    embed = model.language_model.get_input_embeddings()
    kinds = [model.prompt_kind[0]] * WORD_ROOM + [model.prompt_kind[1]] * CAPTION_ROOM
    rows = [embed(token) + kind for token, kind in zip(prompt, kinds, strict=True)]
    prefix = model.mapping(features[None], torch.ones(1, len(features), dtype=torch.bool))
    return torch.cat([prefix, torch.stack(rows)[None]], dim=1)


@torch.no_grad()
def test_the_loss_is_that_of_one_caption_at_a_time(prepared: CaptioningRun) -> None:
    model, data = model_of(prepared).eval(), prepared.train_data
    assert data.prompts is not None
    torch.nn.init.normal_(model.prompt_kind)
    indices = [0, 5, 9]
    batch = data.batch(indices, lambda index: data.captions[index])
    total = count = 0.0
    for index in indices:
        (frames,) = data.features([index])
        before = embedded(model, torch.from_numpy(frames), data.prompts[index])
        for tokens in data.captions[index]:
            read = model.language_model.get_input_embeddings()(torch.tensor(tokens[:-1]))[None]
            logits = model.language_model(inputs_embeds=torch.cat([before, read], dim=1)).logits[0]
            total += F.cross_entropy(logits[before.shape[1] - 1 :], torch.tensor(tokens), reduction="sum").item()
            count += len(tokens)
    assert model(batch).item() == pytest.approx(total / count, rel=1e-5)


@torch.no_grad()
def test_a_caption_is_what_a_plain_loop_writes(trained: Path) -> None:
    model, _ = load_checkpoint(trained / "last")
    assert isinstance(model, PrefixCaptioner)
    assert model.prompter is not None
    assert float(model.prompt_kind.abs().min()) > 0  # learned
    numbers = [24, 25, 26, 27]
    features, mask = batch_of(numbers)
    settings = DecodingSettings(entry_length=15, use_beam_search=False, complete=False)
    written = decode(model.start(features, mask, 15), len(numbers), model.stop_tokens, settings)
    embed = model.language_model.get_input_embeddings()
    for number, (hypothesis, *_) in zip(numbers, written, strict=True):
        frames, one = batch_of([number])
        prompt = model.prompter.tokens(model.prompter.shares(frames, one))[0]
        read, tokens = embedded(model, frames[0], prompt), []
        while len(tokens) < 15:
            token = model.language_model(inputs_embeds=read).logits[0, -1].argmax()
            if token == model.tokenizer.eos_token_id:
                break
            tokens.append(int(token))
            read = torch.cat([read, embed(token)[None, None]], dim=1)
        assert hypothesis.tokens == tokens


def test_checkpoints_hold_all_of_it(trained: Path, tmp_path: Path) -> None:
    captioner = Captioner.from_pretrained(trained, device="cpu")
    assert "4 predicted words, 2 captions of other videos" in repr(captioner)
    videos = [features_of(number) for number in range(24, 30)]
    said = [[one.tokens for one in row] for row in captioner.caption_features(videos)]
    captioner.save_pretrained(tmp_path / "saved")
    pack_checkpoint(trained / "best", tmp_path / "packed")
    for name in ("saved", "packed"):
        for file in (WORDS, MEMORY):
            assert (tmp_path / name / file).read_bytes() == (trained / "best" / file).read_bytes()
    again = Captioner.from_pretrained(tmp_path / "saved", device="cpu")
    assert [[one.tokens for one in row] for row in again.caption_features(videos)] == said
    assert len(Captioner.from_pretrained(tmp_path / "packed", device="cpu").caption_features(videos)) == 6


def test_a_log_of_captions_knows_words_and_memory(trained: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(trained / "best", tmp_path / "changed")
    memory = CaptionMemory.load(changed / MEMORY, len(ConsensusRanker.load(changed / WORDS).ngrams), "")
    replace(memory, texts=["a whale", *memory.texts[1:]]).save(changed / MEMORY)
    one, other = (
        decided_by(captioner, captioner.default_settings())
        for captioner in (Captioner.from_pretrained(folder, device="cpu") for folder in (trained, changed))
    )
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == {"model", "memory"}  # its path, and what it holds


def test_a_run_resumes_to_the_bit(project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config_of(out: Path, **resume: Any) -> TrainConfig:
        return config(project, out, dropout=0.2, eval_every=0, save_every=0, **resume)

    assert differing_weights(config_of, tmp_path, monkeypatch, stop_after=1) == []


def test_a_run_starts_from_such_a_captioner(trained: Path, project: TinyProject, tmp_path: Path) -> None:
    options = {"data": project.data, "caption": [project.caption], "init_from": trained, "device": "cpu"}
    run, _ = prepare(TrainConfig(out_dir=tmp_path / "out", **options))
    assert (run.config.predicted_words, run.config.memory) == (4, 2)
    assert run.train_data.prompts is not None
    with pytest.raises(ClipcapError, match=r"--predicted_words 5 differs from the 4 of .*leave it out"):
        TrainConfig(out_dir=tmp_path / "out", predicted_words=5, **options)
    with pytest.raises(ClipcapError, match="reads a prompt of words, with which --objective scst cannot sample"):
        TrainConfig(out_dir=tmp_path / "out", objective="scst", **options)


def test_a_captioner_that_has_none_learns_to_read_one(tiny_project: TinyProject, tmp_path: Path) -> None:
    """All else is the captioner that it starts from; what a prompt says is told by nothing yet."""
    train(config(tiny_project, tmp_path / "first", predicted_words=0, memory=0, epochs=1, eval_every=0))
    before, _ = load_checkpoint(tmp_path / "first" / "last")
    options = {"data": tiny_project.data, "caption": [tiny_project.caption], "device": "cpu", "epochs": 1}
    started = TrainConfig(out_dir=tmp_path / "out", init_from=tmp_path / "first", predicted_words=4, **options)
    run, _ = prepare(started)
    model = model_of(run)
    assert (model.config.predicted_words, model.config.memory) == (4, 0)
    assert not model.prompt_kind.any()
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.state_dict().items())
    train(started)
    again, _ = load_checkpoint(tmp_path / "out" / "last")
    assert isinstance(again, PrefixCaptioner)
    assert again.prompt_kind[0].any()


def test_a_captioner_without_writes_no_more_than_before(tiny_project: TinyProject, tmp_path: Path) -> None:
    train(config(tiny_project, tmp_path, predicted_words=0, memory=0, epochs=1, eval_every=0))
    assert not {WORDS, MEMORY} & {file.name for file in (tmp_path / "last").iterdir()}
    model, _ = load_checkpoint(tmp_path / "last")
    assert not any("prompt" in name for name in model.state_dict())


@pytest.mark.parametrize(
    "changes",
    [{"model": "lstm", "lm": None, "prefix_length": None, "num_layers": None, "lm_lr": None}, {"recipe": "reference"},
     {"text_only": True}, {"objective": "scst"}],
)  # fmt: skip
@pytest.mark.parametrize("option", ["predicted_words", "memory"])
def test_where_there_can_be_none(project: TinyProject, tmp_path: Path, changes: dict[str, Any], option: str) -> None:
    options: dict[str, Any] = {"predicted_words": None, "memory": None, option: 3, **changes}
    with pytest.raises(ClipcapError, match=f"--{option} (belongs to --model prefix|has no effect with --)"):
        config(project, tmp_path / "out", **options)


def test_too_few_videos_are_refused(project: TinyProject, tmp_path: Path) -> None:
    few = write_annotations(tmp_path / "few.json", range(7), range(24, 30))
    with pytest.raises(ClipcapError, match=r"need 8 training videos or more .* there are 7"):
        prepare(config(project, tmp_path / "out", caption=[few]))


@pytest.mark.parametrize("file", [WORDS, MEMORY])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_damaged_parts_are_refused(trained: Path, tmp_path: Path, file: str, damage: str) -> None:
    place = shutil.copytree(trained / "best", tmp_path / "model") / file
    whole = place.read_bytes()
    place.unlink()
    if damage == "cut":
        place.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClipcapError, match=rf"{file} .*the checkpoint is damaged, use another"):
        load_checkpoint(tmp_path / "model")


def test_they_are_looked_at_where_the_language_model_is_elsewhere(project: TinyProject, tmp_path: Path) -> None:
    """A frozen one that would have to be fetched."""
    train(config(project, tmp_path, only_prefix=True, lm_lr=None, epochs=1, eval_every=0, save_every=0))
    file = tmp_path / "last" / "config.json"
    file.write_text(file.read_text().replace(str(project.lm.resolve()), "nobody/nothing"))
    check_loads(tmp_path / "last")
    (tmp_path / "last" / MEMORY).unlink()
    with pytest.raises(ClipcapError, match=f"{MEMORY} .*the checkpoint is damaged, use another"):
        check_loads(tmp_path / "last")


def test_a_configuration_of_no_prompt_is_refused(trained: Path, tmp_path: Path) -> None:
    file = shutil.copytree(trained / "best", tmp_path / "model") / "config.json"
    content = json.loads(file.read_text())
    content["captioner"]["memory"] = -2
    file.write_text(json.dumps(content))
    with pytest.raises(ClipcapError, match="a prompt of 4 words and -2 captions"):
        load_checkpoint(tmp_path / "model")


@pytest.fixture(scope="module")
def ranking(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captioner with a consensus network of its own."""
    folder = shutil.copytree(trained / "best", tmp_path_factory.mktemp("ranking") / "model")
    train_consensus(ConsensusTrainConfig(model_dir=folder, networks=1, epochs=20, lr=1e-2, hidden=16, device="cpu"))
    assert (folder / CONSENSUS).exists()
    return folder


def test_captions_of_the_memory_compete_with_the_beams(ranking: Path) -> None:
    captioner = Captioner.from_pretrained(ranking, device="cpu")
    model = captioner.model
    assert isinstance(model, PrefixCaptioner)
    assert model.prompter is not None
    features, mask = batch_of([24, 25])
    remembered = model.remembered(features, mask)
    assert all(0 < len(texts) <= CANDIDATES for texts in remembered)
    settings = DecodingSettings(beam_size=3, num_return=3)
    beams = captioner.caption_features([features_of(24), features_of(25)], DecodingSettings(
        beam_size=3, num_return=3, rerank="none"
    ))  # fmt: skip
    ranked = captioner.caption_features([features_of(24), features_of(25)], settings)
    seen = 0
    for before, after, texts in zip(beams, ranked, remembered, strict=True):
        said = [model.decode_tokens(one.tokens) for one in before]
        for one in after:
            text = model.decode_tokens(one.tokens)
            assert text in said + texts
            seen += text not in said
            assert one.ended
            assert np.isfinite(one.logprob)
        expected = [one.expected_cider for one in after]
        assert None not in expected
    assert seen  # 3 beams of a captioner that was hardly trained


def test_a_lora_captioner_has_prompts_too(tiny_project: TinyProject, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    frozen = {"lora_rank": 2, "objective": "xe", "memory": 0, "epochs": 1, "eval_every": 0}
    train(config(tiny_project, tmp_path / "out", **frozen))
    model, _ = load_checkpoint(tmp_path / "out" / "last")
    assert isinstance(model, PrefixCaptioner)
    assert model.prefix(*batch_of([1, 2])).shape[1] == 4 + WORD_ROOM


def test_what_is_too_long_for_the_language_model_is_refused(tmp_path: Path, project: TinyProject) -> None:
    write_language_model(tmp_path / "lm")
    with pytest.raises(ClipcapError, match=r"positions of the language model; lower .* prefix length or the prompt"):
        prepare(config(project, tmp_path / "out", memory=1000))
