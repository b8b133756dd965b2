"""The verb `grow`."""

import os

from tyro.conf import UseAppendAction

from pretrain.cli.arguments import CheckpointPath, OutputFolder, Plugins


def grow(
    checkpoint: CheckpointPath,
    /,
    out: OutputFolder,
    to: UseAppendAction[tuple[str, ...]] = (),
    operator: UseAppendAction[tuple[str, ...]] = (),
    plugins: Plugins = (),
) -> None:
    """Change the shape of a checkpoint offline.

    Weights, moments and step counts change as a stage's `grow` changes them in memory.

    Args:
        checkpoint: A run's folder, one of its checkpoints, or a BERT of Hugging Face transformers: its folder, or
            hub:OWNER/NAME.
        out: The folder to write, a checkpoint.
        to: The shape to reach: a preset or FIELD=VALUE, for example --to layers=12 --to ffn=3072.
        operator: An operator to apply, for example --operator stack --operator '{widen: {axis: ffn}}'. Given several
            times, they are applied in order. Defaults to what `grow: auto` would choose.
        plugins: A Python file with an operator of your own.
    """
    from pretrain.engine.distributed import process_group
    from pretrain.settings.plugins import load_plugins
    from pretrain.use.grow import grow as grow_checkpoint

    load_plugins(plugins)
    with process_group():
        source, target = grow_checkpoint(checkpoint, to, operator, out)
    if os.environ.get("RANK", "0") == "0":
        print(f"{out}: {source.summary()} -> {target.summary()}")
