"""Turns videos into frame features: python extract_features.py --help."""

from clipcap_video.cli import run_command
from clipcap_video.cli.extract import extract_features

if __name__ == "__main__":
    run_command(extract_features)
