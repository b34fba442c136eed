"""Turns videos into frame features: python extract_features.py --help."""

try:
    from clipcap_video.stopping import end_at_signals

    end_at_signals()
    from clipcap_video.cli import run_command
    from clipcap_video.cli.extract import extract_features
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"this Python lacks the package {missing.name}; run the script with the one that has it, such as "
        ".venv/bin/python of make env, or pip install the folder of this script first"
    ) from None

if __name__ == "__main__":
    run_command(extract_features)
