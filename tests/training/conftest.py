"""What the tests of training share."""

import contextlib
import os
import signal

import pytest

from reelm.training.lm_training import TokenBatches


@pytest.fixture
def stopped_at_batch():
    """A context in which this call for a batch of tokens stops the run by SIGTERM; it yields the steps of the calls."""

    @contextlib.contextmanager
    def stopped(number):
        original, calls = TokenBatches.__call__, []

        def stopping(self, step):
            calls.append(step)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, step)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TokenBatches, "__call__", stopping)
            yield calls

    return stopped
