"""Bad input to these normalizers fails with a message that says what to do."""

import jax
import jax.numpy as jnp
import pytest
from support.drawing import ones
from support.refusals import refused
from support.response_norms import NORMS

FRN, GRN, DYT, DERF, EVO = (NORMS[name].function for name in NORMS)
one = ones(4)
BAD = {  # what is called with x of shape (3, 5, 4), what the message names
    "frn: integers": (lambda x: FRN(x.astype(int), one, one, one), ("x", "int32")),
    "frn: complex": (
        lambda x: FRN(x.astype(jnp.complex64), one, one, one),
        ("x", "threshold", "real"),
    ),
    "frn: complex scale": (
        lambda x: FRN(x, one.astype(jnp.complex64), one, one),
        ("scale", "real"),
    ),
    "frn: complex threshold": (
        lambda x: FRN(x, one, one, one.astype(jnp.complex64)),
        ("threshold",),
    ),
    "frn: threshold": (lambda x: FRN(x, one, one, one[1:]), ("threshold", "(3,)")),
    "frn: learned epsilon": (
        lambda x: FRN(x, one, one, None, learned_epsilon=one[1:]),
        ("learned_epsilon", "(3,)", "(4,)"),
    ),
    "frn: integer learned epsilon": (
        lambda x: FRN(x, one, one, None, learned_epsilon=one.astype(int)),
        ("learned_epsilon", "int32"),
    ),
    "frn: epsilon": (lambda x: FRN(x, one, one, one, epsilon=-1.0), ("-1.0",)),
    "frn: mask": (lambda x: FRN(x, one, one, one, mask=x[1:]), ("mask", "(2, 5, 4)")),
    "frn: first axis": (lambda x: FRN(x[0], *[one] * 3, feature_axes=0), ("first",)),
    "frn: dtype": (lambda x: FRN(x, one, one, one, dtype=jnp.int32), ("dtype",)),
    "grn: integers": (lambda x: GRN(x.astype(int), one, one), ("x", "int32")),
    "grn: scale": (lambda x: GRN(x, one[1:], one), ("scale", "(3,)", "(4,)")),
    "grn: real dtype": (
        lambda x: GRN(x.astype(jnp.complex64), one, one, dtype=x.dtype),
        ("complex",),
    ),
    "grn: epsilon": (lambda x: GRN(x, one, one, epsilon=one), ("epsilon", "number")),
    "grn: axes": (lambda x: GRN(x, one, one, feature_axes=3), ("feature_axes", "3")),
    "dyt: integers": (lambda x: DYT(x.astype(int), one, one, one), ("x", "int32")),
    "dyt: alpha": (lambda x: DYT(x, one[1:], one, one), ("alpha", "(3,)")),
    "dyt: complex alpha": (
        lambda x: DYT(x, one.astype(jnp.complex64), one, one),
        ("alpha", "real"),
    ),
    "derf: complex": (
        lambda x: DERF(x.astype(jnp.complex64), one, one, one, one),
        ("x", "real", "error function"),
    ),
    "derf: shift": (lambda x: DERF(x, one, one[1:], one, one), ("shift", "(3,)")),
    "evo: integers": (lambda x: EVO(x.astype(int), one, one, one), ("x", "int32")),
    "evo: complex": (
        lambda x: EVO(x.astype(jnp.complex64), *[one] * 3, num_groups=2),
        ("x", "real"),
    ),
    "evo: groups": (lambda x: EVO(x, one, one, one), ("num_groups", "32", "1, 2, 4")),
    "evo: v": (lambda x: EVO(x, one[1:], one, one, num_groups=2), ("v", "(3,)")),
    "evo: two axes": (
        lambda x: EVO(x, one, one, one, feature_axes=(1, 2)),
        ("feature_axes", "one axis"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, as_users_run_it):
    function, says = BAD[name]
    with refused(*says):
        jax.eval_shape(function, ones((3, 5, 4)))
