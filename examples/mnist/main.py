"""Trains a small convolutional network on MNIST.

    python examples/mnist/main.py
    python examples/mnist/main.py --config=configs/mnist.py --workdir=/tmp/mnist
    python examples/mnist/main.py --config.parallelism=jit --config.norm=group

Every option of `configs/default.py` can be set as `--config.<option>=<value>`. The same
command with the same workdir continues a run that was interrupted.
"""

import difflib
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import checkpoint
import jax
import processes
import run
import settings
import signals
import train
from absl import app, flags, logging
from ml_collections import config_flags
from norms import NORMS
from tfds_mnist import DataUnavailableError

FLAGS = flags.FLAGS

_DEFAULT = (Path(__file__).parent / "../../configs/default.py").resolve()
_NO_CONFIG = f"there is no {_DEFAULT}; name another file: --config=FILE"

config_flags.DEFINE_config_file(
    "config",
    # This file may be a copy in another place.
    str(_DEFAULT) if _DEFAULT.is_file() else None,
    "A file with a get_config(). --config.norm is one of:\n"
    + "\n".join(f"{name}: {norm.text}" for name, norm in NORMS.items()),
    # Unknown options are added to the configuration, and are refused with other invalid
    # options.
    lock_config=False,
    accept_new_attributes=True,
)
flags.DEFINE_string(
    "workdir",
    None,
    "Directory for results, in which a run continues; by default a new temporary "
    "directory.",
)
flags.DEFINE_integer(
    "cpu_devices",
    4,
    "Number of devices to simulate in each process if JAX finds only a CPU.",
)
flags.DEFINE_string(
    "coordinator_address",
    None,
    "host:port of process 0, for a run of several processes. On a detected cluster, "
    "such as SLURM, this flag and the next two are not needed.",
)
flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake gives one line and exit code 2."""
    try:
        rest = FLAGS(argv)
        if FLAGS.config is None:
            sys.exit(_complain(_NO_CONFIG, 2))
        FLAGS.config.keys()  # Raises the error of a file that could not be loaded.
    except (AttributeError, SyntaxError) as error:
        sys.exit(_complain(f"--config must be a file with a get_config(): {error}", 2))
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith("config."):
            sys.exit(_complain(_NO_CONFIG, 2))
        near = difflib.get_close_matches(error.flagname, settings.RULES, n=1)
        guess = f"; did you mean --config.{near[0]}?" if near else ""
        sys.exit(_complain(f"{error}{guess}", 2))
    except (flags.Error, OSError) as error:
        sys.exit(_complain(error, 2))
    if rest[1:]:
        sys.exit(_complain(f"unexpected arguments: {' '.join(rest[1:])}", 2))
    return rest


def main(argv: list[str]) -> int:
    """Runs the example; returns the exit code."""
    del argv
    # Orbax and TFDS log too much.
    logging.set_verbosity(logging.FATAL)
    signals.remember()
    workdir = Path(FLAGS.workdir or tempfile.gettempdir())
    try:
        settings.check(FLAGS.config)
        settings.check_cpu_devices(FLAGS.cpu_devices)
        # Must be set before JAX looks for devices; no effect on accelerators.
        jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
        processes.start(
            FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id
        )
        settings.check_devices(FLAGS.config, jax.device_count())
        if FLAGS.workdir is None and processes.is_first():
            workdir = Path(tempfile.mkdtemp(prefix="mnist-"))
        train.train_and_evaluate(FLAGS.config, workdir)
    except (
        settings.ConfigError,
        DataUnavailableError,
        processes.ProcessesError,
    ) as error:
        return _complain(error, 2)
    except (
        run.BadBatchesError,
        checkpoint.WriteError,
        processes.RefusedError,
    ) as error:
        _leave(_complain(error, 1))
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        _leave(_complain(f"lost another process, or the network: {error}", 1))
    except signals.Terminated:
        if processes.is_first():
            print("\nterminated; the state is saved, and the same command continues")
        return 0
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command continues from {workdir}")
        _leave(130)
    return 0


def _leave(code: int) -> NoReturn:
    # A normal exit would wait for lost or waiting processes, and threads of Orbax that
    # could not write would print errors.
    sys.stdout.flush()
    os._exit(code)


def _complain(message: object, code: int) -> int:
    text = " ".join(str(message).split())
    print(f"main.py: error: {text}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
