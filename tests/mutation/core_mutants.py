"""Faults in sums, moments, the derivative rule and the running statistics."""

SYNC = "test_synchronization.py"
AXES = "test_synchronized_axes.py"
MOMENTS = "test_moments.py"
NORM = "test_batch_norm.py"
STATS = "test_running_stats.py"
ACCURACY = "test_accuracy.py"
DERIVATIVES = "test_derivatives.py"
COST = "test_cost.py"
INVARIANTS = "test_family_invariants.py"
BAD = "test_bad_input.py"
FAMILY = "batch/test_batch_family.py"
GHOSTS = "batch/test_ghost_batch_norm.py"
ACCURATE = "batch/test_batch_family_accuracy.py"
DEVICES = "batch/test_batch_family_over_devices.py"
OWN = "sample/test_own_moments.py"
OWN_DEVICES = "sample/test_own_moments_over_devices.py"
STREAM = "batch/test_running_norm.py"
NEAR_MEAN = "sample/test_near_mean.py"

MUTANTS = {
    "core/affine.py": [
        (
            "scale_offset ignored",
            "elif scale_offset:",
            "elif False:",
            f"{OWN}::test_oracle",
            "offset",
        ),
        (
            "scale_offset added in the dtype of scale",
            "scale = scale.astype(wide) + scale_offset",
            "scale = scale + scale_offset",
            f"{OWN}::test_scale_offset_is_added_before_rounding",
        ),
    ],
    "core/collectives.py": [
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
            "return lax.axis_size(names) if names else 1",
            "return lax.axis_size(self.names) if names else 1",
            f"{AXES}::test_an_axis_that_x_does_not_vary_over_counts_once",
        ),
        (
            "elements of other devices not counted",
            "return lax.axis_size(names) if names else 1",
            "return 1",
            f"{SYNC}::test_without_a_mask",
        ),
        (
            "drifted replicas not averaged",
            "return jax.tree.map(average, stats)",
            "return stats",
            f"{SYNC}::test_drifted_statistics_act_as_their_average_and_leave_equal",
        ),
        (
            "replicas summed, not averaged",
            "return (total / number).astype(leaf.dtype)",
            "return total.astype(leaf.dtype)",
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
    "core/near_mean.py": [
        (
            "a part of x under the name of the whole",
            "return reduction.local_mean(x[head].astype(dtype))",
            "return reduction.local_mean(x.astype(dtype)[head] / 2)",
            f"{NEAR_MEAN}::test_a_part_of_x_is_as_good_as_the_whole",
        ),
        (
            "each device shifted by its own part",
            "return reduction.across.mean(mean)",
            "return mean",
            f"{NEAR_MEAN}::test_over_devices",
        ),
        (
            "all of x read on every platform",
            "default=of_part",
            "default=of_all",
            f"{NEAR_MEAN}::test_which_part_is_read",
        ),
    ],
    "core/reduction.py": [
        (
            "groups strided",
            "return jnp.sum(jnp.reshape(value, shape), axis + 1)",
            "shape = (*shape[:axis], *blocks[::-1], *value.shape[axis + 1 :])\n"
            "            return jnp.sum(jnp.reshape(value, shape), axis)",
            f"{OWN}::test_oracle",
        ),
        (
            "a group's moments given to features of others",
            "repeated = jnp.broadcast_to(value, shape)",
            "repeated = jnp.broadcast_to(value, shape)\n"
            "        repeated = repeated.swapaxes(axis, axis + 1)",
            f"{OWN}::test_oracle",
        ),
        (
            "a run of devices counted as all of them",
            "instances = self.across.size(x) if self.runs is None "
            "else self.runs.length",
            "instances = self.across.size(x)",
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
            f"{OWN}::test_oracle",
            "share",
        ),
    ],
    "core/masks.py": [
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
            "return member(mask) | _moderate(x, limit)",
            "return member(mask)",
            f"{NORM}::test_oracle",
        ),
        (
            "huge masked numbers normalized",
            "return (x >= -limit) & (x <= limit)  # False for NaN",
            "return jnp.isfinite(x)",
            f"{INVARIANTS}::test_what_is_not_finite_under_the_mask_is_harmless",
        ),
    ],
    "core/measure.py": [
        (
            "psum of the forward pass lost",
            "return reduction.share([_local_count(mask, x, reduction), *sums])",
            "return _local_count(mask, x, reduction), *sums",
            f"{SYNC}::test_weights",
        ),
        (
            "psum of the forward pass lost where there is no mask",
            "return count, *reduction.sums(*values)",
            "return count, *map(reduction.local_sum, values)",
            f"{SYNC}::test_without_a_mask",
        ),
        (
            "the mask ignored in the count",
            "return reduction.share([_local_count(mask, x, reduction), *sums])",
            "mask = jnp.ones_like(mask)\n"
            "    return reduction.share([_local_count(mask, x, reduction), *sums])",
            f"{MOMENTS}::test_masks",
        ),
        (
            "weights differentiated in the count",
            "weights = lax.stop_gradient(select(mask, mask))",
            "weights = select(mask, mask)",
            f"{INVARIANTS}::test_weights_are_constants",
        ),
        (
            "NaN under the mask reaches derivatives",
            "x = select(mask, x).astype(dtype)\n    shift =",
            "x = x.astype(dtype)\n    shift =",
            f"{MOMENTS}::test_gradients",
        ),
        (
            "inner products without conj",
            "return a.real * b.real + a.imag * b.imag",
            "return a.real * b.real - a.imag * b.imag",
            f"{MOMENTS}::test_dtypes",
        ),
        (
            "the shift forgotten",
            "shift = lax.stop_gradient(usable_shift(shift.astype(dtype)))",
            "shift = jnp.zeros_like(shift, dtype)",
            f"{ACCURACY}::test_accuracy",
        ),
        (
            "NaN in the shift not guarded",
            "shift = lax.stop_gradient(usable_shift(shift.astype(dtype)))",
            "shift = lax.stop_gradient(shift.astype(dtype))",
            f"{ACCURACY}::test_poisoned_statistics_do_not_reach_the_output",
        ),
        (
            "shifts whose squares overflow used",
            "moderate = jnp.abs(shift) < limit",
            "moderate = jnp.isfinite(shift)",
            f"{ACCURACY}::test_poisoned_statistics_do_not_reach_the_output",
        ),
        (
            "the second pass relative to the old shift",
            "shift = named(mean_as_shift(count, total, shift))",
            "pass",
            f"{ACCURACY}::test_two_passes_do_not_depend_on_the_running_mean",
        ),
        (
            "one pass from the shift 0 where the mean is not known",
            "shift = named(round_last_bit(shift))",
            "shift = 0 * named(round_last_bit(shift))",
            f"{OWN}::test_large_offsets",
        ),
        (
            "float32 accumulation dropped",
            "dtype = accumulation_dtype(x.dtype)\n    # Selected before",
            "dtype = x.dtype\n    # Selected before",
            f"{MOMENTS}::test_dtypes",
        ),
        (
            "squares in the dtype of x",
            "x = select(mask, x).astype(dtype)\n    sums = weighted_sums(inner(x, x),",
            "x = select(mask, x)\n    sums = weighted_sums(inner(x, x).astype(dtype),",
            f"{INVARIANTS}::test_half_precision",
            "rms",
        ),
        (
            "the moments stopped",
            "return from_sums(shift, *named(sums))",
            "return lax.stop_gradient(from_sums(shift, *named(sums)))",
            f"{MOMENTS}::test_gradients",
        ),
        (
            "the variance unbiased where it normalizes",
            "var = total_square / nonzero(count) - inner(delta, delta)",
            "bessel = count / jnp.maximum(count - 1, 1)\n"
            "    var = bessel * (total_square / nonzero(count) - inner(delta, delta))",
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
            "noise = lax.stop_gradient(rounding_noise(delta))",
            "noise = rounding_noise(delta)",
            f"{MOMENTS}::test_no_gradient_through_a_variance_that_rounding_holds_up",
        ),
        (
            "the name of the moments dropped",
            "return checkpoint_name(leaf, MOMENTS_NAME)",
            "return leaf",
            f"{COST}::test_remat_with_named_moments_repeats_no_reduction",
        ),
    ],
    "core/pooling.py": [
        (
            "the variance between parts dropped",
            "square = parts.var + inner(parts.delta, parts.delta)",
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
            "return pool(parts.about(named(shift)), reduction)",
            "return pool(parts, reduction)",
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
    "core/moments.py": [
        (
            "the variance between batches dropped",
            "a.var * (1 - weight) + b_var * weight + between",
            "a.var * (1 - weight) + b_var * weight",
            f"{MOMENTS}::test_merge_keeps_a_common_offset_exactly "
            f"{MOMENTS}::test_any_split_equals_the_whole",
        ),
        (
            "moments of nothing are not the identity",
            "seen = b.count > 0",
            "seen = b.count >= 0",
            f"{MOMENTS}::test_moments_of_nothing_may_be_anything",
        ),
    ],
    "core/running_moments.py": [
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
            "rest = jnp.zeros_like(moments.count_rest)",
            "rest = moments.count_rest",
            f"{STREAM}::test_the_past_is_forgotten",
        ),
    ],
    "core/standardize.py": [
        (
            "rounded after the scale",
            "if spec.round_before_scale:",
            "if False:",
            "sample/test_round_before_scale.py::test_equal_to_the_bit",
        ),
        (
            "psum of the backward pass lost",
            "sums = spec.reduction.sums(*(weigh(mask, product) "
            "for product in products))",
            "sums = [spec.reduction.local_sum(weigh(mask, p)) for p in products]",
            f"{SYNC}::test_weights",
        ),
        (
            "the mask ignored in the backward pass",
            "sums = spec.reduction.sums(*(weigh(mask, product) "
            "for product in products))",
            "sums = spec.reduction.sums(*products)",
            f"{NORM}::test_oracle",
        ),
        (
            "epsilon outside the root",
            "rstd = inverse_std(moments.var, spec.epsilon, moments.var.dtype, seen)",
            "rstd = 1 / (jnp.sqrt(moments.var) + spec.epsilon)",
            f"{NORM}::test_oracle",
        ),
        (
            "shift and delta added before they are subtracted",
            "x = x - spec.reduction.spread(moments.shift).astype(dtype)\n"
            "    return select(valid, x - "
            "spec.reduction.spread(moments.delta).astype(dtype))",
            "return select(valid, x - "
            "spec.reduction.spread(moments.mean).astype(dtype))",
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
            "slope = rstd * (tscale - k * (rstd * spec.reduction.spread(cov)))",
            "slope = rstd * tscale",
            f"{NORM}::test_oracle",
        ),
        (
            "a gradient through a variance that rounding holds up",
            "follows = moments.var > rounding_noise(moments.delta)",
            "follows = jnp.ones_like(moments.var, bool)",
            f"{DERIVATIVES}"
            "::test_no_gradient_through_a_variance_that_rounding_holds_up",
        ),
        (
            "the moments constants of higher derivatives",
            "return y, tangent((x, moments, scale, mask), (tx, tscale, tbias))",
            "moments = lax.stop_gradient(moments)\n"
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
            "tx = keep_usable(mask, x, tx)",
            "pass",
            f"{NORM}::test_not_finite_under_the_mask",
        ),
        (
            "gradients of the mean where a masked number is not finite",
            "offset = keep_usable(mask, x, offset)",
            "pass",
            f"{NORM}::test_not_finite_under_the_mask",
        ),
    ],
    "core/normalize.py": [
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
            "centered = select(valid, select(valid, x).astype(dtype) - "
            "mean.astype(dtype))",
            "centered = x.astype(dtype) - mean.astype(dtype)",
            f"{NORM}::test_not_finite_under_the_mask",
        ),
    ],
    "core/running.py": [
        (
            "momentum swapped",
            "mixed = weight.astype(dtype) * kept + (1 - weight).astype(dtype) * added",
            "mixed = (1 - weight).astype(dtype) * kept + weight.astype(dtype) * added",
            f"{MOMENTS}::test_update",
        ),
        (
            "new statistics differentiated",
            "old, new, weight = lax.stop_gradient((old, new, weight))",
            "pass",
            f"{STATS}::test_new_statistics_carry_no_gradient",
        ),
        (
            "empty features not kept",
            "weight = where(seen, weight.astype(real_dtype(dtype)), 1)",
            "weight = weight.astype(real_dtype(dtype))",
            f"{MOMENTS}::test_update",
        ),
        (
            "NaN remembered with momentum 0",
            "kept = where(weight > 0, old, jnp.zeros_like(old)).astype(dtype)",
            "kept = old.astype(dtype)",
            f"{STATS}::test_momentum_zero_forgets_even_nan",
        ),
        (
            "the count of the next update, not of those so far",
            'momentum(jnp.asarray(running["count"]))',
            'momentum(jnp.asarray(running["count"]) + 1)',
            f"{MOMENTS}::test_momentum_as_a_function_of_the_count",
        ),
        (
            "an empty batch counted as an update",
            "updates = jnp.any(seen) if updates is None else updates",
            "updates = jnp.ones(()) if updates is None else updates",
            f"{STATS}::test_an_empty_batch_is_no_update",
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
    "core/momentum.py": [
        (
            "the warm-up of momentum off by one",
            "(1 + count) / (10 + count)",
            "count / (9 + count)",
            f"{MOMENTS}::test_momentum_as_a_function_of_the_count",
        ),
        (
            "momentum above 1 accepted",
            "if isinstance(value, np.ndarray) and not 0 <= value <= 1:",
            "if isinstance(value, np.ndarray) and not 0 <= value:",
            f"{BAD}::test_while_tracing",
        ),
    ],
    "core/axes.py": [
        (
            "weights cast to bool",
            "return mask if jnp.issubdtype(mask.dtype, jnp.floating) "
            "else mask.astype(bool)",
            "return mask.astype(bool)",
            f"{MOMENTS}::test_masks",
        ),
        (
            "integers taken as weights",
            "else mask.astype(bool)",
            "else mask.astype(jnp.float32)",
            f"{MOMENTS}::test_masks",
        ),
    ],
    "core/validation.py": [
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
