"""In CI, where everything is installed, a test that skips for want of it fails."""

import os

import pytest

ALLOWED = ("CUDA", "Triton", "IPv6", "CPU", "oneDNN", "beside the project", "lets a process open")
"""Words of the reasons that no installation can take away."""


def fail_skips(report):
    """Turn a skip into a failure, unless its reason is allowed."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason for word in ALLOWED):
            report.outcome, report.longrepr = "failed", f"It may not skip here: {reason}"
    return report


if os.environ.get("QUERNEL_NO_SKIPS"):

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        return fail_skips((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(collector):
        return fail_skips((yield))
