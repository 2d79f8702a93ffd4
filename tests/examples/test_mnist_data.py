import data
import numpy as np
import pytest


@pytest.fixture
def split():
    images = np.arange(10, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return data.Split(
        np.broadcast_to(images, (10, 28, 28, 1)), np.arange(10, dtype=np.int32)
    )


def epoch(order, number, steps):
    return [order[number * steps + i] for i in range(steps)]


def test_every_epoch_is_another_permutation_of_all_examples():
    order = data.training_order(num_examples=103, batch_size=16, seed=0)
    first, second = epoch(order, 0, steps=7), epoch(order, 1, steps=7)
    assert [len(batch) for batch in first] == [16] * 6 + [7]
    for batches in (first, second):
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(103))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_order_is_a_function_of_seed_and_step():
    order = data.training_order(num_examples=103, batch_size=16, seed=3)
    again = data.training_order(num_examples=103, batch_size=16, seed=3)
    other = data.training_order(num_examples=103, batch_size=16, seed=4)
    for step in (20, 3, 6):  # In any order, without the steps before.
        np.testing.assert_array_equal(order[step], again[step])
    assert not np.array_equal(order[3], other[3])


def test_a_short_batch_is_padded_and_masked(split):
    batch = data.take(split, np.array([4, 2, 7]), rows=np.arange(5))
    assert batch.images.shape == (5, 28, 28, 1)
    assert batch.images.dtype == np.uint8
    np.testing.assert_array_equal(batch.mask, [True, True, True, False, False])
    np.testing.assert_array_equal(batch.labels[:3], [4, 2, 7])
    np.testing.assert_array_equal(batch.images[:3, 0, 0, 0], [4, 2, 7])


def test_embedded_digits_are_split_by_class(get_config):
    train, test = data.load(get_config())
    assert train.images.shape == (4_000, 28, 28, 1)
    assert test.images.shape == (1_000, 28, 28, 1)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int32
    assert train.images.max() == 255
    np.testing.assert_array_equal(np.bincount(train.labels), [400] * 10)
    np.testing.assert_array_equal(np.bincount(test.labels), [100] * 10)
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)


@pytest.mark.full  # scikit-learn takes seconds to import
def test_the_split_is_that_of_scikit_learn(get_config):
    """So that what runs have reached stays comparable."""
    from sklearn.model_selection import train_test_split

    splits = data.load(get_config())
    labels = np.repeat(np.arange(10, dtype=np.int32), 500)
    expected = train_test_split(
        labels, test_size=1_000, stratify=labels, random_state=0
    )
    for split, wanted in zip(splits, expected, strict=True):
        np.testing.assert_array_equal(split.labels, wanted)


def test_fewer_examples_on_request(get_config):
    train, test = data.load(get_config(num_train=70, num_test=30))
    assert len(train.images) == len(train.labels) == 70
    assert len(test.images) == len(test.labels) == 30
    assert len(np.unique(train.labels)) == 10  # Not sorted by class.
