"""The options of each objective. Free of torch, for the command line to build flags on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from clipcap_video.errors import ClipcapError
from clipcap_video.runs.options import Part, load_object, option

if TYPE_CHECKING:
    from clipcap_video.training.objectives.base import Objective


@dataclass
class ObjectiveOptions(Part):
    """Options of one objective.

    objective_class: the subclass of Objective, or "module:name" of it.
    """

    objective_class: ClassVar[Any]

    @classmethod
    def load_objective(cls) -> type[Objective]:
        objective: type[Objective] = load_object(cls.objective_class)
        return objective

    @classmethod
    def imply(cls, given: dict[str, Any]) -> None:
        """Adds to the options that were given those that follow from them."""

    def check(self, config: Any) -> None:
        """Raises ClipcapError for what makes no sense together. config: the whole TrainConfig."""


@dataclass
class CrossEntropyOptions(ObjectiveOptions):
    """The cross-entropy of the captions."""

    objective_class = "clipcap_video.training.objectives.cross_entropy:CrossEntropy"


_of_contrastive = partial(
    option, panel="With --objective contrastive", needs={"model": "prefix", "objective": "contrastive"}
)


@dataclass
class ContrastiveOptions(ObjectiveOptions):
    """The cross-entropy of the captions, and a contrastive loss beside it."""

    objective_class = "clipcap_video.training.objectives.contrastive:Contrastive"

    retrieval_loss: float = _of_contrastive(
        0.0,
        "Weight of a contrastive loss beside that of the captions: the mean of a video's prefix and the embeddings of "
        "its captions find each other in the batch. 0 is off.",
        least=0,
    )
    text_encoder: str = _of_contrastive(
        "all-minilm-l6-v2",
        "The frozen text encoder of --retrieval_loss: all-minilm-l6-v2, st:NAME_OR_PATH, or a CLIP or SigLIP encoder.",
    )

    @classmethod
    def imply(cls, given: dict[str, Any]) -> None:
        # Before objectives had names of their own, the weight alone said it, and it still may.
        if given.get("retrieval_loss") and given.get("objective", "xe") == "xe":
            given["objective"] = "contrastive"

    def check(self, config: Any) -> None:
        if config.model != "prefix":
            raise ClipcapError("--objective contrastive is of the prefix, so it needs --model prefix")
        if not self.retrieval_loss:
            raise ClipcapError("--objective contrastive needs the weight of its loss; give it with --retrieval_loss")


_of_scst = partial(option, panel="With --objective scst", needs={"objective": "scst"})


@dataclass
class SelfCriticalOptions(ObjectiveOptions):
    """The CIDEr of captions that are sampled."""

    objective_class = "clipcap_video.training.objectives.self_critical:SelfCritical"

    samples: int = _of_scst(5, "Captions sampled for each video of a batch.", least=1)
    sample_top_p: float = _of_scst(
        0.9, "Sample from the fewest likeliest tokens whose probabilities sum to this; 1 is from all.", above=0, most=1
    )
    baseline: Literal["mean", "greedy"] = _of_scst(
        "mean", "What a sample must beat, the mean reward of the video's other samples or that of the greedy caption."
    )

    def check(self, config: Any) -> None:
        if self.baseline == "mean" and self.samples < 2:
            raise ClipcapError(f"--samples must be at least 2 with --baseline mean, not {self.samples}")
        if config.init_from is None:
            raise ClipcapError(
                "--objective scst starts from a trained captioner; give it with --init_from, after --objective xe has "
                "trained one"
            )
        if config.recipe == "reference":
            raise ClipcapError(
                f"{config.init_from} was trained without an end token, which --objective scst rewards; start from a "
                "run of --recipe ours"
            )
