"""How features were made; features that were made otherwise are refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import SamplingSpec

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Fingerprint:
    """How features were made. Features of different fingerprints do not mix."""

    encoder: str
    weights: str
    preprocessing: str
    sampling: SamplingSpec
    normalized: bool = False
    version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    @cache  # thousands of files say the same
    def from_json(cls, text: str) -> Fingerprint:
        raw = json.loads(text)
        known = {field.name for field in fields(cls)}
        raw = {key: value for key, value in raw.items() if key in known}
        return cls(**{**raw, "sampling": SamplingSpec(**raw["sampling"])})

    @cache  # noqa: B019  (there are as many as there are ways to make features)
    def matches(self, other: Fingerprint) -> bool:
        """Whether features of both are interchangeable; the encoder's name alone may differ (a path, an alias)."""
        return {**asdict(self), "encoder": ""} == {**asdict(other), "encoder": ""}

    def __str__(self) -> str:
        norm = ", normalised" if self.normalized else ""
        return f"{self.encoder} ({self.weights}; {self.preprocessing}; {self._sampled}{norm})"

    @property
    def _sampled(self) -> str:
        spec = self.sampling
        rate = "" if spec.fps is None else f" at {spec.fps:g} fps"
        count = spec.max_frames or "all" if spec.sampling == "fps" else spec.frames
        return f"{spec.sampling} {count}{rate}{', at key frames' if spec.key_frames else ''}"

    def unlike(self, other: Fingerprint) -> tuple[str, str]:
        """What is different about both, in words; all of both where it is more than one thing."""
        parts = [
            (
                f"features of {mine.encoder} ({mine.weights})",
                f"features of frames made {mine.preprocessing}",
                f"features of frames taken {mine._sampled}",
                "normalised features" if mine.normalized else "features that are not normalised",
            )
            for mine in (self, other)
        ]
        apart = [(first, second) for first, second in zip(*parts, strict=True) if first != second]
        return apart[0] if len(apart) == 1 else (str(self), str(other))


def check_fingerprints(trained_on: Fingerprint | None, given: Fingerprint | None, where: Path | str) -> None:
    """Refuses features that a model was not trained on. Stores without a fingerprint pass.

    Raises ClipcapError naming what differs.
    """
    if trained_on is None or given is None or trained_on.matches(given):
        return
    these, those = given.unlike(trained_on)
    raise ClipcapError(
        f"the features in {where} are {these}, but the model was trained on {those}; "
        "extract features with the model's encoder and sampling"
    )
