"""Every layer of torch.nn that has parameters, with every option."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from zoo.base import Function, Registry, classifier

LAYERS = Registry()


def layer(name: str, make: Callable[[], nn.Module], *shape: int, mix: bool = True) -> None:
    """Registers a classifier around the layer, for a batch of normal inputs of this shape."""

    def build() -> tuple[nn.Module, Tensor]:
        x = torch.randn(shape)
        return classifier(make(), x, mix=mix), x

    LAYERS.put(name, build)


# Linear: leading dimensions, more and fewer positions than features
layer("linear", partial(nn.Linear, 6, 5), 3, 6)
layer("linear-no-bias", partial(nn.Linear, 6, 5, bias=False), 3, 6)
layer("linear-few-positions", partial(nn.Linear, 16, 5), 3, 2, 16)
layer("linear-many-positions", partial(nn.Linear, 4, 3), 3, 40, 4)
layer("linear-3-leading-dims", partial(nn.Linear, 5, 4), 2, 3, 2, 5, mix=False)
layer("linear-width-1", partial(nn.Linear, 1, 1), 3, 5, 1)
layer("linear-first", partial(nn.Linear, 6, 5), 3, 7, 6, mix=False)


@LAYERS.add("linear-no-leading-dims")
def _() -> tuple[nn.Module, Tensor]:
    net = Function(
        lambda m, x: m.b(torch.tanh(m.a(x.squeeze(0)))).unsqueeze(0), a=nn.Linear(6, 5), b=nn.Linear(5, 4)
    )
    return net, torch.randn(1, 6)


# Convolutions
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZES = {1: (11,), 2: (8, 7), 3: (5, 4, 6)}

CONV_OPTIONS = {
    "plain": {"kernel_size": 3},
    "pointwise": {"kernel_size": 1},
    "no-bias": {"kernel_size": 3, "bias": False},
    "padding": {"kernel_size": 3, "padding": 1},
    "wide-padding": {"kernel_size": 2, "padding": 2},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "stride-over-kernel": {"kernel_size": 1, "stride": 2},
    "dilation": {"kernel_size": 2, "dilation": 2},
    "same": {"kernel_size": 3, "padding": "same"},
    "same-even-kernel": {"kernel_size": 2, "padding": "same"},
    "same-dilation": {"kernel_size": 3, "padding": "same", "dilation": 2},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "reflect-same": {"kernel_size": 2, "padding": "same", "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": 2, "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": 1, "stride": 2, "padding_mode": "circular"},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4, "stride": 2},
}
TRANSPOSED_OPTIONS = {
    "plain": {"kernel_size": 3},
    "pointwise": {"kernel_size": 1},
    "no-bias": {"kernel_size": 2, "bias": False},
    "stride": {"kernel_size": 2, "stride": 2},
    "stride-padding": {"kernel_size": 3, "stride": 2, "padding": 1},
    "output-padding": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "dilation": {"kernel_size": 2, "dilation": 2, "padding": 1},
    "groups": {"kernel_size": 3, "stride": 2, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 4, "stride": 2, "padding": 1},
}
for d in (1, 2, 3):
    for name, options in CONV_OPTIONS.items():
        layer(
            f"conv{d}d-{name}", partial(CONV[d], 4, 4 if name == "groups" else 8, **options), 3, 4, *SIZES[d]
        )
    for name, options in TRANSPOSED_OPTIONS.items():
        layer(f"conv-transpose{d}d-{name}", partial(TRANSPOSED[d], 4, 8, **options), 3, 4, *SIZES[d])

layer(
    "conv2d-uneven",
    partial(nn.Conv2d, 3, 5, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
    2,
    3,
    9,
    6,
)
layer(
    "conv3d-uneven", partial(nn.Conv3d, 2, 3, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 2)), 2, 2, 4, 6, 3
)
layer("conv2d-whole-image", partial(nn.Conv2d, 3, 5, 6), 3, 3, 6, 6)
layer("conv2d-patches", partial(nn.Conv2d, 3, 5, 4, stride=4), 3, 3, 8, 8)
layer("conv2d-many-positions", partial(nn.Conv2d, 2, 3, 3, padding=1), 2, 2, 20, 20)
layer("conv2d-few-positions", partial(nn.Conv2d, 16, 4, 3), 2, 16, 5, 4)
layer("conv2d-5x5", partial(nn.Conv2d, 3, 4, 5, padding=2), 2, 3, 9, 9)
layer("conv2d-groups-one-input", partial(nn.Conv2d, 3, 9, 3, groups=3), 2, 3, 6, 6)
layer("conv2d-first", partial(nn.Conv2d, 3, 5, 3, padding=1), 3, 3, 6, 6, mix=False)
layer(
    "conv-transpose2d-uneven",
    partial(nn.ConvTranspose2d, 4, 3, (3, 2), stride=(1, 3), padding=(2, 0), output_padding=(0, 1)),
    2, 4, 5, 3,
)  # fmt: skip
layer("conv-transpose2d-first", partial(nn.ConvTranspose2d, 3, 5, 2, stride=2), 3, 3, 4, 4, mix=False)


@LAYERS.add("conv-transpose2d-output-size")
def _() -> tuple[nn.Module, Tensor]:
    up = nn.ConvTranspose2d(3, 2, 3, stride=2)
    net = Function(
        lambda m, x: m.head(m.up(x, output_size=[10, 10]).flatten(1)), up=up, head=nn.Linear(200, 4)
    )
    return net, torch.randn(2, 3, 4, 4)


@LAYERS.add("conv2d-channels-last")
def _() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(16, 4))
    return net.to(memory_format=torch.channels_last), torch.randn(3, 3, 7, 7).to(
        memory_format=torch.channels_last
    )


@LAYERS.add("conv2d-strided-input")
def _() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(80, 4))
    return net, torch.randn(3, 6, 6, 6)[:, ::2].transpose(2, 3)


# Normalisation
for name, make, shape in [
    ("batch-norm-flat", nn.BatchNorm1d, (4, 5)),
    ("batch-norm1d", nn.BatchNorm1d, (3, 5, 6)),
    ("batch-norm2d", nn.BatchNorm2d, (3, 5, 4, 3)),
    ("batch-norm3d", nn.BatchNorm3d, (3, 5, 2, 3, 2)),
    ("sync-batch-norm", nn.SyncBatchNorm, (3, 5, 4)),
]:
    layer(name, partial(make, 5, eps=0.1), *shape)
    layer(f"{name}-no-affine", partial(make, 5, affine=False), *shape)
layer("layer-norm", partial(nn.LayerNorm, 6), 3, 6)
layer("layer-norm-positions", partial(nn.LayerNorm, 6), 3, 4, 6)
layer("layer-norm-image", partial(nn.LayerNorm, (4, 3, 5)), 3, 4, 3, 5)
layer("layer-norm-two-dims", partial(nn.LayerNorm, (3, 5)), 3, 4, 3, 5)
layer("layer-norm-no-bias", partial(nn.LayerNorm, 6, bias=False), 3, 4, 6)
layer("layer-norm-no-affine", partial(nn.LayerNorm, 6, elementwise_affine=False), 3, 4, 6)
layer("group-norm", partial(nn.GroupNorm, 2, 6), 3, 6, 4, 3)
layer("group-norm-one-group", partial(nn.GroupNorm, 1, 6), 3, 6, 5)
layer("group-norm-each-channel", partial(nn.GroupNorm, 6, 6), 3, 6, 2, 3, 2)
layer("group-norm-flat", partial(nn.GroupNorm, 2, 6), 3, 6)
layer("group-norm-no-affine", partial(nn.GroupNorm, 2, 6, affine=False), 3, 6, 4)
for d, make in {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}.items():
    size = (3, 5, *SIZES[d])
    layer(f"instance-norm{d}d", partial(make, 5), *size)
    layer(f"instance-norm{d}d-affine", partial(make, 5, affine=True), *size)
    layer(f"instance-norm{d}d-affine-running", partial(make, 5, affine=True, track_running_stats=True), *size)
layer("rms-norm", partial(nn.RMSNorm, 6), 3, 6)
layer("rms-norm-positions", partial(nn.RMSNorm, 6, eps=1e-3), 3, 4, 6)
layer("rms-norm-two-dims", partial(nn.RMSNorm, (3, 5)), 3, 4, 3, 5)
layer("rms-norm-no-affine", partial(nn.RMSNorm, 6, elementwise_affine=False), 3, 4, 6)
layer("local-response-norm", partial(nn.LocalResponseNorm, 2), 3, 5, 4, 4)

# Activations with parameters
layer("prelu-shared", nn.PReLU, 3, 5, 4)
layer("prelu-shared-flat", nn.PReLU, 3, 5)
layer("prelu-per-channel", partial(nn.PReLU, 5), 3, 5, 4, 3)
layer("prelu-per-channel-flat", partial(nn.PReLU, 5), 3, 5)


# Embeddings
def tokens(name: str, make: Callable[[], nn.Module], *shape: int) -> None:
    """Registers embedding -> tanh -> linear -> mean over positions -> head, for token indices below 7."""

    def build() -> tuple[nn.Module, Tensor]:
        net = Function(
            lambda m, x: m.head(m.mix(torch.tanh(m.embed(x))).flatten(1, -2).mean(1)),
            embed=make(),
            mix=nn.Linear(5, 5),
            head=nn.Linear(5, 4),
        )
        return net, torch.randint(7, shape)

    LAYERS.put(name, build)


tokens("embedding", partial(nn.Embedding, 7, 5), 3, 9)
tokens("embedding-2d-tokens", partial(nn.Embedding, 7, 5), 3, 4, 5)
tokens("embedding-one-token", partial(nn.Embedding, 7, 5), 3, 1)
tokens("embedding-padding-idx", partial(nn.Embedding, 7, 5, padding_idx=2), 3, 9)
tokens("embedding-negative-padding-idx", partial(nn.Embedding, 7, 5, padding_idx=-1), 3, 9)
tokens("embedding-max-norm", partial(nn.Embedding, 7, 5, max_norm=1.0), 3, 9)
tokens("embedding-scale-grad-by-freq", partial(nn.Embedding, 7, 5, scale_grad_by_freq=True), 3, 9)
tokens("embedding-sparse", partial(nn.Embedding, 7, 5, sparse=True), 3, 9)


def bags(name: str, forward: Callable[..., Tensor], **options: object) -> None:
    """Registers an EmbeddingBag over token indices below 7, of shape [3, 6], with weights of that shape."""

    def build() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        bag = nn.EmbeddingBag(7, 5, **options)
        net = Function(
            lambda m, x, w: m.head(torch.tanh(forward(m.bag, x, w))), bag=bag, head=nn.Linear(5, 4)
        )
        return net, (torch.randint(7, (3, 6)), torch.randn(3, 6))

    LAYERS.put(name, build)


def with_offsets(bag: nn.EmbeddingBag, x: Tensor, w: Tensor) -> Tensor:
    """Two bags a sample, of 2 and 4 tokens, given as one flat list with offsets."""
    starts = torch.arange(0, x.numel(), x.shape[1], device=x.device)
    offsets = torch.stack([starts, starts + 2], 1).flatten()
    weights = w.flatten() if bag.mode == "sum" else None
    return bag(x.flatten(), offsets, per_sample_weights=weights).view(x.shape[0], 2, 5).tanh().sum(1)


for mode in ("sum", "mean", "max"):
    bags(f"embedding-bag-{mode}", lambda bag, x, w: bag(x), mode=mode)
    bags(f"embedding-bag-{mode}-padding-idx", lambda bag, x, w: bag(x), mode=mode, padding_idx=3)
    bags(f"embedding-bag-{mode}-offsets", with_offsets, mode=mode)
bags("embedding-bag-weights", lambda bag, x, w: bag(x, per_sample_weights=w), mode="sum")


# Attention
def attention(name: str, call: Callable[..., Tensor], width: int = 6, **options: object) -> None:
    """Registers self- or cross-attention of 2 heads over [B, T, width] and a context [B, S, kdim]."""

    def build() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        kdim = int(options.get("kdim") or width)
        net = Function(
            lambda m, x, context: m.head(call(m.attend, m.mix(x), context).mean(1)),
            attend=nn.MultiheadAttention(width, 2, **options),
            mix=nn.Linear(width, width),
            head=nn.Linear(width, 4),
        )
        return net, (torch.randn(3, 5, width), torch.randn(3, 4, kdim))

    LAYERS.put(name, build)


def self_attention(attend: nn.MultiheadAttention, x: Tensor, context: Tensor, **options: object) -> Tensor:
    if not attend.batch_first:
        x = x.transpose(0, 1)
    y = attend(x, x, x, **options)[0]
    return y if attend.batch_first else y.transpose(0, 1)


def cross_attention(attend: nn.MultiheadAttention, x: Tensor, context: Tensor) -> Tensor:
    return attend(x, context, context[..., : attend.vdim], need_weights=False)[0]


def causal(attend: nn.MultiheadAttention, x: Tensor, context: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
    return attend(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]


def key_padding(attend: nn.MultiheadAttention, x: Tensor, context: Tensor) -> Tensor:
    mask = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]) >= 3
    return attend(x, x, x, key_padding_mask=mask)[0]


attention("attention", self_attention, batch_first=True)
attention("attention-sequence-first", self_attention)
attention("attention-no-weights", partial(self_attention, need_weights=False), batch_first=True)
attention("attention-no-weights-sequence-first", partial(self_attention, need_weights=False))
attention(
    "attention-each-heads-weights", partial(self_attention, average_attn_weights=False), batch_first=True
)
attention("attention-no-bias", self_attention, bias=False, batch_first=True)
attention("attention-add-bias-kv", self_attention, add_bias_kv=True, batch_first=True)
attention(
    "attention-add-bias-kv-sequence-first", partial(self_attention, need_weights=False), add_bias_kv=True
)
attention("attention-add-zero", self_attention, add_zero_attn=True, batch_first=True)
attention("attention-cross", cross_attention, batch_first=True)
attention("attention-separate", cross_attention, kdim=5, vdim=3, batch_first=True)
attention("attention-separate-bias-kv", cross_attention, kdim=5, vdim=3, add_bias_kv=True, batch_first=True)
attention("attention-causal", causal, batch_first=True)
attention("attention-key-padding", key_padding, batch_first=True)


def transformer(name: str, make: Callable[[], nn.Module], sequence_first: bool = False) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.body(m.mix(x).transpose(0, 1)).transpose(0, 1) if sequence_first else m.body(m.mix(x))
        return m.head(y[:, 0])

    LAYERS.put(
        name,
        lambda: (
            Function(forward, mix=nn.Linear(6, 6), body=make(), head=nn.Linear(6, 4)),
            torch.randn(3, 5, 6),
        ),
    )


encoder = partial(nn.TransformerEncoderLayer, 6, 2, 8)
transformer("transformer-encoder-layer", partial(encoder, batch_first=True))
transformer("transformer-encoder-layer-sequence-first", encoder, sequence_first=True)
transformer("transformer-encoder-layer-norm-first", partial(encoder, batch_first=True, norm_first=True))
transformer(
    "transformer-encoder-layer-gelu", partial(encoder, batch_first=True, activation="gelu", bias=False)
)
transformer("transformer-encoder", lambda: nn.TransformerEncoder(encoder(batch_first=True), 2))


@LAYERS.add("transformer-decoder-layer")
def _() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    body = nn.TransformerDecoderLayer(6, 2, 8, batch_first=True)
    net = Function(lambda m, x, memory: m.head(m.body(x, memory).mean(1)), body=body, head=nn.Linear(6, 4))
    return net, (torch.randn(3, 5, 6), torch.randn(3, 4, 6))


# Recurrent and bilinear layers: where no rule knows them, the fallback must be exact, too
def recurrent(name: str, make: Callable[[], nn.Module], fallback: bool = True) -> None:
    def build() -> tuple[nn.Module, Tensor]:
        rnn = make()
        width = rnn.hidden_size * (2 if rnn.bidirectional else 1)

        def forward(m: nn.Module, x: Tensor) -> Tensor:
            y = (
                m.rnn(m.mix(x))[0]
                if m.rnn.batch_first
                else m.rnn(m.mix(x).transpose(0, 1))[0].transpose(0, 1)
            )
            return m.head(y[:, -1])

        return Function(forward, mix=nn.Linear(4, 4), rnn=rnn, head=nn.Linear(width, 4)), torch.randn(3, 6, 4)

    LAYERS.put(name, build, fallback)


recurrent("lstm", partial(nn.LSTM, 4, 5, batch_first=True))
recurrent("lstm-deep-bidirectional", partial(nn.LSTM, 4, 5, num_layers=2, bidirectional=True))
recurrent("gru", partial(nn.GRU, 4, 5, batch_first=True))
recurrent("rnn", partial(nn.RNN, 4, 5, nonlinearity="relu", batch_first=True, bias=False), fallback=False)


@LAYERS.add("lstm-cell")
def _() -> tuple[nn.Module, Tensor]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 5)
        for t in range(x.shape[1]):
            h, c = m.cell(x[:, t], (h, c))
        return m.head(h)

    return Function(forward, cell=nn.LSTMCell(4, 5), head=nn.Linear(5, 4)), torch.randn(3, 4, 4)


@LAYERS.add("bilinear", fallback=True)
def _() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    net = Function(
        lambda m, x, y: m.head(m.both(x, y).tanh()), both=nn.Bilinear(4, 3, 5), head=nn.Linear(5, 4)
    )
    return net, (torch.randn(3, 4), torch.randn(3, 3))
