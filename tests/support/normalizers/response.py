"""Normalizers of each example that are not the core's one rule, and curves."""

import oracles

import jaxnorm
from support.normalizers.entry import (
    AFFINE,
    Drawn,
    Layer,
    Param,
    of_example,
    of_single_values,
)


def along_features(norm):
    return lambda x, feature_axes, **options: norm(x, axes=feature_axes, **options)


TABLE = {
    "filter_response_norm": of_example(
        jaxnorm.filter_response_norm,
        params=AFFINE | {"threshold": Param(-0.5), "learned_epsilon": Param(0.5)},
        takes_complex=False,  # with a threshold
        powers={"learned_epsilon": 2},
        drawn=Drawn("no batch", ("space",)),
        layers={"FilterResponseNorm": Layer({"use_learned_epsilon": True})},
    ),
    "global_response_norm": of_example(
        jaxnorm.global_response_norm,
        powers={"bias": 1},
        drawn=Drawn("no batch", ("space",)),
        layers={"GlobalResponseNorm": Layer()},
    ),
    "unit_norm": of_example(
        jaxnorm.unit_norm,
        params={},
        masked=False,
        drawn=Drawn(
            function=along_features(jaxnorm.unit_norm),
            reference=along_features(oracles.unit_norm),
        ),
        layers={"UnitNorm": Layer()},
    ),
    "dynamic_tanh": of_example(
        jaxnorm.dynamic_tanh,
        params={"alpha": Param(0.5, ())} | AFFINE,
        masked=False,
        powers={"alpha": -1},
        layers={"DynamicTanh": Layer()},
    ),
    "dynamic_erf": of_example(
        jaxnorm.dynamic_erf,
        params={"alpha": Param(0.5, ()), "shift": Param(0.2, ())} | AFFINE,
        masked=False,
        takes_complex=False,
        powers={"alpha": -1},
        layers={"DynamicErf": Layer()},
    ),
    "evo_norm_s0": of_example(
        jaxnorm.evo_norm_s0,
        params={"v": Param(1.0)} | AFFINE,
        options={"num_groups": 2},
        takes_complex=False,
        powers={"v": -1},
        drawn=Drawn(
            *("one", ("num_groups", "space and features")),
            function=of_single_values(jaxnorm.evo_norm_s0),
        ),
        layers={"EvoNormS0": Layer()},
    ),
}
