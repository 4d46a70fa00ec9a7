"""``python -m wsi_umedpt`` is the command line."""

from wsi_umedpt.cli import main

if __name__ == "__main__":
    main()
