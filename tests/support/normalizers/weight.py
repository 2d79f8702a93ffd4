"""Normalizers of weights.

Their modules, which wrap a layer, are in family_modules.py.
"""

import jaxnorm
from support.normalizers.entry import SCALE, Drawn, Entry, of_example, of_single_values


def spectral_norm(w, params, state, mask, **options):
    del params, mask
    return jaxnorm.spectral_norm(w, state, dtype=w.dtype, **options)[:2]


TABLE = {
    "weight_norm": of_example(jaxnorm.weight_norm, params={"g": SCALE}, masked=False),
    "standardize_weight": of_example(
        jaxnorm.standardize_weight,
        params={"gain": SCALE},
        masked=False,
        drawn=Drawn(function=of_single_values(jaxnorm.standardize_weight)),
    ),
    "spectral_norm": Entry(
        spectral_norm,
        {},
        "vector",
        masked=False,
        takes_complex=False,
        own_hessian=False,  # u and v are constants
        drawn=Drawn("last", ("n_steps",)),
    ),
}
