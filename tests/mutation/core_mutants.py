"""Faults in sums, moments, the derivative rule and the running statistics."""

SYNC = "test_synchronization.py"
AXES = "test_synchronized_axes.py"
MOMENTS = "test_moments.py"
NORM = "test_batch_norm.py"
STATS = "test_running_stats.py"
ACCURACY = "test_accuracy.py"
DERIVATIVES = "test_derivatives.py"
COST = "test_cost.py"
POLICY = "test_checkpoint_policy.py"
INVARIANTS = "test_family_invariants.py"
BAD = "test_bad_input.py"
FAMILY = "batch/test_batch_family.py"
GHOSTS = "batch/test_ghost_batch_norm.py"
ACCURATE = "batch/test_batch_family_accuracy.py"
DEVICES = "batch/test_batch_family_over_devices.py"
OWN = "sample/test_own_moments.py"
OWN_DEVICES = "sample/test_own_moments_over_devices.py"
STREAM = "batch/test_running_norm.py"
STAGES = "test_staged_sums.py"
APPROXIMATE = "sample/test_approximate_mean.py"

MUTANTS = {
    "_core/arrays/dtypes.py": [
        (
            "float32 accumulation dropped",
            "return promote(jnp.float32, *dtypes)",
            "return promote(*dtypes)",
            f"{MOMENTS}::test_dtypes",
        ),
    ],
    "_core/running/momentum.py": [
        (
            "the count of the next update, not of those so far",
            'evaluate_schedule(momentum, jnp.asarray(running["count"]), "momentum")',
            'evaluate_schedule(momentum, jnp.asarray(running["count"]) + 1, '
            '"momentum")',
            f"{MOMENTS}::test_momentum_as_a_function_of_the_count",
        ),
        (
            "momentum above 1 accepted",
            "if isinstance(value, np.ndarray) and not 0 <= value <= 1:",
            "if isinstance(value, np.ndarray) and not 0 <= value:",
            f"{BAD}::test_while_tracing",
        ),
        (
            "the warm-up of momentum off by one",
            "(1 + count) / (10 + count)",
            "count / (9 + count)",
            f"{MOMENTS}::test_momentum_as_a_function_of_the_count",
        ),
    ],
    "_core/moments/shifted_moments.py": [
        (
            "shifts whose squares overflow used",
            "moderate = jnp.abs(shift) < limit",
            "moderate = jnp.isfinite(shift)",
            f"{ACCURACY}::test_poisoned_statistics_do_not_reach_the_output",
        ),
        (
            "the variance unbiased where it normalizes",
            "var = total_square / count_or_1 - square",
            "var = count / jnp.maximum(count - 1, 1) * (total_square / count_or_1 "
            "- square)",
            f"{NORM}::test_oracle",
        ),
        (
            "the floor of rounding noise dropped",
            "jnp.where(var <= noise, noise, var)",
            "jnp.maximum(var, 0)",
            f"{ACCURACY}::test_a_cold_start_never_explodes",
        ),
        (
            "the floor of rounding noise differentiated",
            "noise = lax.stop_gradient(rounding_noise(square))",
            "noise = rounding_noise(square)",
            f"{MOMENTS}::test_a_clamped_variance_has_no_gradient",
        ),
    ],
    "_core/arrays/safe_math.py": [
        (
            "0 / 0 without epsilon",
            "positive = square != 0",
            "positive = square == square",
            "test_scales.py::test_neither_variance_nor_epsilon",
        ),
        (
            "inner products without conj",
            "return a.real * b.real + a.imag * b.imag",
            "return a.real * b.real - a.imag * b.imag",
            f"{MOMENTS}::test_dtypes",
        ),
    ],
    "_core/arguments/align.py": [
        (
            "integers taken as weights",
            "else mask.astype(bool)",
            "else mask.astype(jnp.float32)",
            f"{MOMENTS}::test_masks",
        ),
        (
            "weights cast to bool",
            "return mask if jnp.issubdtype(mask.dtype, jnp.floating) "
            "else mask.astype(bool)",
            "return mask.astype(bool)",
            f"{MOMENTS}::test_masks",
        ),
        (
            "scale_offset ignored",
            "        if scale_offset:",
            "        if False:",
            "sample/test_layer_norm.py::test_oracle",
            "offset",
        ),
        (
            "scale_offset added in the dtype of scale",
            "scale = scale.astype(wide) + scale_offset",
            "scale = scale + scale_offset",
            f"{OWN}::test_scale_offset_is_added_before_rounding",
        ),
    ],
    "_core/reductions/collectives.py": [
        (
            "psum lost",
            "return self._reduce(lax.psum, value)",
            "return value",
            f"{SYNC}::test_weights",
        ),
        (
            "pmean for psum",
            "return self._reduce(lax.psum, value)",
            "return self._reduce(lax.pmean, value)",
            f"{SYNC}::test_moments {SYNC}::test_options_of_the_statistics",
        ),
        (
            "axis_index_groups ignored",
            "return self._reduce(lax.psum, value)",
            "return lax.psum(value, self._varying_names(value))",
            f"{AXES}::test_groups_of_devices",
        ),
        (
            "an axis counted over which x does not vary",
            "return _axis_size(names)",
            "return _axis_size(self.names)",
            f"{AXES}::test_an_axis_that_x_does_not_vary_over_counts_once",
        ),
        (
            "elements of other devices not counted",
            "return lax.axis_size(names)",
            "return 1",
            f"{SYNC}::test_without_a_mask",
        ),
        (
            "drifted replicas not averaged",
            "return jax.tree.map(self._average, stats)",
            "return stats",
            f"{SYNC}::test_drifted_statistics_act_as_their_average_and_leave_equal",
        ),
        (
            "replicas summed, not averaged",
            "return (total / number).astype(value.dtype)",
            "return total.astype(value.dtype)",
            f"{SYNC}::test_drifted_statistics_act_as_their_average_and_leave_equal",
        ),
        (
            "a poisoned replica averaged with the others",
            "finite = jnp.isfinite(wide)",
            "finite = jnp.ones_like(wide, bool)",
            f"{SYNC}::test_a_poisoned_replica_does_not_poison_the_others",
        ),
        (
            "runs of devices strided",
            "own = slots == self._index() // length",
            "own = slots == self._index() % number",
            f"{DEVICES}::test_two_passes_without_a_mask",
        ),
        (
            "other runs multiplied by 0, NaN included",
            "placed = jnp.where(own, stacked, jnp.zeros_like(stacked))",
            "placed = stacked[None] * own.astype(stacked.dtype)",
            f"{DEVICES}::test_a_ghost_that_is_not_finite_is_alone",
        ),
        (
            "values made to vary one by one",
            "for names in dict.fromkeys(filter(None, missing)):\n"
            "        indices = [i for i, lacking in enumerate(missing) "
            "if lacking == names]",
            "for index, names in enumerate(missing):\n"
            "        indices = [index]\n"
            "        if not names:\n"
            "            continue",
            f"{COST}::test_remat_with_named_moments_repeats_no_reduction",
        ),
        (
            "groups that leave devices out accepted",
            "if not equal or sorted(sum(groups, ())) != list(range(size)):",
            "if not equal:",
            f"{BAD}::test_while_tracing",
        ),
    ],
    "_core/moments/approximate_mean.py": [
        (
            "a part of x under the name of the whole",
            "return reduction.local_mean(x[part].astype(dtype))",
            "return reduction.local_mean(x.astype(dtype)[part] / 2)",
            f"{APPROXIMATE}::test_a_part_of_x_is_as_good_as_the_whole",
        ),
        (
            "each device shifted by its own part",
            "return reduction.mapped_axes.mean(mean)",
            "return mean",
            f"{APPROXIMATE}::test_over_devices",
        ),
        (
            "all of x read on every platform",
            "default=of_part",
            "default=of_all",
            f"{APPROXIMATE}::test_which_part_is_read",
        ),
    ],
    "_core/reductions/staged_sums.py": [
        (
            "the second stage of half the sums",
            "return 2 * jnp.sum(sums / 2, second, keepdims=True)",
            "return jnp.sum(sums / 2, second, keepdims=True)",
            f"{STAGES}::test_oracle",
        ),
        (
            "half the cotangent where its sum is staged",
            "return jnp.broadcast_to(2 * value, shape) / 2",
            "return jnp.broadcast_to(value, shape) / 2",
            f"{STAGES}::test_oracle",
        ),
        (
            "sums in one stage on GPUs",
            "by_platform(value, gpu=in_stages, default=whole)",
            "by_platform(value, gpu=whole, default=whole)",
            f"{STAGES}::test_which_sums_have_two_stages",
        ),
    ],
    "_core/reductions/reduction.py": [
        (
            "weights differentiated in the count",
            "weights = lax.stop_gradient(zero_masked(mask, mask))",
            "weights = zero_masked(mask, mask)",
            f"{INVARIANTS}::test_weights_are_constants",
        ),
        (
            "the mask ignored in the count",
            "counted = self._local_count(mask, x)",
            "counted = self._local_count(jnp.ones_like(mask), x)",
            f"{MOMENTS}::test_masks",
        ),
        (
            "psum of the forward pass lost where there is no mask",
            "return self.unmasked_count(x), *self.sums(*values)",
            "return self.unmasked_count(x), *map(self.local_sum, values)",
            f"{SYNC}::test_without_a_mask",
        ),
        (
            "psum of the forward pass lost",
            "return self.all_reduce([counted, *sums])",
            "return counted, *sums",
            f"{SYNC}::test_weights",
        ),
        (
            "groups strided",
            "return jnp.sum(jnp.reshape(value, shape), axis + 1)",
            "shape = (*shape[:axis], *blocks[::-1], *value.shape[axis + 1 :])\n"
            "            return jnp.sum(jnp.reshape(value, shape), axis)",
            "sample/test_group_norm.py::test_oracle",
        ),
        (
            "a group's moments given to features of others",
            "repeated = jnp.broadcast_to(value, shape)",
            "repeated = jnp.broadcast_to(value, shape)\n"
            "        repeated = repeated.swapaxes(axis, axis + 1)",
            "sample/test_group_norm.py::test_oracle",
        ),
        (
            "a run of devices counted as all of them",
            "instances = self.mapped_axes.size(x) if self.runs is None "
            "else self.runs.length",
            "instances = self.mapped_axes.size(x)",
            f"{DEVICES}::test_two_passes_without_a_mask",
        ),
        (
            "a mask shared along an axis counted once",
            "return math.prod(shared)",
            "return 1",
            f"{MOMENTS}::test_masks",
        ),
        (
            "a mask shared by the features of a group counted once",
            "lengths[self.blocks.axis] = self.blocks.size",
            "pass",
            "sample/test_group_norm.py::test_oracle",
            "share",
        ),
    ],
    "_core/reductions/masking.py": [
        (
            "weights taken as members in the sums",
            "return value * lax.stop_gradient(mask).astype(value.dtype)",
            "return value",
            f"{MOMENTS}::test_masks",
        ),
        (
            "weights differentiated in the sums",
            "return value * lax.stop_gradient(mask).astype(value.dtype)",
            "return value * mask.astype(value.dtype)",
            f"{INVARIANTS}::test_weights_are_constants",
        ),
        (
            "masked elements come out as the bias",
            "return is_valid(mask) | _moderate(x, limit)",
            "return is_valid(mask)",
            f"{NORM}::test_oracle",
        ),
        (
            "huge masked numbers normalized",
            "return (x >= -limit) & (x <= limit)  # False for NaN",
            "return jnp.isfinite(x)",
            f"{INVARIANTS}::test_what_is_not_finite_under_the_mask_is_harmless",
        ),
    ],
    "_core/moments/compute_moments.py": [
        (
            "NaN under the mask reaches derivatives",
            "x = zero_masked(mask, x).astype(dtype)\n    if not use_fast_variance:",
            "x = x.astype(dtype)\n    if not use_fast_variance:",
            f"{MOMENTS}::test_gradients_match_the_oracle_under_a_nan_mask",
        ),
        (
            "the shift forgotten",
            "shift = lax.stop_gradient(safe_shift(shift.astype(dtype)))",
            "shift = jnp.zeros_like(shift, dtype)",
            f"{ACCURACY}::test_accuracy",
        ),
        (
            "NaN in the shift not guarded",
            "shift = lax.stop_gradient(safe_shift(shift.astype(dtype)))",
            "shift = lax.stop_gradient(shift.astype(dtype))",
            f"{ACCURACY}::test_poisoned_statistics_do_not_reach_the_output",
        ),
        (
            "the second pass relative to the old shift",
            "shift = tag_for_remat(mean_as_shift(count, total, shift))",
            "pass",
            f"{ACCURACY}::test_two_passes_do_not_depend_on_the_running_mean",
        ),
        (
            "one pass from the shift 0 where the mean is not known",
            "shift = tag_for_remat(round_last_bit(shift))",
            "shift = 0 * tag_for_remat(round_last_bit(shift))",
            f"{OWN}::test_large_offsets",
        ),
        (
            "squares in the dtype of x",
            "x = zero_masked(mask, x).astype(dtype)\n"
            "    sums = reduction.weighted_sums(real_inner_product(x, x),",
            "x = zero_masked(mask, x)\n"
            "    sums = reduction.weighted_sums(real_inner_product(x, "
            "x).astype(dtype),",
            f"{INVARIANTS}::test_half_precision",
            "rms",
        ),
        (
            "the moments stopped",
            "return moments_from_sums(shift, *tag_for_remat(sums))",
            "return lax.stop_gradient(moments_from_sums(shift, *tag_for_remat(sums)))",
            f"{MOMENTS}::test_gradients_match_the_oracle_under_a_nan_mask",
        ),
    ],
    "_core/arrays/rematerialization.py": [
        (
            "the name of the moments dropped",
            "return checkpoint_name(value, name)",
            "return value",
            f"{COST}::test_remat_with_named_moments_repeats_no_reduction",
        ),
        (
            "the name that no policy keeps dropped",
            'return tag_for_remat(tag_for_remat(x, INPUT_NAME), f"{INPUT_NAME}_again")',
            "return tag_for_remat(x, INPUT_NAME)",
            f"{POLICY}::test_a_layer_keeps_what_is_normalized_once",
        ),
        (
            "the moments made again",
            "_policies.save_only_these_names(INPUT_NAME, MOMENTS_NAME),",
            "_policies.save_only_these_names(INPUT_NAME),",
            f"{POLICY}::test_nothing_but_elementwise_operations_is_repeated",
        ),
    ],
    "_core/moments/pooling.py": [
        (
            "the variance between parts dropped",
            "square = mean_square_about(parts.var, parts.delta)",
            "square = parts.var",
            f"{GHOSTS}::test_what_the_rules_follow",
        ),
        (
            "parts pooled as if equally large",
            "sums = reduction.sums(count, weight * parts.delta, count * square)",
            "one = jnp.ones_like(count)\n"
            "    sums = reduction.sums(one, one.astype(weight.dtype) * parts.delta, "
            "square)",
            f"{FAMILY}::test_training",
            "pooled",
        ),
        (
            "two passes about the shifts of the first",
            "return pool_moments(parts.with_shift(tag_for_remat(shift)), reduction)",
            "return pool_moments(parts, reduction)",
            f"{ACCURATE}::test_each_feature_of_each_example_is_accurate",
            "switchable and missing",
        ),
        (
            "the sums over devices of the first pass lost",
            "number, total = reduction.sums(*lax.stop_gradient((count, "
            "weight * parts.mean)))",
            "number, total = map(reduction.local_sum, lax.stop_gradient((count, "
            "weight * parts.mean)))",
            f"{DEVICES}::test_two_passes_without_a_mask",
        ),
    ],
    "_core/moments/total_variance.py": [
        (
            "the variance between batches dropped",
            "a * (1 - weight) + b * weight + between",
            "a * (1 - weight) + b * weight",
            f"{MOMENTS}::test_merge_keeps_a_common_offset_exactly "
            f"{MOMENTS}::test_any_split_equals_the_whole",
        ),
    ],
    "_core/moments/moments.py": [
        (
            "moments of nothing are not the identity",
            "nonempty = b.count > 0",
            "nonempty = b.count >= 0",
            f"{MOMENTS}::test_moments_of_nothing_may_be_anything",
        ),
    ],
    "_core/running/running_moments.py": [
        (
            "rounding errors of a stream dropped",
            "return first, rest - (first - total)",
            "return first, 0 * rest",
            f"{STREAM}::test_single_elements_of_a_long_stream_count",
        ),
        (
            "the variance between batches of a stream dropped",
            "(within + between) * weight",
            "within * weight",
            f"{STREAM}::test_a_stream_of_unequal_batches_is_one_batch",
        ),
        (
            "the second part of a count is not forgotten",
            "rest = jnp.full_like(moments.count_rest, max_count - float(limit))",
            "rest = moments.count_rest",
            f"{STREAM}::test_the_past_is_forgotten",
        ),
    ],
    "_core/fusion.py": [
        (
            "half of a product of narrow rows with the other sign",
            "return (centered * rstd) * tscale - (centered * k) * (rstd * cov)",
            "return (centered * rstd) * tscale + (centered * k) * (rstd * cov)",
            "test_fusion.py",
        ),
    ],
    "_core/standardize.py": [
        (
            "rounded after the scale",
            "if spec.round_before_scale:",
            "if False:",
            "sample/test_round_before_scale.py::test_it_equals_llama_bit_for_bit",
        ),
        (
            "psum of the backward pass lost",
            "sums = spec.reduction.sums(*(apply_weights(mask, product) "
            "for product in products))",
            "sums = [spec.reduction.local_sum(apply_weights(mask, p)) for p in "
            "products]",
            f"{SYNC}::test_weights",
        ),
        (
            "the mask ignored in the backward pass",
            "sums = spec.reduction.sums(*(apply_weights(mask, product) "
            "for product in products))",
            "sums = spec.reduction.sums(*products)",
            f"{NORM}::test_oracle",
        ),
        (
            "epsilon outside the root",
            "rstd = inverse_std(moments.var, spec.epsilon, moments.var.dtype, "
            "nonempty)",
            "rstd = 1 / (jnp.sqrt(moments.var) + spec.epsilon)",
            f"{NORM}::test_oracle",
        ),
        (
            "shift and delta added before they are subtracted",
            "return zero_masked(valid, (x - shift) - delta)",
            "return zero_masked(valid, x - (shift + delta))",
            f"{ACCURACY}::test_accuracy",
        ),
        (
            "the mean a constant of the backward pass",
            "tmean = means.pop(0) if spec.center else zero",
            "tmean = means.pop(0) * 0 if spec.center else zero",
            f"{NORM}::test_oracle",
        ),
        (
            "the variance a constant of the backward pass",
            "slope = rstd * (tscale - k * cov)",
            "slope = rstd * tscale",
            f"{NORM}::test_oracle",
        ),
        (
            "a gradient through a variance that rounding holds up",
            "follows = moments.var > rounding_noise(square)",
            "follows = jnp.ones_like(moments.var, bool)",
            f"{DERIVATIVES}::test_a_clamped_variance_has_no_gradient",
        ),
        (
            "the moments constants of higher derivatives",
            "return y, tangent((x, moments, scale, mask), (tx, tscale, tbias))",
            "moments = jax.lax.stop_gradient(moments)\n"
            "    return y, tangent((x, moments, scale, mask), (tx, tscale, tbias))",
            f"{DERIVATIVES}::test_hessian",
        ),
        (
            "the linear part not recomputed",
            "tangent = jax.checkpoint(functools.partial(_tangent, spec), "
            "prevent_cse=False)",
            "tangent = functools.partial(_tangent, spec)",
            f"{COST}::test_saved_for_the_backward_pass_are_x_and_vectors",
        ),
        (
            "cotangents behind the barrier",
            "(_tangent, spec), prevent_cse=False)",
            "(_tangent, spec))",
            f"{COST}::test_what_stands_behind_a_barrier_is_x_alone",
        ),
        (
            "gradients where a masked number is not finite",
            "y = zero_masked_nonfinite(mask, x, y) + tbias",
            "y = y + tbias",
            f"{NORM}::test_not_finite_under_the_mask",
        ),
    ],
    "_core/normalize.py": [
        (
            "denormalized with the scale where its inverse belongs",
            "return ((y - bias) / scale * std",
            "return ((y - bias) * scale * std",
            "test_normalize.py::test_denormalize_inverts_normalize",
        ),
        (
            "the dtype of the computation, not that of the result",
            "return y.astype(result)",
            "return y",
            f"{INVARIANTS}::test_half_precision",
            "virtual",
        ),
        (
            "what is not finite under the mask shows in inference",
            "x = zero_masked(valid, x).astype(dtype)\n"
            "    centered = zero_masked(valid, x - mean.astype(dtype))",
            "centered = x.astype(dtype) - mean.astype(dtype)",
            f"{NORM}::test_not_finite_under_the_mask",
        ),
    ],
    "_core/running/update_running.py": [
        (
            "momentum swapped",
            "mixed = kept * old.astype(dtype) + added * new.astype(dtype)",
            "mixed = added * old.astype(dtype) + kept * new.astype(dtype)",
            f"{MOMENTS}::test_update",
        ),
        (
            "new statistics differentiated",
            "old, new = lax.stop_gradient((old, new))",
            "pass",
            f"{STATS}::test_new_statistics_carry_no_gradient",
        ),
        (
            "empty features not kept",
            "weight = where(nonempty, weight, 1)",
            "pass",
            f"{MOMENTS}::test_update",
        ),
        (
            "NaN remembered with momentum 0",
            "old = where(weight > 0, old, jnp.zeros_like(old))",
            "pass",
            f"{STATS}::test_momentum_zero_forgets_even_nan",
        ),
        (
            "an empty batch counted as an update",
            "updates = jnp.ones(()) if nonempty is None else jnp.any(nonempty)",
            "updates = jnp.ones(())",
            f"{STATS}::test_an_empty_batch_is_no_update",
        ),
        (
            "an empty batch without a mask updates the statistics",
            "if not (is_known(moments.count) and moments.count > 0):",
            "if not is_known(moments.count):",
            f"{STATS}::test_an_empty_batch_is_no_update",
        ),
        (
            "the known factor of one element infinite",
            "return np.where(count > 1, count / np.maximum(count - 1, 1), 1)",
            "return np.where(count > 1, count / np.maximum(count - 1, 1), np.inf)",
            f"{NORM}::test_unbiased",
        ),
        (
            "a momentum that is traced differentiated",
            "weight = shard_as(old, lax.stop_gradient(weight))",
            "weight = shard_as(old, weight)",
            f"{STATS}::test_new_statistics_carry_no_gradient",
        ),
        (
            "the factor of one element infinite",
            "more_than_one = count > 1",
            "more_than_one = count > 0",
            f"{MOMENTS}::test_update",
        ),
        (
            "the running std without epsilon",
            'batch["std"] = jnp.sqrt(var + epsilon)',
            'batch["std"] = jnp.sqrt(var)',
            "batch/test_batch_family.py::test_training",
            "renorm",
        ),
        (
            "running variances biased in spite of unbiased",
            "unbiased_factor(moments.count) if unbiased else moments.var",
            "1.0",
            f"{NORM}::test_unbiased",
        ),
        (
            "what overflows when stored kept",
            "finite.append(jnp.isfinite(after) | ~jnp.isfinite(before))",
            "pass",
            f"{STATS}::test_what_overflows_when_stored_is_not_finite",
        ),
        (
            "one poisoned feature stops the others for good",
            "finite.append(jnp.isfinite(after) | ~jnp.isfinite(before))",
            "finite.append(jnp.isfinite(after))",
            f"{STATS}::test_a_poisoned_feature_does_not_stop_the_others",
        ),
    ],
    "_core/arguments/axes.py": [],
    "_core/arguments/validation.py": [
        (
            "negative epsilon accepted",
            'if not 0 <= epsilon < float("inf"):',
            'if not epsilon < float("inf"):',
            f"{BAD}::test_while_tracing",
        ),
        (
            "unbiased variances of fractional weights accepted",
            "if unbiased and jnp.issubdtype(mask.dtype, jnp.floating):",
            "if False:",
            f"{BAD}::test_while_tracing",
        ),
    ],
}
