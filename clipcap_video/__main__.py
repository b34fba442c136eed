"""The `clipcap-video` command, also as `python -m clipcap_video`."""

from clipcap_video.stopping import end_at_signals

end_at_signals()

from clipcap_video.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
