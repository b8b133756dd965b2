"""Starting ranks, on this machine, on the nodes of a SLURM job, or on hosts without it. Standard library only, so that
it starts at once.

start.py        chooses between these
local.py        torchrun on this machine: threads per rank, signals passed on
slurm.py        the job that this process is in; survivors.py goes on with the nodes that are left when one is lost
step.py         one srun with a task per node; node.py is what the task runs
hosts.py        one of several hosts without SLURM; questions.py carries what they ask the first one, and rounds.py is
                its list of who trains when
job.py          what the starts of a job have in common
staging.py      copies the environment to the nodes' own disks
meeting.py      how the nodes find each other; pulse.py misses those that are gone; interfaces.py chooses the network
tolerance.py    what a recipe says of faults
agent.py        torchrun itself, in a process that dies with its launcher; rank.py is what it starts
leash.py        children that die with their parent
check.py        the check before ranks start
requests.py     signals that reach a launcher while its ranks run; pause.py stops them with it on Ctrl-Z
outcome.py      exit codes, and how the ranks' code reaches the launcher
start_up.py     how long a start takes, part by part
environment.py  environment variables of Espalier's processes
gpus.py         counts GPUs without torch; bf16.py: whether they, or the CPU, compute in bf16
installed/      the command `espalier` of an installed wheel

The path of a signal: within a job step.py passes it on to every node's task (node.py); local.py signals each rank,
until it has left, and torchrun ignores it. A rank remembers it (pretrain/engine/signals.py), and at the next step
boundary all ranks save and leave (pretrain/training/hooks/preemption.py).
"""
