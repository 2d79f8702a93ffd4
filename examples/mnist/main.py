"""Trains a small convolutional network on MNIST.

    python examples/mnist/main.py
    python examples/mnist/main.py --config=configs/mnist.py --workdir=/tmp/mnist
    python examples/mnist/main.py --config.parallelism=shard_map --config.norm=group

Every option of `configs/default.py` can be set as `--config.<option>=<value>`.
"""

import sys
import tempfile
from pathlib import Path

import interrupt
import jax
import settings
import train
from absl import app, flags, logging
from ml_collections import config_flags
from norms import NORMS
from tfds_mnist import DataUnavailableError

FLAGS = flags.FLAGS

config_flags.DEFINE_config_file(
    "config",
    str(Path(__file__).resolve().parents[2] / "configs" / "default.py"),
    "A file with a get_config(). --config.norm is one of:\n"
    + "\n".join(f"{name}: {norm.text}" for name, norm in NORMS.items()),
    # Unknown options arrive in the configuration, and are refused with the others that
    # are not valid.
    lock_config=False,
    accept_new_attributes=True,
)
flags.DEFINE_string(
    "workdir", None, "Where results go; a fresh temporary directory if not given."
)
flags.DEFINE_integer(
    "cpu_devices", 4, "Devices to simulate where JAX has nothing but a CPU."
)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake in it is one line and exit code 2."""
    try:
        rest = FLAGS(argv)
        FLAGS.config.keys()  # A file that could not be loaded fails when looked at.
    except (flags.Error, OSError) as error:
        sys.exit(_complain(error))
    if rest[1:]:
        sys.exit(_complain(f"unexpected arguments: {' '.join(rest[1:])}"))
    return rest


def main(argv: list[str]) -> int:
    """Runs the example; returns the exit code."""
    del argv
    # Orbax and TFDS tell about all they do.
    logging.set_verbosity(logging.ERROR)
    interrupt.remember()
    workdir = Path(FLAGS.workdir or tempfile.mkdtemp(prefix="mnist-"))
    try:
        settings.check(FLAGS.config)
        settings.check_workdir(workdir)
        settings.check_cpu_devices(FLAGS.cpu_devices)
        # Before JAX looks for devices; of no effect on accelerators.
        jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
        settings.check_devices(FLAGS.config, len(jax.local_devices()))
        train.train_and_evaluate(FLAGS.config, workdir)
    except (settings.ConfigError, DataUnavailableError) as error:
        return _complain(error)
    except KeyboardInterrupt:
        print(f"\ninterrupted; results of finished epochs are in {workdir}")
        return 130
    return 0


def _complain(message: object) -> int:
    print(f"main.py: error: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
