"""Leaves the files of the peers alone where the marks leave them out.

To import PyTorch and Keras takes seconds, of each process that collects.
"""

PEERS = {
    "beside_torch.py",
    "test_convert_haiku.py",
    "test_convert_keras.py",
    "test_convert_residual_network.py",
    "test_convert_torch.py",
}


def pytest_ignore_collect(collection_path, config):
    left_out = "not peers" in config.getoption("markexpr")
    return True if left_out and collection_path.name in PEERS else None
