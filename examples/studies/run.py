"""Answers a question about normalization with training runs and a figure.

    python examples/studies/run.py --list
    python examples/studies/run.py placement
    python examples/studies/run.py placement --config.size=full --config.seeds=5

Every option of `configs/study_NAME.py` can be set as `--config.<option>=<value>`.
Finished points are not repeated; the same command continues where it was interrupted.
"""

import sys

import digits  # noqa: F401  (adds the MNIST example to the path)
import jax
import runner
import study
from absl import app, flags, logging
from ml_collections import config_flags
from tfds_mnist import DataUnavailableError

FLAGS = flags.FLAGS
_SIZE = "--config.size="

flags.DEFINE_bool("list", False, "Lists all studies.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake gives one line and exit code 2."""
    try:
        if len(argv) > 1 and not argv[1].startswith("-"):
            # The defaults depend on the size.
            sizes = [a.removeprefix(_SIZE) for a in argv if a.startswith(_SIZE)]
            default = f"{study.config_path(argv[1])}:{(sizes or ['small'])[-1]}"
            config_flags.DEFINE_config_file("config", default, "Of the study.")
        rest = FLAGS(argv)
    except (AttributeError, KeyError) as error:
        option = str(error).strip("'\"")
        sys.exit(_complain(f"there is no such option in the configuration: {option}"))
    except flags.UnrecognizedFlagError as error:
        options = FLAGS["config"].value if "config" in FLAGS else ()
        guess = f"; did you mean --config.{error.flagname}?"
        sys.exit(_complain(f"{error}{guess * (error.flagname in options)}"))
    except (flags.Error, OSError, TypeError, ValueError) as error:
        sys.exit(_complain(error))
    if len(rest) != 2 and not FLAGS.list:
        sys.exit(_complain("name one study; --list says what there is"))
    return rest


def main(argv: list[str]) -> int:
    """Runs a study; returns the exit code."""
    logging.set_verbosity(logging.FATAL)
    if FLAGS.list:
        for name in study.names():
            print(f"{name:16} {study.load(name).question}")
        return 0
    name = argv[1]
    try:
        found = study.load(name)
        if found.cpu_devices > 1:
            # Must be set before JAX looks for devices; no effect on accelerators.
            jax.config.update("jax_num_cpu_devices", found.cpu_devices)
        runner.run(name, found, FLAGS.config)
    except (study.StudyError, DataUnavailableError) as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues")
        return 130
    return 0


def _complain(message: object) -> int:
    text = " ".join(str(message).split())
    print(f"run.py: error: {text}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
