"""Faults in the normalizers of single examples."""

OWN = "sample/test_own_moments.py"
OWN_DEVICES = "sample/test_own_moments_over_devices.py"
REVERSIBLE = "sample/test_reversible_instance_norm.py"
RESPONSE = "sample/test_response_norms.py"
TRANSFORMED = "sample/test_response_norms_under_transformations.py"
BAD = "sample/test_own_moments_bad_input.py"
CAUSAL = "sample/test_causal_group_norm.py"
SEED = "sample/test_seed_norm.py"
STREAMS = "sample/test_causal_streams.py"
GATED = "sample/test_gated_rms_norm.py"
SEGMENTS = "sample/test_segments.py"

MUTANTS = {
    "_core/arrays/safe_math.py": [
        (
            "the infinite slope of a root at 0",
            "positive = jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square))",
            "positive = jnp.sqrt(square)",
            f"{TRANSFORMED}::test_global_response_of_next_to_nothing",
        ),
    ],
    "_core/reductions/reduction.py": [
        (
            "features on other devices not seen",
            "MappedAxes.parse(axis_name, axis_index_groups, x), blocks)",
            "MappedAxes.none(), blocks)",
            f"{OWN_DEVICES}::test_divided",
            "pmap",
        ),
    ],
    "_core/call.py": [
        (
            "examples without elements divided by nothing",
            "return standardize(self.spec, self.x, moments, self.scale, self.bias, "
            "self.mask)",
            "moments = moments._replace(count=moments.count + 1)\n"
            "        return standardize(self.spec, self.x, moments, self.scale, "
            "self.bias, self.mask)",
            f"{OWN}::test_what_has_no_valid_element_comes_out_as_the_bias",
        ),
        (
            "RMS norm by the standard deviation",
            "compute = compute_own_moments if self.spec.center else "
            "compute_mean_square",
            "compute = compute_own_moments",
            "sample/test_rms_norm.py::test_oracle",
            "rms",
        ),
    ],
    "_core/arguments/segment_ids.py": [
        (
            "padding taken for the last segment",
            "inside = (ids >= 0) & (ids < number)",
            "inside = ids < number",
            "sample/test_graph_norm.py::test_oracle",
            "padding and graph_norm",
        ),
    ],
    "_core/moments/segments.py": [
        (
            "long segments summed one by one",
            "parts = min(max(size // (32 * self.number), 1), 1024) if known else 1",
            "parts = 1",
            f"{SEGMENTS}::test_long_segments",
        ),
        (
            "squares of segments about 0",
            "if not spec.use_fast_variance:",
            "if False:",
            f"{SEGMENTS}::test_large_offsets",
            "graph_norm",
        ),
        (
            "the mean that stays not in the variance",
            "nan_if_overflowed(mean_square_about(var, kept))",
            "var",
            f"{SEGMENTS}::test_the_formulas_of_graphs",
        ),
        (
            "positions on other devices not seen",
            "share, sums = spec.reduction.mapped_axes.sum,",
            "share, sums = tuple,",
            "sample/test_segments_over_devices.py::test_divided",
            "graph_norm and pmap",
        ),
    ],
    "sample/reversible_instance_norm.py": [
        (
            "forecasts brought back without epsilon",
            "safe_sqrt(moments.var + call.spec.epsilon),",
            "safe_sqrt(moments.var),",
            f"{REVERSIBLE}::test_values",
        ),
        (
            "forecasts brought back without the mean's gradient",
            "        moments.mean,\n",
            "        moments.shift,\n",
            f"{REVERSIBLE}::test_gradients_flow_through_y_and_undo",
        ),
    ],
    "sample/prefixes.py": [
        (
            "steps of one value are summed",
            "if not isinstance(size, int) or size != 1:",
            "if True:",
            f"{CAUSAL}::test_saved_are_x_and_the_statistics_of_its_steps",
        ),
        (
            "variances of steps averaged, without what is between them",
            "jnp.cumsum(steps.count * (steps.var + between), time)",
            "jnp.cumsum(steps.count * (steps.var + 0 * between), time)",
            f"{CAUSAL}::test_the_variance_is_that_of_the_prefix",
        ),
        (
            "means summed once",
            "    delta = rest / divisor.astype(kind)",
            "    delta = 0 * rest / divisor.astype(kind)",
            f"{CAUSAL}::test_large_means",
        ),
        (
            "a step in the prefix before it",
            "config[time] = (1, -1, 0)",
            "config[time] = (0, 0, 0)",
            "sample/test_causal_group_norm.py::test_oracle",
            "causal",
        ),
        (
            "what was before forgotten",
            "return merge_running_moments(cast_moments(start, wide), "
            "cast_moments(own, wide))",
            "return cast_moments(own, wide)",
            f"{STREAMS}::test_a_stream_goes_on_beyond_what_float32_counts",
        ),
    ],
    "sample/seed_norm.py": [
        (
            "masked elements in the sum that the scale follows",
            "products = zero_masked(call.mask, call.x) * beta.astype(call.x.dtype)",
            "products = call.x * beta.astype(call.x.dtype)",
            f"{SEED}::test_oracle",
            "heads",
        ),
        (
            "the sum computed again by a policy that keeps the moments",
            "head.broadcast_back(*tag_for_remat(head.sums(products)))",
            "head.broadcast_back(*head.sums(products))",
            f"{SEED}::test_remat_that_keeps_the_moments_repeats_no_reduction",
        ),
    ],
    "sample/rms_norm.py": [
        (
            "RMS norm differentiated as if it subtracted the mean",
            "        center=False,\n",
            "",
            "sample/test_rms_norm.py::test_oracle",
            "rms",
        ),
        (
            "RMS norm that subtracts the mean",
            "center=False,",
            "center=True,",
            "sample/test_rms_norm.py::test_oracle",
            "rms",
        ),
    ],
    "sample/gated_rms_norm.py": [
        (
            "always gated last",
            "    if gate_first:\n        x = zero",
            "    if False:\n        x = zero",
            f"{GATED}::test_oracle",
            "plain",
        ),
        (
            "a gate that is not finite under the mask shows",
            "valid = valid_or_finite(mask, gate)",
            "valid = None",
            f"{GATED}::test_oracle",
            "groups",
        ),
        (
            "the gated input kept",
            "policy=KEEP_MOMENTS,",
            "policy=jax.checkpoint_policies.everything_saveable,",
            f"{GATED}::test_saved_are_x_the_gate_and_a_number_a_group",
        ),
    ],
    "sample/layer_norm.py": [
        (
            "layer norm over the axes of its parameters",
            'reduced = canonical_axes(reduction_axes, x.ndim, "reduction_axes")',
            "reduced = features",
            "sample/test_layer_norm.py::test_oracle",
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
            "sample/test_filter_response_norm.py::test_learned_epsilon",
        ),
        (
            "a feature without elements not the bias of filter response norm",
            "nonempty = None if call.mask is None else moments.count > 0",
            "nonempty = None",
            f"{RESPONSE}::test_mask",
            "filter",
        ),
    ],
    "sample/global_response_norm.py": [
        (
            "norms accumulated in bfloat16",
            "real_inner_product(valid, valid), mask=mask",
            "real_inner_product(valid, valid).astype(jnp.bfloat16), mask=mask",
            "sample/test_global_response_norm.py::test_oracle",
            "global",
        ),
        (
            "features without elements share the mean",
            "nonempty = jnp.broadcast_to(count > 0, square.shape).astype(square.dtype)",
            "nonempty = jnp.ones_like(square)",
            f"{RESPONSE}::test_mask",
            "global",
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
            "rstd = inverse_std(moments.var, call.spec.epsilon, moments.var.dtype, "
            "nonempty)",
            "rstd = 1 / (moments.var**0.5 + call.spec.epsilon)",
            "sample/test_evo_norm_s0.py::test_oracle",
            "evo",
        ),
        (
            "EvoNorm S0 in float32, whatever its dtype",
            "return y.astype(call.spec.dtype)",
            "return y",
            "test_family_invariants.py::test_half_precision",
            "s0",
        ),
        (
            "a group without elements not the bias of EvoNorm S0",
            "nonempty = None if call.mask is None else moments.count > 0",
            "nonempty = None",
            f"{RESPONSE}::test_mask",
            "evo",
        ),
    ],
    "sample/pointwise.py": [
        (
            "the tanh saved",
            "jax.checkpoint(functools.partial(_apply_curve, curve, result))",
            "functools.partial(_apply_curve, curve, result)",
            f"{TRANSFORMED}::test_saved_for_the_backward_pass_are_x_and_vectors",
            "tanh",
        ),
    ],
}
