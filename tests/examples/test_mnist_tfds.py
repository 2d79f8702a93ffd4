import shutil
import socket
import time

import numpy as np
import pytest
import tfds_mnist

# Not ours: TFDS leaves files open, and its dependencies use what is deprecated.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def no_tensorflow(monkeypatch):
    monkeypatch.setattr(tfds_mnist, "_has_tensorflow", lambda: False)


def test_nothing_prepared_and_no_way_to_prepare(tmp_path, monkeypatch, no_tensorflow):
    monkeypatch.setattr(tfds_mnist, "_answers", lambda url: False)
    with pytest.raises(tfds_mnist.DataUnavailableError) as error:
        tfds_mnist.load_arrays(str(tmp_path))
    message = str(error.value)
    assert f"no MNIST in {tmp_path}" in message
    assert "TensorFlow is not installed and its download site" in message
    assert f"{tmp_path}/downloads/manual" in message


def test_the_original_files_need_no_network(tmp_path, monkeypatch, no_tensorflow):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for name in tfds_mnist._FILES:
        (manual / name).touch()
    monkeypatch.setattr(tfds_mnist, "_answers", lambda url: pytest.fail("asked"))
    with pytest.raises(tfds_mnist.DataUnavailableError) as error:
        tfds_mnist.load_arrays(str(tmp_path))
    assert "prepared: TensorFlow is not installed;" in str(error.value)


def test_a_site_that_does_not_answer():
    # It accepts the connection, and then says nothing.
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert not tfds_mnist._answers(url, seconds=0.5)  # and does not wait for ever


def test_a_refused_connection_is_no_wait():
    # Bound, so that nobody else answers at the port, and not listening.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        start = time.monotonic()
        assert not tfds_mnist._answers(url, seconds=600)
        assert time.monotonic() - start < 300  # however busy the machine is


@pytest.mark.tfds
@pytest.mark.usefixtures("mnist_dir")
def test_the_first_of_mnist():
    (images, labels), (test_images, test_labels) = tfds_mnist.load_arrays(None, 70, 30)
    assert images.shape == (70, 28, 28, 1)
    assert test_images.shape == (30, 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert len(set(labels)) == len(set(test_labels)) == 10


@pytest.mark.slow
@pytest.mark.tfds
@pytest.mark.usefixtures("mnist_dir")
def test_all_of_mnist_has_its_known_sizes_and_moments():
    (images, labels), (test_images, test_labels) = tfds_mnist.load_arrays(None)
    assert images.shape == (60_000, 28, 28, 1)
    assert test_images.shape == (10_000, 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(
        np.bincount(test_labels),
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    )
    # From the data's first publication: the mean and deviation that many normalize by.
    np.testing.assert_allclose(images.mean() / 255, 0.1307, atol=5e-5)
    np.testing.assert_allclose(images.std() / 255, 0.3081, atol=5e-5)


@pytest.mark.tfds
def test_a_tfrecord_copy_without_tensorflow(tmp_path, no_tensorflow, mnist_dir):
    copy = tmp_path / "mnist" / "3.0.1"
    copy.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        shutil.copy(mnist_dir / "mnist" / "3.0.1" / name, copy)
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(tfds_mnist.DataUnavailableError, match=r"tfrecord .*TensorFlow"):
        tfds_mnist.load_arrays(str(tmp_path))
