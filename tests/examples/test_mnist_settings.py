import ml_collections
import pytest
import settings
from ml_collections import config_flags

CONFIGS = ["default", "mnist", "small_batches", "unsynchronized"]


@pytest.mark.filterwarnings("ignore:the load_module")  # by ml_collections
@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_valid_from_any_directory(
    root, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    flag = config_flags.DEFINE_config_file(
        f"test_{name}", str(root / "configs" / f"{name}.py"), sys_argv=[]
    )
    flag._flagvalues(["main.py"])
    settings.check(flag.value)


def test_all_configurations_are_tested(root):
    found = sorted(path.stem for path in (root / "configs").glob("*.py"))
    # test_studies.py has the others
    assert [name for name in found if not name.startswith("stud")] == CONFIGS


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("dataset", "cifar", "one of embedded, mnist"),
        ("norm", "btach", "one of none, batch, renorm, ghost"),
        ("norm_placement", "after", "one of after_activation, before_activation"),
        ("parallelism", "pjit", "one of shard_map, jit, pmap"),
        ("schedule", "linear", "one of constant, cosine"),
        ("compute_dtype", "float16", "one of float32, bfloat16"),
        ("num_groups", 0, "divides the layers' widths, 32, 64, 128"),
        ("num_groups", 12, "divides the layers' widths"),
        ("num_groups", 64, "divides the layers' widths"),
        ("virtual_batch_size", 0, "at least 1"),
        ("reference_size", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("batch_size", -8, "at least 1"),
        ("num_epochs", 0, "at least 1"),
        ("num_train", 0, "at least 1"),
        ("num_test", -1, "at least 1"),
        ("checkpoint_every", 0, "at least 1"),
        ("keep_checkpoints", 1, "at least 2"),
        ("max_bad_batches", 0, "at least 1"),
        ("seed", -1, "at least 0"),
        ("seed", 2**32, "at most"),
        ("bn_momentum", 1.5, r"in \[0, 1\]"),
        ("bn_momentum", -0.1, r"in \[0, 1\]"),
        ("bn_momentum", float("nan"), r"in \[0, 1\]"),
        ("dropout_rate", 1.0, r"in \[0, 1\)"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("inf"), "above 0"),
        ("weight_decay", -1e-4, "at least 0"),
        ("data_dir", "somewhere", "configs/mnist.py"),
    ],
)
def test_a_value_that_is_not_valid(get_config, option, value, message):
    config = get_config(**{option: value})
    with pytest.raises(settings.ConfigError, match=rf"config\.{option} .*{message}"):
        settings.check(config)


def test_own_statistics_under_jit(get_config):
    config = get_config(norm="evo_b0", sync=False)
    with pytest.raises(settings.ConfigError, match=r"sync=False.*evo_b0.*merged"):
        settings.check(config)
    config = get_config(parallelism="jit", sync=False)
    with pytest.raises(settings.ConfigError, match=r"sync=False.*jit.*whole batch"):
        settings.check(config)


@pytest.mark.parametrize(
    ("parallelism", "sync", "size", "num_devices"),
    [
        ("pmap", True, 32, 4),  # a ghost on each device
        ("pmap", True, 16, 4),
        ("pmap", True, 32, 8),  # each of two devices
        ("pmap", False, 16, 8),
        ("jit", True, 32, 8),
        ("jit", True, 128, 1),
    ],
)
def test_ghosts_that_fit(get_config, parallelism, sync, size, num_devices):
    config = get_config(
        norm="ghost", parallelism=parallelism, sync=sync, virtual_batch_size=size
    )
    settings.check_devices(config, num_devices)


@pytest.mark.parametrize(
    ("parallelism", "sync", "size", "num_devices", "message"),
    [
        ("pmap", True, 24, 4, "divide the 32 examples .*multiple .*divides 128; it is"),
        ("pmap", True, 96, 4, "divide the 32 examples .*multiple .*divides 128; it is"),
        ("shard_map", False, 32, 8, "divide the 16 examples .*at once; it is 32"),
        ("jit", True, 48, 8, "divide the 128 examples"),
        ("jit", True, 256, 1, "divide the 128 examples"),
    ],
)
def test_ghosts_that_do_not_fit(
    get_config, parallelism, sync, size, num_devices, message
):
    config = get_config(
        norm="ghost", parallelism=parallelism, sync=sync, virtual_batch_size=size
    )
    with pytest.raises(settings.ConfigError, match=f"virtual_batch_size .*{message}"):
        settings.check_devices(config, num_devices)
    settings.check_devices(get_config(parallelism=parallelism), num_devices)


def test_a_reference_larger_than_the_data(get_config):
    config = get_config(norm="virtual", reference_size=64, num_train=63)
    with pytest.raises(settings.ConfigError, match=r"reference_size .*at most .*63"):
        settings.check(config)


def test_a_misspelt_option(get_config):
    with pytest.raises(settings.ConfigError, match="did you mean learning_rate"):
        settings.check(get_config(learning_rat=0.1))


def test_a_missing_option():
    with pytest.raises(settings.ConfigError, match="dataset is missing"):
        settings.check(ml_collections.ConfigDict())


def test_no_cpu_device():
    with pytest.raises(settings.ConfigError, match="at least 1"):
        settings.check_cpu_devices(0)
