"""Every choice that a caption decoder leaves open. Free of torch, for the command line to build flags on."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass
from typing import Literal, get_args

from clipcap_video.errors import ClipcapError

Mode = Literal["beam", "greedy", "sample"]
Rerank = Literal["consensus", "clip", "both", "none"]


@dataclass(frozen=True)
class DecodingSettings:
    """How captions are decoded. Raises ClipcapError when the choices make no sense together."""

    entry_length: int = 40
    """Most tokens of a caption, the end token not counted."""

    use_beam_search: bool = True
    """Beam search; without it sampling if any sampling option is given, else greedy."""

    beam_size: int = 5
    """Hypotheses kept by beam search."""

    length_penalty: float = 1.0
    """Rank by sum of log-probabilities / length ** this: 1 ranks by the mean, 0 by the sum, which
    favours short captions."""

    sample: bool = False
    """Draw the tokens at random, even with no other sampling option given."""

    temperature: float = 1.0
    """Sampling: divide the logits by this; below 1 is more careful, above 1 bolder."""

    top_k: int | None = None
    """Sampling: draw from the k likeliest tokens only."""

    top_p: float | None = None
    """Sampling: draw from the fewest likeliest tokens whose probabilities sum to at least this."""

    seed: int = 0
    """Sampling: the same seed and video give the same captions, whatever the batch or device."""

    num_return: int = 1
    """Captions returned for each video, best first."""

    repetition_penalty: float = 1.0
    """Make tokens that the caption already has less likely by this factor; 1 is off (Keskar et al. 2019)."""

    no_repeat_ngram: int = 0
    """Never write the same n tokens in a row twice; 0 is off."""

    rerank: Rerank = "consensus"
    """What puts the hypotheses in order. consensus: what the checkpoint's consensus network expects of them, where it
    has one. clip: their log-probability, and how well they fit the video by a model that reads both (`text_side`).
    both: what the network expects, and that. none: their log-probability alone."""

    rerank_model: str | None = None
    """That model, of `train-retrieval`; unless given, the model in the box for features as the starter captioner's,
    else the text side of the encoder."""

    caution: float | None = None
    """What the probability that a caption holds no wrong word is worth beside its expected CIDEr, when a consensus
    network chooses; above 0, shorter and more general forms compete too. None is the network's default."""

    complete: bool = True
    """Return whole sentences only: a caption too long for `entry_length` gives way to the best shorter one.
    Off, and with length_penalty 1, beam search is the ClipCap program's, whose captions may break off."""

    consensus: InitVar[bool | None] = None
    """What `rerank` was called once: False is its none."""

    @property
    def mode(self) -> Mode:
        if self.use_beam_search:
            return "beam"
        return "sample" if self._sampling_options() else "greedy"

    @property
    def reads_texts(self) -> bool:
        """Whether a model that reads captions and videos has a say in their order."""
        return self.rerank in ("clip", "both")

    @property
    def lanes(self) -> int:
        """Hypotheses that are followed at once for each video."""
        return {"beam": self.beam_size, "greedy": 1, "sample": self.num_return}[self.mode]

    def _sampling_options(self) -> list[str]:
        given = {
            "sample": self.sample,
            "temperature": self.temperature != 1.0,
            "top_k": self.top_k is not None,
            "top_p": self.top_p is not None,
        }
        return [name for name, is_given in given.items() if is_given]

    def __post_init__(self, consensus: bool | None) -> None:
        if consensus is False:
            object.__setattr__(self, "rerank", "none")
        for name in ("entry_length", "beam_size", "num_return"):
            if getattr(self, name) < 1:
                raise ClipcapError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.no_repeat_ngram < 0:
            raise ClipcapError(f"no_repeat_ngram is {self.no_repeat_ngram}; give 0 (off) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ClipcapError(f"top_k is {self.top_k}; give 1 or more, or leave it out")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ClipcapError(f"top_p is {self.top_p}; give a probability above 0 and at most 1")
        for name in ("temperature", "repetition_penalty"):
            if not 0 < getattr(self, name) < math.inf:
                raise ClipcapError(f"{name} is {getattr(self, name)}; give a number above 0 (1 is off)")
        if self.caution is not None and not 0 <= self.caution <= 100:
            raise ClipcapError(f"caution is {self.caution}; give a number from 0 (expected CIDEr alone) to 100")
        if self.rerank not in get_args(Rerank):
            raise ClipcapError(f"rerank is {self.rerank!r}; give one of {', '.join(get_args(Rerank))}")
        if not 0 <= self.length_penalty <= 10:
            raise ClipcapError(f"length_penalty is {self.length_penalty}; give a number from 0 to 10")
        if self.mode == "beam" and self._sampling_options():
            raise ClipcapError(
                f"beam search does not draw at random, but {', '.join(self._sampling_options())} was given; "
                "leave that out, or turn beam search off"
            )
        if self.mode == "beam" and self.beam_size < self.num_return:
            raise ClipcapError(
                f"a beam of {self.beam_size} cannot return {self.num_return} captions; "
                "give a beam_size of at least num_return"
            )
        if self.mode == "greedy" and self.num_return > 1:
            raise ClipcapError(f"greedy decoding finds one caption, not {self.num_return}; use beam search or sample")
