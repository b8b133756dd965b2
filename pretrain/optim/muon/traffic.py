"""What a step of Muon sends and computes on each rank, counted on the plan that the step follows.

python -m pretrain.optim.muon.traffic --preset large --tensor-parallel 2
"""

from collections import defaultdict
from math import prod

import tyro

from model.config import BertConfig
from model.parallel.division import Cut, Division
from model.parallel.layout import ParallelLayout
from model.parameters import parameter_table
from pretrain.optim.groups import GroupRules
from pretrain.optim.muon.homes import Homes

BYTES = 2
"""Of an element that travels: bf16, as on GPUs."""
RULES = GroupRules(orthogonalizes=True)


def table(preset: str = "base", ranks: tuple[int, ...] = (8, 64, 512), tensor_parallel: int = 1) -> None:
    """Prints a line for each ZeRO stage and number of ranks, of the rank that has most of it.

    sent: MB a rank sends for one step, to homes and back. messages: ranks it sends to, over all rounds. chain: TFLOP of
    the rank that computes most, and this as a multiple of an even share.
    """
    config = BertConfig.preset(preset)
    print(f"{preset}, tensor parallelism {tensor_parallel}")
    print(f"{'ZeRO':>4} {'ranks':>6} {'sent MB':>9} {'messages':>9} {'rounds':>7} {'chain TFLOP':>12} {'x even':>7}")
    for stage in (0, 1, 3):
        for num_ranks in ranks:
            layout = ParallelLayout(tensor_parallel, num_ranks // tensor_parallel)
            homes = Homes.of(division(config, layout, stage), heads_apart=False, steps=5)
            load = homes.loads()
            sent, messages, rounds = most_sent(homes)
            even = sum(load) / num_ranks
            print(
                f"{stage:4} {num_ranks:6} {BYTES * sent / 1e6:9.1f} {messages:9} {rounds:7} "
                f"{max(load) / 1e12:12.3g} {max(load) / even:7.2f}"
            )


def division(config: BertConfig, layout: ParallelLayout, stage: int, rules: GroupRules = RULES) -> Division:
    """As DeepSpeed cuts what is trained: at stage 0 not at all; at 1 and 2 one flat tensor for each parameter group,
    with as many pairs of elements on every rank; at 3 each parameter by itself."""
    specs = parameter_table(config)
    numel = {name: prod(spec.local_shape(layout.tensor_parallel)) for name, spec in specs.items() if spec.trainable}
    if stage == 0:
        return Division(specs, layout, {name: Cut(0, numel[name], copied=True) for name in numel})
    if stage == 3:
        return Division(specs, layout, {name: Cut(0, -(-numel[name] // layout.data_parallel)) for name in numel})
    groups: dict[tuple, list[str]] = defaultdict(list)
    for name in numel:
        groups[rules.group_of(config, specs[name])].append(name)
    found: dict[str, Cut] = {}
    for group in groups.values():
        run, offset = 2 * -(-sum(numel[name] for name in group) // (2 * layout.data_parallel)), 0
        for name in group:
            found[name] = Cut(offset, run)
            offset += numel[name]
    return Division(specs, layout, {name: found[name] for name in numel})


def most_sent(homes: Homes) -> tuple[int, int, int]:
    """Elements and messages of the rank that sends most of each, and the rounds that there are."""
    layout = homes.division.layout
    numel, messages, rounds = 0, 0, 0
    for rank in range(layout.tensor_parallel * layout.data_parallel):
        own = homes.rounds(rank)
        sent = [spans for round in own for spans in (round.given, round.returned)]
        numel = max(numel, sum(span.numel for spans in sent for part in spans.values() for span in part))
        messages, rounds = max(messages, sum(map(len, sent))), len(own)
    return numel, messages, rounds


if __name__ == "__main__":
    tyro.cli(table)
