"""The command `python -m darts_lib.imagenet_retrain`."""

from darts_lib.engine.command_line import run_from_file
from darts_lib.retrain import summary
from darts_lib.transfer import ImageNetRetrainConfig, retrain

if __name__ == "__main__":
    run_from_file(ImageNetRetrainConfig, retrain, summary)
