"""`clipcap-video train-consensus`."""

from __future__ import annotations

from clipcap_video.cli.command import Command
from clipcap_video.training.consensus_config import ConsensusTrainConfig


def _train(config: ConsensusTrainConfig) -> None:
    """Teach a captioner to choose among its own captions the one that people would most agree on.

    A small network learns from features and captions which n-grams people use of a video. It is put into the
    captioner's checkpoint, and from then on beams are ranked by the CIDEr that it expects of them, and by the
    probability that they hold no wrong word. A few minutes for a few thousand videos on a CPU.

    Examples:
      clipcap-video train-consensus --model_dir out/
    """
    from clipcap_video.captioning.calibration import calibrate
    from clipcap_video.training.consensus import train_consensus as train

    file, store, validation = train(config)
    print(calibrate(file, store, validation, config.caution, config.device))
    print(f"written to {file}; beams are ranked by it from now on (--rerank none to leave it out)")


train_consensus = Command(ConsensusTrainConfig, _train, "train-consensus")
