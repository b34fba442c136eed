"""Captions videos, or features of videos: python inference_vtt.py --help."""

from clipcap_video.cli import run_command
from clipcap_video.cli.infer import caption_videos

if __name__ == "__main__":
    run_command(caption_videos)
