"""Faults in the normalizers that mix those of a batch and of an example."""

SWITCHABLE = "hybrid/test_switchable_norm.py"
BATCH_INSTANCE = "hybrid/test_batch_instance_norm.py"
INSTANCE_BATCH = "hybrid/test_instance_batch_norm.py"
FAMILY = "batch/test_batch_family.py"

MUTANTS = {
    "hybrid/switchable_norm.py": [
        (
            "shares in the dtype of the logits",
            "dtype = accumulation_dtype(logits.dtype, real_dtype(x.dtype))",
            "dtype = accumulation_dtype(logits.dtype)",
            "test_family_invariants.py::test_float64_input_is_computed_in_float64",
            "switchable",
        ),
        (
            "weights of mean and variance swapped",
            'mean_weights = _mixture_weights(mean_logits, "mean_logits", call.x)\n'
            '    var_weights = _mixture_weights(var_logits, "var_logits", call.x)',
            'mean_weights = _mixture_weights(var_logits, "var_logits", call.x)\n'
            '    var_weights = _mixture_weights(mean_logits, "mean_logits", call.x)',
            f"{SWITCHABLE}::test_mean_and_variance_are_chosen_apart",
        ),
        (
            "shares that do not add up to 1",
            "return jax.nn.softmax(logits.astype(dtype))",
            "return jax.nn.sigmoid(logits.astype(dtype))",
            f"{SWITCHABLE}::test_equal_logits_are_thirds",
        ),
    ],
    "hybrid/batch_instance_norm.py": [
        (
            "the gate the wrong way round",
            "scale=scale * (1 - gate),",
            "scale=scale * gate,",
            f"{BATCH_INSTANCE}::test_gates_of_1_and_0_are_batch_and_instance_norm",
        ),
        (
            "both parts rounded before they are added",
            "wide = dataclasses.replace(call.spec, dtype=dtype)",
            "wide = call.spec",
            f"{BATCH_INSTANCE}::test_the_sum_is_rounded_once",
        ),
    ],
    "hybrid/instance_batch_norm.py": [
        (
            "the instance part without the mask",
            "mask=masks[0],",
            "mask=None,",
            f"{INSTANCE_BATCH}::test_its_two_parts",
        ),
        (
            "the instance part with its default epsilon",
            "        epsilon=call.spec.epsilon,\n",
            "",
            f"{FAMILY}::test_training",
            "instance-batch",
        ),
    ],
    "hybrid/gates.py": [
        (
            "gates not clipped at 1",
            "jnp.clip(gate, 0, 1)",
            "jnp.maximum(gate, 0)",
            f"{BATCH_INSTANCE}::test_project_gates",
        ),
    ],
}
