"""Starting ranks, on this machine or on the nodes of a SLURM job. Standard library only, so that it starts at once.

start.py      chooses between the two
local.py      torchrun on this machine: threads per rank, signals passed on
slurm.py      the job that this process is in; step.py runs one srun task per node, node.py is what the task runs
meeting.py    how the nodes find each other; interfaces.py chooses the network
agent.py      torchrun itself, in a process that dies with its launcher; rank.py is what it starts
outcome.py    exit codes, and how the ranks' code reaches the launcher
"""
