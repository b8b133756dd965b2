"""From text to shards on disk: sources, tokenizers, and what `prepare` does with both. The rest of `pretrain/data`
reads what is written here."""
