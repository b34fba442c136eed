"""What holds for the options of every command: unset, bounds, choices, and what has no effect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import yaml

from clipcap_video.captioning.config import InferConfig
from clipcap_video.cli import COMMANDS
from clipcap_video.errors import ClipcapError
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.runs.options import ANY, Options, _check_value, option, option_fields, option_hints
from clipcap_video.training.config import TrainConfig
from tests.commands import refused, run
from tests.conftest import TinyProject


@dataclass
class Kettle(Options):
    heat: Literal["gas", "coal"] = option("gas", "What heats it.")
    litres: float = option(1.5, "How much it holds.", above=0, most=5)
    cups: int = option(1, "Cups to fill.", least=1, free=True)
    shovel: str | None = option(None, "For the coal.", needs={"heat": "coal"})
    spark: bool = option(False, "Light it.", unless={"heat": "coal"})
    sugar: int = option(2, "Lumps in the tea.", needs={"tea": ANY})
    tea: Path | None = option(None, "The tin.")
    tins: list[Path] | None = option(None, "More of them.")


class TestRules:
    def test_unset_is_the_default_and_none_is_unset(self) -> None:
        kettle = Kettle(cups=None, litres=1.5)
        assert (kettle.heat, kettle.cups, kettle.litres, kettle.given) == ("gas", 1, 1.5, {"litres"})

    def test_paths_may_be_texts(self) -> None:
        kettle = Kettle(tea="tin", tins="a")
        assert (kettle.tea, kettle.tins) == (Path("tin"), [Path("a")])

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"litres": 0}, "--litres must be above 0 and at most 5, not 0"),
            ({"litres": 5.5}, "--litres must be above 0 and at most 5, not 5.5"),
            ({"litres": math.nan}, "--litres must be"),
            ({"cups": 0}, "--cups must be at least 1, not 0"),
            ({"heat": "wood"}, "--heat must be one of gas, coal, not 'wood'"),
            ({"shovel": "large"}, "--shovel belongs to --heat coal; leave it out, or give that too"),
            ({"heat": "coal", "spark": True}, "--spark has no effect with --heat coal; leave it out"),
            ({"sugar": 3}, "--sugar belongs to --tea; leave it out"),
        ],
    )
    def test_what_makes_no_sense_is_one_sentence(self, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ClipcapError) as error:
            Kettle(**values)
        assert str(error.value).startswith(sentence)

    def test_what_has_an_effect_is_taken(self) -> None:
        assert Kettle(heat="coal", shovel="large", tea="tin", sugar=3).sugar == 3

    def test_a_record_may_be_given_back(self) -> None:
        kettle = Kettle(heat="coal", cups=3)
        assert Kettle(**kettle.to_json()).to_json() == kettle.to_json()
        assert kettle.differences(Kettle(heat="coal").to_json()) == []  # cups are free
        assert kettle.differences(Kettle().to_json()) == ["heat"]
        # What had no effect in an earlier run, before that was refused, is no difference.
        assert Kettle().differences({"heat": "gas", "shovel": "large"}) == []


TRAIN = [
    (["--samples", "7"], "--samples belongs to --objective scst"),
    (["--samples", "5"], "--samples belongs to --objective scst"),  # the default, but it was typed
    (["--sample_top_p", "0.5"], "--sample_top_p belongs to --objective scst"),
    (["--baseline", "greedy"], "--baseline belongs to --objective scst"),
    (["--text_encoder", "x"], "--text_encoder belongs to --objective contrastive"),
    (["--mapping_type", "mlp", "--num_layers", "4"], "--num_layers has no effect with --mapping_type mlp"),
    (["--only_prefix", "--lm_lr", "1e-3"], "--lm_lr has no effect with --only_prefix"),
    (["--only_prefix", "--lora_rank", "4"], "--lora_rank has no effect with --only_prefix"),
    (["--model", "lstm", "--retrieval_loss", "1"], "--retrieval_loss belongs to --model prefix"),
    (["--eval_every", "0", "--eval_beam_size", "2"], "--eval_beam_size has no effect with --eval_every 0"),
    (["--objective", "contrastive"], "give it with --retrieval_loss"),
]
STORED = ("max_words 9", "feature_framerate 2", "workers 3", "pretrained_clip_name ViT-B/16", "linear_patch 3d",
          "freeze_layer_num 3", "coef_lr 0.1")  # fmt: skip
FRAMES = ("text_encoder x", "dim 9", "dropout 0.3")


class TestNoEffect:
    @pytest.mark.parametrize(("words", "sentence"), TRAIN)
    def test_in_training(self, words: list[str], sentence: str) -> None:
        assert sentence in refused("train_vtt.py", *words)

    @pytest.mark.parametrize("option", STORED)
    def test_of_frames_in_retrieval_on_stored_features(self, option: str) -> None:
        name, value = option.split()
        assert f"--{name} belongs to --videos" in refused("clipcap-video", "train-retrieval", f"--{name}", value)

    @pytest.mark.parametrize("option", FRAMES)
    def test_of_stored_features_in_retrieval_from_frames(self, option: str) -> None:
        name, value = option.split()
        said = refused("clipcap-video", "train-retrieval", "--videos", "v", f"--{name}", value)
        assert f"--{name} has no effect with --videos v" in said

    def test_of_layers_in_retrieval_by_the_mean(self) -> None:
        with pytest.raises(ClipcapError, match="--cross_num_hidden_layers has no effect with --sim_header meanP"):
            RetrievalTrainConfig(cross_num_hidden_layers=2)
        assert RetrievalTrainConfig(cross_num_hidden_layers=2, sim_header="seqTransf").cross_num_hidden_layers == 2

    def test_in_inference(self) -> None:
        for name in ("encoder", "report"):
            with pytest.raises(ClipcapError, match=f"--{name} belongs to --videos"):
                InferConfig(**{name: "x"})
        with pytest.raises(ClipcapError, match="--split has no effect with --videos v"):
            InferConfig(videos="v", split="test")

    def test_a_record_of_before_is_read_as_before(
        self, tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An earlier version let options pass that had no effect, and named all in its record."""
        import clipcap_video.training.run as captioning

        seen: list[TrainConfig] = []

        def stop(config: TrainConfig) -> None:
            seen.append(config)
            raise ClipcapError("enough")

        monkeypatch.setattr(captioning, "train", stop)
        options = {"mapping_type": "mlp", "num_layers": 3, "samples": 9, "objective": "xe", "retrieval_loss": 0.5,
                   "text_encoder": "x", "cell": "lstm", "lr": 1e-4, "lm_lr": 1e-3, "model": "prefix"}  # fmt: skip
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(options | {"record": {"command": "train"}}))
        run("train_vtt.py", "--config", file)
        (config,) = seen
        assert (config.num_layers, config.samples, config.text_encoder, config.lm_lr) == (8, 5, "x", 1e-3)
        assert (config.objective, config.retrieval_loss) == ("contrastive", 0.5)
        assert config.differences(options) == []
        file.write_text(yaml.safe_dump(options))  # no record: somebody chose them
        assert "--num_layers has no effect" in refused("train_vtt.py", "--config", file)
        # What is chosen in a record and has no effect with what is typed is refused, too.
        file.write_text(yaml.safe_dump({"prefix_length": 4, "num_layers": 8, "record": {"command": "train"}}))
        assert "--prefix_length belongs to --model prefix" in refused(
            "train_vtt.py", "--config", file, "--model", "lstm"
        )


def test_dashes_are_taken_for_underscores(tmp_path: Path) -> None:
    dashed = refused("inference_vtt.py", "--model-dir", tmp_path / "nowhere", "--beam-size", "3", "--use-beam-search")
    assert dashed == refused("inference_vtt.py", "--model_dir", tmp_path / "nowhere")
    assert "no model directory" in dashed
    assert "--captions-per-video" not in run("train_vtt.py", "--help").stdout
    assert "--captions_per_video" in run("train_vtt.py", "--help").stdout
    assert "not 0" in refused("clipcap-video", "train-retrieval", "--grad-accum", "0")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_has_bounds(name: str) -> None:
    """Of every option of every command: what is beyond all reason, or no number, is refused by the option's name."""
    module, command = COMMANDS[name]
    kind = getattr(import_module(f"clipcap_video.cli.{module}"), command).config_class
    hints = option_hints(kind)
    for item in option_fields(kind):
        if {int, float} & {hints[item.name], *get_args(hints[item.name])}:
            for value in (10**20, -(10**20), math.inf, -math.inf, math.nan, 1e308):
                with pytest.raises(ClipcapError, match=f"--{item.name} must be"):
                    _check_value(item, value, hints[item.name])
