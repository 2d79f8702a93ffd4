"""Faults in the normalization of weights."""

NORM = "weight/test_weight_norm.py"
STANDARDIZE = "weight/test_standardize_weight.py"
SPECTRAL = "weight/test_spectral_norm.py"
SIZE = "weight/test_size_of_weights.py"

MUTANTS = {
    "weight/weight_norm.py": [
        (
            "the norm over the output axis",
            "v.astype(wide), other_axes(features, v.ndim), math.sqrt(epsilon)",
            "v.astype(wide), features, math.sqrt(epsilon)",
            f"{NORM}::test_oracle",
        ),
        (
            "epsilon of weight norm ignored",
            "+ (least * reciprocal) ** 2",
            "+ 0 * (least * reciprocal) ** 2",
            f"{NORM}::test_oracle",
        ),
        (
            "squares that overflow",
            "unit, reciprocal, square = measured",
            "unit = reciprocal = jnp.ones_like(measured.unit)\n"
            "    square = jnp.sum(jnp.abs(v) ** 2, axes, keepdims=True)",
            f"{NORM}::test_lengths_whose_squares_leave_float32",
        ),
        (
            "NaN gradients of a unit of zeros",
            "inverse = 1 / jnp.sqrt(jnp.maximum(square, 1))",
            "inverse = 1 / jnp.sqrt(square)",
            f"{NORM}::test_a_unit_of_zeros",
        ),
        (
            "the new bias not divided by the deviation",
            "moved = (bias.astype(wide) - mean.astype(wide)) / std.astype(wide)",
            "moved = bias.astype(wide) - mean.astype(wide)",
            f"{NORM}::test_init_gives_mean_0_and_variance_1_in_every_layer",
        ),
        (
            "constant units blown up",
            "std = jnp.where(std <= noise, jnp.ones_like(std), std)",
            "std = jnp.where(std <= 0, jnp.ones_like(std), std)",
            f"{NORM}::test_init_leaves_the_length_of_constant_units",
        ),
        (
            "data-dependent initialization on each device alone",
            "mask=mask,\n        axis_name=axis_name,",
            "mask=mask,\n        axis_name=None,",
            f"{NORM}::test_init_over_space_masks_and_devices",
        ),
    ],
    "weight/unit.py": [
        (
            "the norm without conj",
            "return jnp.sum(real_inner_product(v, v), axes, keepdims=True)",
            "return jnp.sum((v * v).real, axes, keepdims=True)",
            f"{NORM}::test_magnitude_of_half_precision_and_complex",
        ),
        (
            "vectors of large numbers measured in units of 1 in one pass",
            "which = jnp.where(largest > limit, 1, ",
            "which = jnp.where(largest > limit, 0, ",
            f"{SIZE}::test_squares_in_one_pass_are_those_in_two",
        ),
        (
            "the unit of complex numbers from absolute values",
            "size = jnp.maximum(size, jnp.abs(w.imag))",
            "size = jnp.abs(w)",
            f"{SIZE}::test_complex_numbers_whose_absolute_value_overflows",
        ),
        (
            "weights in units of 1",
            "unit = jnp.maximum(unit, kind.tiny)",
            "unit = jnp.ones_like(unit)",
            "weight/test_size_of_weights.py",
        ),
        (
            "a unit whose reciprocal is subnormal",
            "return _power_of_two(largest, largest / 4)",
            "return _power_of_two(largest, largest / 2)",
            "sample/test_unit_norm.py::test_at_the_ends_of_the_range",
        ),
    ],
    "weight/standardize_weight.py": [
        (
            "constant units times infinity",
            "jnp.minimum(unit / least, most)",
            "unit / least",
            f"{SIZE}::test_a_constant_weight_at_the_end_of_the_range_is_0",
        ),
        (
            "fan-in ignored",
            "divisor = jnp.maximum(fan_in * var, least_square)",
            "divisor = jnp.maximum(var, least_square)",
            f"{STANDARDIZE}::test_oracle",
        ),
        (
            "fan-in with the outputs in it",
            "fan_in = math.prod(sizes(w.shape, axes))",
            "fan_in = w.size",
            f"{STANDARDIZE}::test_oracle",
        ),
        (
            "the least fan-in variance dropped",
            "divisor = jnp.maximum(fan_in * var, least_square)",
            "divisor = fan_in * var",
            f"{STANDARDIZE}::test_fan_in_variance_is_kept_above_1e_4",
        ),
        (
            "the rounding of the first mean left in",
            "for _ in range(2):",
            "for _ in range(1):",
            f"{STANDARDIZE}::test_far_from_zero",
        ),
        (
            "weights standardized by the unbiased variance",
            "var = jnp.mean(square, axes, keepdims=True)",
            "var = jnp.sum(square, axes, keepdims=True)\n"
            "    var = var / (math.prod(sizes(w.shape, axes)) - 1)",
            f"{STANDARDIZE}::test_oracle",
        ),
        (
            "infinite inverse of a constant unit",
            "inverse = lax.rsqrt(jnp.where(constant, jnp.ones_like(divisor), divisor))",
            "inverse = lax.rsqrt(divisor)",
            f"{STANDARDIZE}::test_constant_units_come_out_as_0_with_finite_gradients",
        ),
        (
            "infinite powers of a constant unit's divisor",
            "constant = divisor < float(jnp.finfo(divisor.dtype).eps) ** 3",
            "constant = divisor == 0",
            "weight/test_size_of_weights.py",
        ),
    ],
    "weight/spectral_norm.py": [
        (
            "gradients through the iterations",
            "constant = lax.stop_gradient(matrix)",
            "constant = matrix",
            f"{SPECTRAL}::test_gradient_of_sigma_is_the_outer_product "
            f"{SPECTRAL}::test_no_gradient_through_the_new_u",
        ),
        (
            "a gradient in the first u",
            'right = align(lax.stop_gradient(u.astype(wide)), w, (w.ndim - 1,), "u")',
            'right = align(u.astype(wide), w, (w.ndim - 1,), "u")',
            f"{SPECTRAL}::test_no_gradient_through_the_new_u",
        ),
        (
            "u not updated",
            "new_u = shard_as(u, revive(right).reshape(u.shape).astype(u.dtype))",
            "new_u = lax.stop_gradient(u)",
            f"{SPECTRAL}::test_oracle",
        ),
        (
            "one step, however many are asked for",
            "for _ in range(n_steps):",
            "for _ in range(1):",
            f"{SPECTRAL}::test_oracle",
        ),
        (
            "sigma a constant",
            "sigma = jnp.sum(left * forward(matrix, right))",
            "sigma = jnp.sum(left * forward(constant, right))",
            f"{SPECTRAL}::test_derivatives_are_those_of_the_formula",
        ),
        (
            "division by a sigma of 0",
            "matrix / jnp.where(sigma != 0, sigma, 1 / unit.reshape(()))",
            "matrix / sigma",
            f"{SPECTRAL}::test_sigma_0_leaves_the_weight",
        ),
        (
            "an epsilon that the size of the weight does not scale",
            "unit, _ = unit_of(w.astype(wide))",
            "unit = jnp.ones((1,) * w.ndim, wide)",
            f"{SPECTRAL}::test_the_size_of_w_and_u_does_not_matter",
        ),
        (
            "a u of 0 for ever",
            "return u + start * (u == 0).all().astype(u.dtype)",
            "return u",
            f"{SPECTRAL}::test_sigma_0_leaves_the_weight",
        ),
    ],
}
