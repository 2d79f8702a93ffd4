"""Faults in the normalizers with the statistics of a batch."""

NORM = "test_batch_norm.py"
SYNC = "test_synchronization.py"
ACCURACY = "test_accuracy.py"
INVARIANTS = "test_family_invariants.py"
SWITCHABLE = "hybrid/test_switchable_norm.py"
FAMILY = "batch/test_batch_family.py"
STATE = "batch/test_batch_family_state.py"
DEVICES = "batch/test_batch_family_over_devices.py"
COST = "batch/test_batch_family_cost.py"
BAD = "batch/test_batch_family_bad_input.py"
RENORM = "batch/test_batch_renorm.py"
GHOSTS = "batch/test_ghost_batch_norm.py"
VIRTUAL = "batch/test_virtual_batch_norm.py"
ADAPTIVE = "batch/test_adaptive_batch_norm.py"
ACCURATE = "batch/test_batch_family_accuracy.py"
STREAM = "batch/test_running_norm.py"
RECURRENT = "batch/test_recurrent_batch_norm.py"

MUTANTS = {
    "_core/call.py": [
        (
            "x cast for each of its uses",
            "            x = x.astype(accumulation_dtype(x.dtype))\n",
            "",
            f"{INVARIANTS}::test_the_gradient_of_x_is_rounded_once",
            "adaptive",
        ),
        (
            "collectives repeated in the backward pass",
            "return jax.checkpoint(run, policy=KEEP_MOMENTS)(self.x)",
            "return jax.checkpoint(run)(self.x)",
            f"{COST}::test_the_backward_pass_repeats_no_collective",
        ),
        (
            "deviations and normalized elements saved",
            "return jax.checkpoint(run, policy=KEEP_MOMENTS)(self.x)",
            "return run(self.x)",
            f"{COST}::test_saved_for_the_backward_pass_are_x_and_small_arrays",
            "adaptive",
        ),
    ],
    "_core/batch_call.py": [
        (
            "unbiased ignored by the batch normalizers",
            "unbiased=self.unbiased,",
            "",
            f"{FAMILY}::test_float64",
            "evo",
        ),
        (
            "epsilon outside the root in inference",
            "rstd = inverse_std(var, epsilon, dtype, nonempty)",
            "rstd = 1 / (var**0.5 + epsilon)",
            f"{NORM}::test_oracle",
        ),
        (
            "skip_nonfinite ignored",
            "skip_nonfinite=self.skip_nonfinite,\n            updates",
            "updates",
            f"{NORM}::test_skip_nonfinite",
        ),
        (
            "use_fast_variance ignored",
            "shift=self.align(shift),\n"
            "            use_fast_variance=self.use_fast_variance,",
            "shift=self.align(shift),\n            use_fast_variance=True,",
            f"{ACCURACY}::test_two_passes_do_not_depend_on_the_running_mean",
        ),
        (
            "epsilon added twice in inference",
            "epsilon = self.spec.epsilon if epsilon is None else epsilon",
            "epsilon = self.spec.epsilon",
            f"{RENORM}::test_keras",
        ),
    ],
    "batch/batch_norm.py": [
        (
            "features without elements divided by their own variance",
            "y = "
            "call.standardize(moments.with_var_where_empty(call.align(running.var"
            ")))",
            "y = call.standardize(moments)",
            f"{NORM}::test_oracle",
            "without and elements",
        ),
        (
            "each replica updates its own statistics",
            "return y, call.update(running, call.per_feature(moments))",
            "return y, call.update(stats, call.per_feature(moments))",
            f"{SYNC}::test_drifted_statistics_act_as_their_average_and_leave_equal",
        ),
    ],
    "batch/instances.py": [
        (
            "instances share their features",
            "axes = other_axes((batch_axis(call.features), *call.features), ",
            "axes = other_axes((batch_axis(call.features),), ",
            f"{FAMILY}::test_training",
            "adaptive",
        ),
        (
            "one pass over instances whatever is asked for",
            "use_fast_variance = call.use_fast_variance",
            "use_fast_variance = True",
            f"{ACCURATE}::test_each_feature_of_each_example_is_accurate",
            "adaptive and cold",
        ),
        (
            "NaN of the running mean hidden in inference",
            "delta = mean.astype(instances.shift.dtype) - instances.shift",
            "delta = 0 * instances.shift",
            f"{STATE}::test_poisoned_statistics_show_in_inference "
            f"{SWITCHABLE}::test_a_poisoned_batch_part_in_inference_shows",
            "adaptive or poisoned_batch_part",
        ),
    ],
    "batch/batch_renorm.py": [
        (
            "r not bounded from below",
            "r = jnp.clip(std / running_std, 1 / r_max, r_max)",
            "r = jnp.minimum(std / running_std, r_max)",
            f"{RENORM}::test_without_corrections_it_is_batch_norm {RENORM}::test_keras",
        ),
        (
            "d not bounded from below",
            "d = jnp.clip(difference / running_std, -d_max, d_max)",
            "d = jnp.minimum(difference / running_std, d_max)",
            f"{RENORM}::test_keras",
        ),
        (
            "corrections differentiated",
            "r, d = lax.stop_gradient(\n        _corrections(",
            "r, d = (\n        _corrections(",
            f"{RENORM}::test_corrections_carry_no_gradient_where_nothing_is_clipped",
        ),
        (
            "d from the mean after the update",
            "moments, call.align(running.mean), running_std, r_max, d_max, epsilon",
            "moments, call.align(0.99 * running.mean + 0.01 * "
            "call.per_feature(moments).mean), running_std, r_max, d_max, epsilon",
            f"{RENORM}::test_where_nothing_is_clipped_it_is_inference",
        ),
        (
            "d not scaled",
            "bias=bias + scale * d",
            "bias=bias + d",
            f"{RENORM}::test_where_nothing_is_clipped_it_is_inference",
        ),
        (
            "a dead running std not raised",
            "return jnp.maximum(std, jnp.asarray(epsilon**0.5, std.dtype))",
            "return std",
            f"{RENORM}::test_a_std_below_that_of_no_variance_is_raised_to_it",
        ),
        (
            "corrected towards NaN",
            "comparable = (moments.count > 0) & jnp.isfinite(running_mean)",
            "comparable = moments.count > 0",
            f"{STATE}::test_renorm_does_not_correct_towards_what_is_not_finite",
        ),
        (
            "r_max below 1 accepted",
            "if isinstance(known, np.ndarray) and not known >= least:",
            "if isinstance(known, np.ndarray) and not known >= 0:",
            f"{BAD}::test_options",
        ),
    ],
    "batch/renorm_schedule.py": [
        (
            "ramps that begin at update 0",
            "elapsed = jnp.asarray(count, jnp.float32) - self.start",
            "elapsed = jnp.asarray(count, jnp.float32)",
            f"{RENORM}::test_warmup_renorm",
        ),
    ],
    "batch/ghost_batch_norm.py": [
        (
            "empty ghosts divided by their own variance",
            "y = "
            "call.standardize(moments.with_var_where_empty(call.align(running.var"
            ")))",
            "y = call.standardize(moments)",
            f"{GHOSTS}::test_a_ghost_without_elements_uses_the_running_statistics",
        ),
        (
            "statistics of the ghosts of this device alone",
            "moments if ghosts.runs is not None else _gather(call, moments, whole)",
            "moments",
            f"{DEVICES}::test_two_passes_without_a_mask",
        ),
        (
            "ghosts that leave examples over accepted",
            "or virtual_batch_size != whole * spanned",
            "or False",
            f"{BAD}::test_ghosts_over_devices",
        ),
    ],
    "batch/ghost_stats.py": [
        (
            "the rules pooled and mean swapped",
            'if rule == "pooled":',
            'if rule == "mean":',
            f"{GHOSTS}::test_what_the_rules_follow",
        ),
        (
            "sequential taken as mean",
            'if rule == "mean":',
            'if rule != "pooled":',
            f"{GHOSTS}::test_what_the_rules_follow",
        ),
        (
            "ghosts weighed by their elements",
            "share = (count > 0).astype(count.dtype)",
            "share = count",
            f"{FAMILY}::test_training",
            "ghost and weights",
        ),
        (
            "the last ghost forgotten first",
            "later = index.reshape(1, -1) > index.reshape(-1, 1)",
            "later = index.reshape(1, -1) < index.reshape(-1, 1)",
            f"{GHOSTS}::test_what_the_rules_follow",
        ),
        (
            "an empty ghost forgets the others",
            "momentum = jnp.where(nonempty, momentum, jnp.ones_like(momentum))",
            "pass",
            f"{GHOSTS}::test_sequential_is_one_batch_after_the_other",
        ),
        (
            "one momentum for all ghosts of a schedule",
            "counts = stats.count + jnp.sum(earlier, 1)",
            "counts = stats.count + 0 * jnp.sum(earlier, 1)",
            f"{GHOSTS}::test_sequential_is_one_batch_after_the_other",
        ),
        (
            "one update for all ghosts",
            "return call.update(stats, batch, weight=kept, updates=updates)",
            "return call.update(stats, batch, weight=kept)",
            f"{GHOSTS}::test_the_number_of_updates",
        ),
        (
            "the unbiased factor of the whole batch",
            "var = var * unbiased_factor(ghosts.count)",
            "var = var * unbiased_factor(jnp.sum(count, axis, keepdims=True))",
            f"{GHOSTS}::test_sequential_is_one_batch_after_the_other",
        ),
        (
            "the unbiased factor of the whole batch, too",
            "call = dataclasses.replace(call, unbiased=False)",
            "pass",
            f"{GHOSTS}::test_sequential_is_one_batch_after_the_other",
        ),
    ],
    "batch/virtual_batch_norm.py": [
        (
            "the example as one of N, not of N + 1",
            "weight = 1 / (size.astype(own.var.dtype) + 1)",
            "weight = 1 / size.astype(own.var.dtype)",
            f"{FAMILY}::test_training",
            "virtual",
        ),
        (
            "include_self ignored",
            "if not include_self:",
            "if False:",
            f"{VIRTUAL}::test_without_the_example_it_is_inference",
        ),
        (
            "the variance between example and reference dropped",
            "variance_of_two(reference_var, own.var, own.delta, weight)",
            "variance_of_two(reference_var, own.var, 0 * own.delta, weight)",
            f"{FAMILY}::test_training",
            "virtual",
        ),
        (
            "an example without elements counted",
            "weight = where(own.count > 0, weight, jnp.zeros_like(weight))",
            "pass",
            f"{FAMILY}::test_training",
            "virtual",
        ),
        (
            "masked examples of the reference counted",
            "number = jnp.sum(valid.astype(jnp.float32))",
            "pass",
            f"{VIRTUAL}::test_the_reference_is_normalized_as_by_batch_norm",
        ),
        (
            "the reference stopped",
            "shift = call.align(reference.mean)\n",
            "import jax\n"
            "        shift = call.align(jax.lax.stop_gradient(reference.mean))\n",
            f"{VIRTUAL}::test_gradients_through_the_reference",
        ),
    ],
    "batch/adaptive_batch_norm.py": [
        (
            "the noise of a variance over L, not L - 1",
            "var_limit = strength * noise * jnp.sqrt(2 / (number - 1))",
            "var_limit = strength * noise * jnp.sqrt(2 / number)",
            f"{FAMILY}::test_training",
            "adaptive",
        ),
        (
            "the noise of a mean over L - 1, not L",
            "mean_limit = strength * safe_sqrt(noise / number)",
            "mean_limit = strength * safe_sqrt(noise / (number - 1))",
            f"{FAMILY}::test_training",
            "adaptive",
        ),
        (
            "an instance's variance biased",
            "own_var = instances.var * unbiased_factor(number)",
            "own_var = instances.var",
            f"{ADAPTIVE}"
            "::test_of_no_strength_is_instance_norm_with_the_unbiased_variance",
        ),
        (
            "thresholds without epsilon",
            "noise = var + call.spec.epsilon",
            "noise = var",
            f"{FAMILY}::test_training",
            "adaptive",
        ),
        (
            "hard thresholds",
            "return jnp.clip(batch, own - limit, own + limit)",
            "return jnp.where(jnp.abs(own - batch) > limit, own, batch)",
            f"{FAMILY}::test_training",
            "adaptive",
        ),
        (
            "one position trusted",
            "known = instances.count >= 2",
            "known = instances.count >= 1",
            f"{ADAPTIVE}::test_one_position_has_no_statistics",
        ),
    ],
    "batch/evo_norm_b0.py": [
        (
            "the smaller of the two deviations",
            "divisor = jnp.maximum(batch_std, own)",
            "divisor = jnp.minimum(batch_std, own)",
            "batch/test_evo_norm_b0.py::test_training",
            "evo",
        ),
        (
            "epsilon outside the root of the instance's variance",
            "safe_sqrt(instances.var.astype(dtype) + epsilon)",
            "safe_sqrt(instances.var.astype(dtype)) + epsilon",
            "batch/test_evo_norm_b0.py::test_training",
            "evo",
        ),
        (
            "an instance without elements not the bias",
            "x = where(instances.count > 0, x, jnp.zeros_like(x))",
            "pass",
            "batch/test_evo_norm_b0.py::test_training",
            "evo",
        ),
    ],
    "batch/mean_only_batch_norm.py": [
        (
            "mean-only divides by the standard deviation",
            "spec = dataclasses.replace(call.spec, rescale=False)",
            "spec = call.spec",
            "batch/test_mean_only_batch_norm.py::test_training",
            "mean and only",
        ),
    ],
    "batch/stream.py": [
        (
            "a stream normalized with the first part of its mean",
            ".astype(dtype) - mean) - rest\n",
            ".astype(dtype) - mean)\n",
            f"{STREAM}::test_a_large_mean_from_the_first_batch_on",
        ),
        (
            "moments of a stream are differentiated",
            "cast_moments(lax.stop_gradient(moments), dtype)",
            "cast_moments(moments, dtype)",
            f"{STREAM}::test_clipping_and_gradients",
        ),
        (
            "the past of a stream is not forgotten",
            "moments if self.max_count is None else cap_count(moments, self.max_count)",
            "moments",
            f"{STREAM}::test_the_past_is_forgotten",
        ),
    ],
    "batch/recurrent_batch_norm.py": [
        (
            "every step moves the first row",
            "leaf.astype(value.dtype), value, step, 0",
            "leaf.astype(value.dtype), value, 0, 0",
            f"{RECURRENT}::test_only_the_row_of_the_step_moves",
        ),
    ],
    "batch/lstm_step.py": [
        (
            "forget and input gate swapped",
            "f, i, o, g = jnp.split(gates.astype(wide), 4, axis=-1)",
            "i, f, o, g = jnp.split(gates.astype(wide), 4, axis=-1)",
            "linen/test_linen_recurrent.py::test_oracle",
        ),
    ],
}
