"""These tests import fairseq into the test process; its own warnings are not ours to mend."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import fairseq  # noqa: F401
    import fairseq.optim  # noqa: F401

import weighted_freezing_fairseq.plugin  # noqa: F401
