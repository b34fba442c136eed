"""Trains a captioner on frame features and captions: python train_vtt.py --help."""

from clipcap_video.cli import run_command
from clipcap_video.cli.train import train_captioner

if __name__ == "__main__":
    run_command(train_captioner)
