"""Checks of the configuration."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
from model import WIDTHS
from norms import NORMS
from parallel import PARALLELISMS, padded_size


class ConfigError(ValueError):
    """An invalid configuration; the message is one line for the user."""


class Rule(NamedTuple):
    """The condition for a valid value of one option.

    Attributes:
      holds: returns whether a value is valid.
      text: the condition in words, to follow "must be".
    """

    holds: Callable[[Any], bool]
    text: str


def _one_of(*choices: Any) -> Rule:
    return Rule(lambda x: x in choices, "one of " + ", ".join(map(str, choices)))


def _whole(minimum: int, maximum: float = float("inf")) -> Rule:
    def holds(x):
        return isinstance(x, int) and minimum <= x <= maximum

    upper = "" if maximum == float("inf") else f" and at most {maximum}"
    return Rule(holds, f"a whole number, at least {minimum}{upper}")


def _number(holds: Callable[[float], bool], text: str) -> Rule:
    return Rule(lambda x: isinstance(x, int | float) and holds(x), f"a number {text}")


def _optional(rule: Rule) -> Rule:
    return Rule(lambda x: x is None or rule.holds(x), f"{rule.text}, or not given")


def _divisor(*numbers: int) -> Rule:
    def holds(x):
        return isinstance(x, int) and x > 0 and not any(n % x for n in numbers)

    widths = ", ".join(map(str, numbers))
    return Rule(holds, f"a whole number that divides the layers' widths, {widths}")


_TRUTH = _one_of(True, False)

RULES: dict[str, Rule] = {
    "dataset": _one_of("embedded", "mnist"),
    "data_dir": _optional(Rule(lambda x: isinstance(x, str) and x, "a directory")),
    "num_train": _optional(_whole(1)),
    "num_test": _optional(_whole(1)),
    "max_shift": _whole(0, 27),
    "api": _one_of("linen", "nnx"),
    "norm": _one_of(*NORMS),
    "norm_placement": _one_of("after_activation", "before_activation"),
    "num_groups": _divisor(*WIDTHS),
    "virtual_batch_size": _whole(1),
    "reference_size": _whole(1, 4_000),
    "dropout_rate": _number(lambda x: 0 <= x < 1, "in [0, 1)"),
    "compute_dtype": _one_of("float32", "bfloat16"),
    "bn_momentum": _number(lambda x: 0 <= x <= 1, "in [0, 1]"),
    "bn_momentum_warmup": _TRUTH,
    "num_epochs": _whole(1),
    "batch_size": _whole(1),
    "learning_rate": _number(lambda x: 0 < x < float("inf"), "above 0"),
    "schedule": _one_of("constant", "cosine"),
    "weight_decay": _number(lambda x: 0 <= x < float("inf"), "at least 0"),
    "seed": _whole(0, 2**32 - 1),
    "checkpoint_every": _whole(1),
    "keep_checkpoints": _whole(2),
    "skip_nonfinite": _TRUTH,
    "max_bad_batches": _whole(1),
    "parallelism": _one_of(*PARALLELISMS),
    "sync": _TRUTH,
}


def check(config: ml_collections.ConfigDict) -> None:
    """Raises `ConfigError` if `config` is not valid."""
    for name in config:
        if name not in RULES:
            near = difflib.get_close_matches(name, RULES, n=1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(
                f"config.{name} is not an option{guess}; "
                f"the options are {', '.join(RULES)}"
            )
    for name, rule in RULES.items():
        if name not in config:
            raise ConfigError(f"config.{name} is missing; it must be {rule.text}")
        if not rule.holds(config[name]):
            raise ConfigError(
                f"config.{name} must be {rule.text}; it is {config[name]!r}"
            )
    if config.parallelism == "jit" and not config.sync:
        raise ConfigError(
            "config.sync=False cannot go with config.parallelism=jit: under jit the "
            "program sees the whole batch, so its statistics are always those of all "
            "devices; take config.parallelism=pmap or shard_map"
        )
    if config.norm == "evo_b0" and not config.sync:
        raise ConfigError(
            "config.sync=False cannot go with config.norm=evo_b0: it keeps variances "
            "without means, so that those of the devices cannot be merged for "
            "evaluation"
        )
    if config.dataset == "embedded" and config.data_dir is not None:
        raise ConfigError(
            "config.data_dir is for the full data set, and this configuration uses the "
            "embedded digits; add --config=configs/mnist.py"
        )
    num_train = config.num_train or float("inf")
    if config.norm == "virtual" and config.reference_size > num_train:
        raise ConfigError(
            f"config.reference_size must be at most config.num_train, {num_train}; "
            f"it is {config.reference_size}"
        )


def check_devices(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises `ConfigError` if the size of ghost batches does not fit the devices."""
    if config.norm != "ghost":
        return
    size = config.virtual_batch_size
    whole = padded_size(config.batch_size, num_devices)
    local = whole if config.parallelism == "jit" else whole // num_devices
    spans = config.sync and size % local == 0 and whole % size == 0
    if local % size and not spans:
        multiple = f", or be a multiple of it that divides {whole}" * config.sync
        raise ConfigError(
            f"config.virtual_batch_size must divide the {local} examples that "
            f"config.parallelism={config.parallelism} normalizes at once{multiple}; "
            f"it is {size}, with {num_devices} devices and "
            f"config.batch_size={config.batch_size}"
        )


def check_cpu_devices(number: int) -> None:
    """Raises `ConfigError` if the number of CPU devices is not positive."""
    if number < 1:
        raise ConfigError(f"--cpu_devices must be at least 1; it is {number}")
