"""The alphabet of ESM-2 (Lin et al. 2022): a token for each amino acid, in the order of its released models."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from model.errors import UserError

SPECIAL = ("<cls>", "<pad>", "<eos>", "<unk>", "<mask>")
ALPHABET = (*SPECIAL[:4], *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", SPECIAL[4])
"""33 tokens: the 20 residues by frequency, the rare and ambiguous ones, gaps, and one that no model uses."""


def residues(vocab_size: int) -> Tokenizer:
    """Raises UserError where the vocabulary may not hold the alphabet."""
    if vocab_size < len(ALPHABET):
        raise UserError(
            f"vocab_size {vocab_size} is too small; tokenizer residues has {len(ALPHABET)} tokens: leave vocab_size out"
        )
    vocabulary = {token: id for id, token in enumerate(ALPHABET)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer
