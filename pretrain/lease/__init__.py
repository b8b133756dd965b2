"""Who may write to a run's folder. Standard library only.

    leases/00001.json       the first start of the run
    leases/00002.json       the second, which holds the folder: its number is the highest

Every start of a run claims the next number by creating its file (a lease), and renews the file every few seconds. A
start waits until the newest lease is over: marked as ended, its process gone (which only its own machine can see), or
standing still for the time that it states. Others look whether the file changes while they watch: clocks of machines
are not compared.

A lease alone cannot keep a process that was frozen, or cut off, from going on later. Its number does: a newer start
takes away the unfinished files of older ones, whose names have the number, and readers ignore checkpoints that an older
start finished nevertheless (pretrain/checkpoint/lineage.py).

record.py       what a lease says
watch.py        waiting for the newest lease to be over
start.py        the holder's side: claiming, renewing, and writing only as long as no newer start has begun
"""

from pretrain.lease.record import LEASES, Lease, newest_lease, read_leases
from pretrain.lease.start import PARTIAL, Start, whole_name
from pretrain.lease.watch import hold, wait_until_free

__all__ = [
    "LEASES",
    "PARTIAL",
    "Lease",
    "Start",
    "hold",
    "newest_lease",
    "read_leases",
    "wait_until_free",
    "whole_name",
]
