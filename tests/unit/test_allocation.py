"""What is freed is kept, where the C library can be told."""

import platform

import pytest

from learner.allocation import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_glibc_takes_both_settings() -> None:
    assert keep_freed_memory()
