"""Beyond one machine: classes for `map_batches` of Ray Data, for Daft and the like, and our own use of Ray Data."""

from clipcap_video.scale.workers import FeatureExtractor, VideoCaptioner

__all__ = ["FeatureExtractor", "VideoCaptioner"]
