"""A mask of lower rank lies along the last axes, and may have been meant otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnorm


@pytest.mark.parametrize(
    ("shape", "mask", "taken", "other"),
    [
        ((5, 5), (5,), "mask[None]", "mask[..., None]"),
        ((4, 5, 3), (5, 3), None, None),
        ((4, 3, 3), (3,), None, None),
        ((5, 5, 5), (5, 5), "mask[None]", "mask[..., None]"),
        ((5, 3, 5), (5,), "mask[None, None]", "mask[..., None, None]"),
        ((5, 5, 3), (5, 1), "mask[None]", "mask[..., None]"),
        ((5, 3, 3), (1, 3), "mask[None]", "mask[..., None]"),
        ((5, 5), (5, 1), None, None),
        ((5, 5), (1,), None, None),
        ((5, 5), (), None, None),
        ((1, 3), (3,), None, None),
    ],
    ids=str,
)
def test_an_ambiguous_mask_warns_and_takes_the_last_axes(shape, mask, taken, other):
    """Which ones it is taken for is said, and how to write either."""

    def read(mask):
        x = jnp.zeros(shape)
        return jaxnorm.batch_moments(x, feature_axes=tuple(range(x.ndim)), mask=mask)[0]

    given = np.random.default_rng(0).uniform(1, 2, mask).astype(np.float32)
    if taken is None:  # the suite makes an error of a warning
        jax.eval_shape(read, given)
        return
    with pytest.warns(UserWarning) as warned:
        count = read(given)
    (said,) = (str(warning.message) for warning in warned)
    for part in (
        str(shape),
        str(mask),
        f"{taken} for the last",
        f"{other} for the first",
    ):
        assert part in said
    written = read(eval(taken, {"mask": given}))
    np.testing.assert_array_equal(count, written)
    assert not np.array_equal(written, read(eval(other, {"mask": given})))
