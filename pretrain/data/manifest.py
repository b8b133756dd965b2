"""What the rest of Espalier reads of a corpus's manifest. A damaged one is told where it is read."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from model.errors import UserError

Count = Annotated[int, Field(ge=0, strict=True)]


class _Totals(BaseModel):
    num_tokens: Count
    num_sentences: Count
    num_documents: Count


class _Shard(_Totals):
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]


class _Split(_Totals):
    shards: list[_Shard]


class _Tokenizer(BaseModel):
    hash: str
    vocab_size: Annotated[int, Field(gt=0, strict=True)]
    file: Literal["tokenizer.json", "tokenizer.model"] = "tokenizer.json"


class _Splits(BaseModel):
    train: _Split
    valid: _Split


class _Manifest(BaseModel):
    tokenizer: _Tokenizer
    splits: _Splits
    options: dict[str, Any]


def check_manifest(manifest: Any) -> None:
    """Raises UserError that names the first value which is missing or cannot be."""
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc'])) or 'its content'}: {first['msg']}") from None
