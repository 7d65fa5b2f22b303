import pickle

import gymnasium
import pytest
from gymnasium.error import CustomSpaceError
from gymnasium.vector.utils import batch_space, create_shared_memory
from hypothesis import given
from hypothesis import strategies as st

from calibadv_env.spaces import UnicodeText


@given(st.text(alphabet=st.characters(), max_size=50))
def test_contains_any_text_that_is_not_too_long(text):
    assert text in UnicodeText(50)
    assert (text in UnicodeText(10)) == (len(text) <= 10)


def test_contains_awkward_text_and_refuses_other_types():
    space = UnicodeText(5)
    assert "" in space
    assert "\x00\ud800é🙂" in space
    assert 3 not in space
    assert b"abc" not in space
    assert None not in space


def test_sample_is_deterministic_and_contained():
    a, b = UnicodeText(100, seed=7), UnicodeText(100, seed=7)
    samples = [a.sample() for _ in range(20)]
    assert samples == [b.sample() for _ in range(20)]
    assert len(set(samples)) > 10
    assert all(sample in a for sample in samples)
    assert len(UnicodeText(1, seed=0).sample()) <= 1


def test_equality_pickle_and_repr():
    space = UnicodeText(9)
    assert space == UnicodeText(9)
    assert space != UnicodeText(8)
    assert space != gymnasium.spaces.Text(9, min_length=0)
    assert pickle.loads(pickle.dumps(space)) == space
    assert repr(space) == "UnicodeText(9)"
    assert space.max_chars == 9


def test_max_chars_must_be_positive():
    with pytest.raises(ValueError, match="max_chars must be at least 1, got 0"):
        UnicodeText(0)


def test_batches_to_a_tuple_and_refuses_shared_memory():
    batch = batch_space(UnicodeText(9), 2)
    assert ("", "é") in batch
    assert ("", 1) not in batch
    with pytest.raises(CustomSpaceError, match="shared_memory=False"):
        create_shared_memory(UnicodeText(9), n=2)


def test_stock_sampling_arguments_still_work():
    space = UnicodeText(9, seed=0)
    assert len(space.sample(mask=(4, None))) == 4
