"""Faults in the normalizers of single examples."""

OWN = "sample/test_own_moments.py"
OWN_DEVICES = "sample/test_own_moments_over_devices.py"
REVERSIBLE = "sample/test_reversible_instance_norm.py"
RESPONSE = "sample/test_response_norms.py"
TRANSFORMED = "sample/test_response_norms_under_transformations.py"
BAD = "sample/test_own_moments_bad_input.py"
GATED = "sample/test_gated_rms_norm.py"

MUTANTS = {
    "sample/reversible_instance_norm.py": [
        (
            "forecasts brought back without epsilon",
            "jnp.sqrt(moments.var + epsilon),",
            "jnp.sqrt(moments.var),",
            f"{REVERSIBLE}::test_values",
        ),
        (
            "forecasts brought back without the mean's gradient",
            "        moments.mean,\n",
            "        moments.shift,\n",
            f"{REVERSIBLE}::test_gradients_flow_through_y_and_undo",
        ),
    ],
    "sample/own_moments.py": [
        (
            "RMS norm by the standard deviation",
            "measure = measure_alone if center else measure_power",
            "measure = measure_alone",
            f"{OWN}::test_oracle",
            "rms",
        ),
        (
            "RMS norm differentiated as if it subtracted the mean",
            "        center=center,\n",
            "",
            f"{OWN}::test_oracle",
            "rms",
        ),
        (
            "examples without elements divided by nothing",
            "return standardize(spec, x, moments, scale, bias, mask)",
            "return standardize(spec, x, moments._replace(count=moments.count + 1), "
            "scale, bias, mask)",
            f"{OWN}::test_what_has_no_valid_element_comes_out_as_the_bias",
        ),
        (
            "features on other devices not seen",
            "reduction = Reduction(reduction_axes, across, blocks)",
            "reduction = Reduction(reduction_axes, MappedAxis.nowhere(), blocks)",
            f"{OWN_DEVICES}::test_divided",
            "pmap",
        ),
    ],
    "sample/rms_norm.py": [
        (
            "RMS norm that subtracts the mean",
            "center=False,",
            "center=True,",
            f"{OWN}::test_oracle",
            "rms",
        ),
    ],
    "sample/gated_rms_norm.py": [
        (
            "always gated last",
            "    if gate_first:\n        x = keep",
            "    if False:\n        x = keep",
            f"{GATED}::test_oracle",
            "plain",
        ),
        (
            "a gate that is not finite under the mask shows",
            "valid = usable(mask, gate)",
            "valid = None",
            f"{GATED}::test_oracle",
            "groups",
        ),
        (
            "the gated input kept",
            "policy=jax.checkpoint_policies.save_only_these_names(MOMENTS_NAME),",
            "policy=jax.checkpoint_policies.everything_saveable,",
            f"{GATED}::test_saved_are_x_the_gate_and_a_number_a_group",
        ),
    ],
    "sample/layer_norm.py": [
        (
            "layer norm over the axes of its parameters",
            'reduction_axes=canonical_axes(reduction_axes, x.ndim, "reduction_axes"),',
            "reduction_axes=canonical_axes(feature_axes, x.ndim),",
            f"{OWN}::test_oracle",
        ),
    ],
    "sample/group_norm.py": [
        (
            "groups that do not divide the features accepted",
            "if number < 1 or features % number:",
            "if number is None or number < 1 or features < number:",
            f"{BAD}::test_while_tracing",
        ),
    ],
    "sample/filter_response_norm.py": [
        (
            "a negative learned epsilon subtracted",
            "power = power + jnp.abs(learned_epsilon).astype(power.dtype)",
            "power = power + learned_epsilon.astype(power.dtype)",
            f"{RESPONSE}::test_learned_epsilon",
        ),
        (
            "a feature without elements not the bias of filter response norm",
            "seen = None if mask is None else moments.count > 0",
            "seen = None",
            f"{RESPONSE}::test_mask",
            "filter",
        ),
    ],
    "sample/global_response_norm.py": [
        (
            "norms accumulated in the dtype of x",
            "x = x.astype(accumulation_dtype(x.dtype))",
            "pass",
            "test_family_invariants.py::test_half_precision",
            "global",
        ),
        (
            "features without elements share the mean",
            "seen = jnp.broadcast_to(count > 0, square.shape).astype(square.dtype)",
            "seen = jnp.ones_like(square)",
            f"{RESPONSE}::test_mask",
            "global",
        ),
        (
            "the infinite slope of a root at 0",
            "root = jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square))",
            "root = jnp.sqrt(square)",
            f"{TRANSFORMED}::test_global_response_of_next_to_nothing",
        ),
        (
            "norms without a name",
            "square, part = (checkpoint_name(value, MOMENTS_NAME) "
            "for value in (square, part))",
            "pass",
            f"{TRANSFORMED}::test_remat_that_keeps_the_moments_repeats_no_reduction",
            "global",
        ),
    ],
    "sample/evo_norm_s0.py": [
        (
            "epsilon outside the root of EvoNorm S0",
            "rstd = inverse_std(moments.var, epsilon, moments.var.dtype, seen)",
            "rstd = 1 / (moments.var**0.5 + epsilon)",
            f"{RESPONSE}::test_oracle",
            "evo",
        ),
        (
            "EvoNorm S0 in float32, whatever its dtype",
            "return (y + bias.astype(wide)).astype(result)",
            "return y + bias.astype(wide)",
            "test_family_invariants.py::test_half_precision",
            "s0",
        ),
        (
            "a group without elements not the bias of EvoNorm S0",
            "seen = None if mask is None else moments.count > 0",
            "seen = None",
            f"{RESPONSE}::test_mask",
            "evo",
        ),
    ],
    "sample/dynamic_tanh.py": [
        (
            "the tanh saved",
            "squash = jax.checkpoint(functools.partial(_squash, result))",
            "squash = functools.partial(_squash, result)",
            f"{TRANSFORMED}::test_saved_for_the_backward_pass_are_x_and_vectors",
            "tanh",
        ),
    ],
}
