"""Work on one thread, and what was before after it."""

import cv2
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from dataset_builders.threads import one_thread


def threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"] + [cv2.getNumThreads()]


def test_libraries_have_one_thread_inside_and_their_own_number_again_after_an_error():
    np.ones((2, 2)) @ np.ones((2, 2))
    original = cv2.getNumThreads()
    cv2.setNumThreads(3)
    before = threads()
    with pytest.raises(ValueError, match="stop"), one_thread():
        assert set(threads()) == {1}
        raise ValueError("stop")
    assert threads() == before
    cv2.setNumThreads(original)
