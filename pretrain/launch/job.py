"""What the starts of one job have in common: SLURM's number of it, or the place where its hosts meet (hosts.py)."""

import os

HOSTS = "ESPALIER_HOSTS"
"""Environment variable: HOST:PORT, where the hosts of this run meet, without SLURM."""

LAUNCH = "ESPALIER_LAUNCH"
"""Environment variable: names the launch in the journal, so that its launcher finds what its ranks have written."""


def job_name() -> str | None:
    """None for a run on one machine."""
    return os.environ.get("SLURM_JOB_ID") or os.environ.get(HOSTS)
