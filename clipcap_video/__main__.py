"""`python -m clipcap_video` is the `clipcap-video` command."""

from clipcap_video.cli import main

if __name__ == "__main__":
    main()
