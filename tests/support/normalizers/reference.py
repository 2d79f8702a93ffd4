"""Normalizers with the moments of other data: a reference batch, or a stream."""

import jax.numpy as jnp

import jaxnorm
from support.normalizers.entry import AFFINE, FEATURES, Drawn, Entry, Layer, Param


def virtual_batch_norm(x, params, state, mask, **options):
    params = params | options
    mean, var = params.pop("mean"), params.pop("var")
    reference = jaxnorm.Moments(jnp.full(FEATURES, 9.0), mean, var)
    y = jaxnorm.virtual_batch_norm(x, reference, **params, mask=mask, reference_size=3)
    return y, state


def running_norm(x, params, state, mask, use_running_average=False, **options):
    del params
    options |= {"update": not use_running_average, "mask": mask}
    return jaxnorm.running_norm(x, state, **options)


TABLE = {
    # Its module, which collects a reference, is in family_modules.py.
    "virtual_batch_norm": Entry(
        virtual_batch_norm,
        {"mean": Param(0.3), "var": Param(1.0)} | AFFINE,
        drawn=Drawn(
            "no batch",
            ("reference_size", "include_self"),
            ("ref_mean", "ref_var", *AFFINE),
        ),
        powers={"mean": 1, "var": 2, "ref_mean": 1, "ref_var": 2},
    ),
    "running_norm": Entry(
        running_norm,
        {},
        "stream",
        inference=True,
        own_gradient=False,  # moments are constants
        drawn=Drawn(options=("update", "max_abs", "max_count")),
        layers={"RunningNorm": Layer({"momentum": 0.99}, integers=True)},
    ),
}
