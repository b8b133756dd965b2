"""The verb `prepare`."""

from typing import Annotated

from tyro.conf import OmitArgPrefixes

from pretrain.cli.arguments import Plugins
from pretrain.data.text.options import PrepareOptions
from pretrain.settings.options import OptionalPath


def prepare(
    corpus: Annotated[PrepareOptions, OmitArgPrefixes],
    check: OptionalPath = None,
    show: int = 0,
    plugins: Plugins = (),
) -> None:
    """Turn text into a corpus to train on.

    Reads documents, trains a vocabulary, writes shards of tokens and holds some documents out for validation.

    Args:
        check: Prepare nothing; read this prepared corpus in full and compare it with its manifest.
        show: Print this many rows of the corpus, decoded, with their masks.
        plugins: A Python file with a data source of your own.
    """
    from pretrain.data.inspection import check_corpus, show_samples
    from pretrain.data.text.console import print_counts, shown_progress
    from pretrain.data.text.prepare import prepare as prepare_corpus
    from pretrain.settings.plugins import load_plugins

    load_plugins(plugins)
    if check:
        print(f"{check} is intact: " + ", ".join(f"{count:,} {unit}" for unit, count in check_corpus(check).items()))
    else:
        with shown_progress() as progress:
            manifest = prepare_corpus(corpus, progress)
        assert corpus.output is not None  # or prepare would have refused
        print_counts(corpus.output, manifest)
    prepared = check or corpus.output
    if show and prepared:
        print(*show_samples(prepared, show), sep="\n")
