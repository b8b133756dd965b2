"""One small model of every variant, alone and combined: changes to `running.small_config`."""

VARIANTS = {
    "uneven heads and FFN": dict(layers=3, heads=(4, 2, 4), head_dim=6, ffn=(32, 8, 16)),
    "heads narrower than hidden, pre": dict(norm="pre", heads=2, head_dim=6),
    "groups of shared layers": dict(layers=4, sharing=(0, 0, 1, 1), norm="pre"),
    "shared, uneven": dict(layers=3, sharing=(0, 1, 0), ffn=(8, 32, 8)),
    "no biases": dict(attention_bias=False, ffn_bias=False),
    "no attention bias, pre": dict(attention_bias=False, norm="pre"),
    "factorised embeddings": dict(embedding_size=10),
    "factorised embeddings, pre, shared": dict(embedding_size=10, norm="pre", sharing=1),
    "low-rank FFN": dict(low_rank={"feedforward.input": 5, "feedforward.output": 7}),
    "low rank everywhere": dict(
        low_rank={
            "attention.query": 3,
            "attention.key": 4,
            "attention.value": 5,
            "attention.output": 6,
            "feedforward.input": 7,
            "feedforward.output": 8,
            "mlm.transform": 9,
        },
        norm="pre",
        layers=3,
        sharing=2,
    ),
    "elu attention": dict(attention="elu"),
    "relu attention, pre, shared": dict(attention="relu", norm="pre", sharing=1),
    "favor attention": dict(attention="favor", kernel_features=10),
    "light attention": dict(layers=4, light_layers=(1, 3)),
    "light attention, pre, two in a row": dict(layers=3, light_layers=(1, 2), norm="pre"),
    "light attention, shared": dict(layers=4, light_layers=(1, 3), sharing=2),
    "frozen layers": dict(layers=3, frozen_layers=2),
    "frozen layers, pre, shared, factorised": dict(
        layers=4, frozen_layers=2, sharing=(0, 0, 1, 1), norm="pre", embedding_size=10
    ),
    "layer dropping": dict(norm="pre", layer_drop={"keep": 0.5}),
    "slimming": dict(slimming={"heads": 0.03, "ffn": 0.02}),
    "slimming, pre, shared, uneven, light": dict(
        slimming={}, norm="pre", layers=4, sharing=2, light_layers=(1, 3), ffn=(32, 16, 32, 16)
    ),
    "masked units": dict(masked={"hidden": 20, "heads": 2, "ffn": 18, "layers": (1,)}),
    "masked units, pre, uneven": dict(masked={"hidden": 20, "heads": 2, "ffn": (18, 5)}, norm="pre", ffn=(32, 8)),
    "masked units, kernel, factorised": dict(masked={"hidden": 20, "heads": 3}, attention="elu", embedding_size=10),
    "pooled input": dict(layers=3, pool_window=2),
    "pooled input, pre, shared, slimming, masked": dict(
        layers=3, pool_window=3, norm="pre", sharing=1, slimming={}, masked={"hidden": 20}
    ),
    "modern: rotary, gated, no biases, no first norm": dict(
        **dict(positions="rotary", type_vocab=0, gated=True, norm="pre", embedding_norm=True, first_norm=False),
        **dict(attention_bias=False, ffn_bias=False, norm_bias=False, head_bias=False),
    ),
    "rotary, RMSNorm, SwiGLU, masked": dict(
        **dict(positions="rotary", norm_type="rms", activation="silu", gated=True, norm="pre", head_bias=False),
        masked={"hidden": 20, "heads": 2, "ffn": 18, "layers": (1,)},
    ),
    "rotary, gated, low rank, light, slimming, shared": dict(
        **dict(positions="rotary", gated=True, slimming={}, layers=4, sharing=2, light_layers=(1, 3), norm_bias=False),
        low_rank={"feedforward.gate": 5},
    ),
    "no positions, RMSNorm, layer dropping": dict(
        positions="none", norm_type="rms", norm="pre", layer_drop={"keep": 0.5}, ffn_bias=False
    ),
    "rotary, layer dropping, embedding norm": dict(
        positions="rotary", norm="pre", layer_drop={"keep": 0.5}, embedding_norm=True
    ),
    "token dropout, rotary": dict(token_dropout={"mask_token": 5}, positions="rotary", norm="pre", activation="silu"),
    "local attention, rotary": dict(
        **dict(
            local_attention={"window": 4, "global_every": 2, "theta": 50.0}, layers=3, positions="rotary", norm="pre"
        ),
    ),
    "local attention, shared, dropped, sub-layers": dict(
        **dict(local_attention={"window": 2}, layers=4, sharing=(0, 1, 1, 0), norm="pre", layer_drop={"keep": 0.5}),
    ),
    "local attention, masked, new layer": dict(
        local_attention={"window": 5, "global_every": 2}, layers=4, masked={"ffn": 18, "layers": (1, 3)}
    ),
    "token dropping": dict(layers=4, token_dropping={"keep": 0.4}),
    "token dropping, rotary, pre, shared": dict(
        layers=5, token_dropping={}, positions="rotary", norm="pre", sharing=(0, 1, 2, 1, 0)
    ),
    "token dropping, frozen, masked": dict(layers=4, token_dropping={}, frozen_layers=1, masked={"ffn": 18}),
    "sentences at a layer, frozen below": dict(layers=3, sentence_layer=2, frozen_layers=1),
    "words at a layer, pre, shared": dict(layers=3, mlm_layer=2, norm="pre", sharing=1),
    "low rank without biases": dict(low_rank={"feedforward.output": 7}, ffn_bias=False),
}
