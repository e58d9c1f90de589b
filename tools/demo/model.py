"""The demo model in PyTorch: VAE, text encoder and diffusion transformer of the Qwen-Image architecture.

The parameters carry the published tensor names, so that exporting is a copy.  Liberties that change no result:
the VAE is two-dimensional (for one frame only the last temporal tap of each kernel counts); the text encoder
runs the constant part of the prompt template once for the whole batch (it is causal, so the rows of the prompt
see the same keys and values); queries, keys and values come from one product, and so do gate and up.
"""
import math
import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import scenes

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import qwen_tokenizer  # noqa: E402

VAE = dict(base_dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1)
TEXT = dict(hidden_size=192, intermediate_size=512, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, mrope_section=[4, 6, 6], rope_theta=1000000.0, rms_norm_eps=1e-6)
DIT = dict(num_layers=6, num_attention_heads=6, attention_head_dim=32, axes_dims_rope=[8, 12, 12],
           in_channels=64, out_channels=16, joint_attention_dim=TEXT["hidden_size"], patch_size=2)
TEXT_ROWS = 32               # rows after the 34 dropped ones that training pads captions to
GRID = scenes.SIZE // 16     # image tokens a side


# ----------------------------------------------------------------------------------------------- VAE

class ChannelNorm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(c))

    def forward(self, x):
        y = F.normalize(x.float(), dim=1) * math.sqrt(x.shape[1]) * self.gamma.view(1, -1, 1, 1)
        return y.to(x.dtype)


class ResBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(i), nn.Conv2d(i, o, 3, padding=1)
        self.norm2, self.conv2 = ChannelNorm(o), nn.Conv2d(o, o, 3, padding=1)
        if i != o:
            self.conv_shortcut = nn.Conv2d(i, o, 1)

    def forward(self, x):
        h = self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x
        return h + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class AttentionBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.to_qkv, self.proj = ChannelNorm(c), nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.to_qkv(self.norm(x)).reshape(b, 3, c, h * w).transpose(2, 3).contiguous().unbind(1)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj(y.transpose(1, 2).reshape(b, c, h, w))


class Resample(nn.Module):
    def __init__(self, i, o, down):
        super().__init__()
        self.down = down
        conv = nn.Conv2d(i, o, 3, stride=2) if down else nn.Conv2d(i, o, 3, padding=1)
        self.resample = nn.Sequential(nn.Identity(), conv)

    def forward(self, x):
        x = F.pad(x, (0, 1, 0, 1)) if self.down else x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.resample(x)


class MidBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(c, c), ResBlock(c, c)])
        self.attentions = nn.ModuleList([AttentionBlock(c)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self, base_dim, z_dim, dim_mult, num_res_blocks):
        super().__init__()
        dims = [base_dim * m for m in [1] + dim_mult]
        self.conv_in = nn.Conv2d(3, dims[0], 3, padding=1)
        blocks = []
        for level, (i, o) in enumerate(zip(dims, dims[1:])):
            blocks += [ResBlock(i if r == 0 else o, o) for r in range(num_res_blocks)]
            if level + 1 < len(dim_mult):
                blocks.append(Resample(o, o, True))
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = MidBlock(dims[-1])
        self.norm_out, self.conv_out = ChannelNorm(dims[-1]), nn.Conv2d(dims[-1], 2 * z_dim, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x))))


class UpBlock(nn.Module):
    def __init__(self, i, o, count, up):
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(i if r == 0 else o, o) for r in range(count)])
        if up:
            self.upsamplers = nn.ModuleList([Resample(o, o // 2, False)])

    def forward(self, x):
        for block in self.resnets:
            x = block(x)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class Decoder(nn.Module):
    def __init__(self, base_dim, z_dim, dim_mult, num_res_blocks):
        super().__init__()
        dims = [base_dim * m for m in [dim_mult[-1]] + dim_mult[::-1]]
        last = len(dim_mult) - 1
        self.conv_in = nn.Conv2d(z_dim, dims[0], 3, padding=1)
        self.mid_block = MidBlock(dims[0])
        self.up_blocks = nn.ModuleList([UpBlock(i // 2 if n else i, o, num_res_blocks + 1, n < last)
                                        for n, (i, o) in enumerate(zip(dims, dims[1:]))])
        self.norm_out, self.conv_out = ChannelNorm(dims[-1]), nn.Conv2d(dims[-1], 3, 3, padding=1)

    def forward(self, z):
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class AutoEncoder(nn.Module):
    def __init__(self, **config):
        super().__init__()
        z = config["z_dim"]
        self.encoder, self.decoder = Encoder(**config), Decoder(**config)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * z, 2 * z, 1), nn.Conv2d(z, z, 1)
        # per-channel mean and deviation of the latents; written to config.json, not among the weights
        self.register_buffer("mean", torch.zeros(z), persistent=True)
        self.register_buffer("std", torch.ones(z), persistent=True)

    def encode(self, x):
        """Mean and log variance of the latents."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))

    def tokens(self, x):
        """Normalised, packed latents [B, tokens, 64] of pictures in -1..1."""
        z = (self.encode(x)[0].float() - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)
        b, c, h, w = z.shape
        return z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)

    def picture(self, tokens, grid=GRID):
        """Pictures in -1..1 from normalised, packed latents."""
        b, _, c = tokens.shape
        z = tokens.view(b, grid, grid, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, 2 * grid, 2 * grid)
        return self.decode(z * self.std.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)).float().clamp(-1, 1)


# ------------------------------------------------------------------------------------------ products

def product(x, *layers):
    """The outputs of linear layers side by side."""
    biases = None if layers[0].bias is None else torch.cat([m.bias for m in layers])
    return F.linear(x, torch.cat([m.weight for m in layers]), biases)


# -------------------------------------------------------------------------------------- text encoder

class RMSNorm(nn.Module):
    def __init__(self, c, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(c)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, self.heads, self.kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
        self.dim = h // self.heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(h, n * self.dim)
                                                 for n in (self.heads, self.kv_heads, self.kv_heads))
        self.o_proj = nn.Linear(h, h, bias=False)

    def qkv(self, x, rope):
        b, n, _ = x.shape
        y = product(x, self.q_proj, self.k_proj, self.v_proj).view(b, n, -1, self.dim).transpose(1, 2)
        q, k, v = y.split((self.heads, self.kv_heads, self.kv_heads), 1)
        cos, sin = rope
        q, k = (torch.cat((a * cos - c * sin, c * cos + a * sin), -1)
                for a, c in (t.float().chunk(2, -1) for t in (q, k)))
        group = self.heads // self.kv_heads
        return q.to(v.dtype), k.to(v.dtype).repeat_interleave(group, 1), v.repeat_interleave(group, 1)

    def out(self, y):
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, h, f):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(a, b, bias=False)
                                                        for a, b in ((h, f), (h, f), (f, h)))

    def forward(self, x):
        gate, up = product(x, self.gate_proj, self.up_proj).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class TextLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = SelfAttention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = MLP(c["hidden_size"], c["intermediate_size"])


class TextEncoder(nn.Module):
    """`prefix`: ids of the template before the prompt.  forward(ids of prompt and template end, padded on the
    right) gives the rows that the diffusion transformer sees."""

    def __init__(self, vocab_size, prefix, config):
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(vocab_size, config["hidden_size"])
        self.model.layers = nn.ModuleList([TextLayer(config) for _ in range(config["num_hidden_layers"])])
        self.model.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.register_buffer("prefix", torch.tensor(prefix)[None], persistent=False)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.3)

    def rope(self, start, count, device):
        half = self.config["hidden_size"] // self.config["num_attention_heads"] // 2
        freq = self.config["rope_theta"] ** (-torch.arange(half, device=device).float() / half)
        angle = torch.arange(start, start + count, device=device).float()[:, None] * freq
        return angle.cos(), angle.sin()

    def forward(self, ids):
        n, m = ids.shape[1], self.prefix.shape[1]
        head, x = self.model.embed_tokens(self.prefix), self.model.embed_tokens(ids)
        head_rope, rope = self.rope(0, m, ids.device), self.rope(m, n, ids.device)
        mask = torch.ones(n, m + n, dtype=torch.bool, device=ids.device).tril(m)
        for layer in self.model.layers:
            attn = layer.self_attn
            hq, hk, hv = attn.qkv(layer.input_layernorm(head), head_rope)
            q, k, v = attn.qkv(layer.input_layernorm(x), rope)
            k = torch.cat((hk.expand(k.shape[0], -1, -1, -1), k), 2)
            v = torch.cat((hv.expand(v.shape[0], -1, -1, -1), v), 2)
            head = head + attn.out(F.scaled_dot_product_attention(hq, hk, hv, is_causal=True))
            x = x + attn.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
            head = head + layer.mlp(layer.post_attention_layernorm(head))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.model.norm(x)


# --------------------------------------------------------------------------------- diffusion transformer

def layer_norm(x):
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


class FeedForward(nn.Module):
    def __init__(self, d):
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(d, 4 * d)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(4 * d, d)])

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


class JointAttention(nn.Module):
    def __init__(self, d, head_dim):
        super().__init__()
        self.head_dim = head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(d, d) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(d, d) for _ in range(3))
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (RMSNorm(head_dim) for _ in range(4))
        self.to_out = nn.ModuleList([nn.Linear(d, d)])
        self.to_add_out = nn.Linear(d, d)

    def heads(self, x, q, k, v, norm_q, norm_k, rope):
        q, k, v = product(x, q, k, v).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        cos, sin = rope
        q, k = (torch.stack((t[..., 0::2] * cos - t[..., 1::2] * sin, t[..., 0::2] * sin + t[..., 1::2] * cos),
                            -1).flatten(-2) for t in (norm_q(q), norm_k(k)))
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(self, img, txt, img_rope, txt_rope, mask):
        iq, ik, iv = self.heads(img, self.to_q, self.to_k, self.to_v, self.norm_q, self.norm_k, img_rope)
        tq, tk, tv = self.heads(txt, self.add_q_proj, self.add_k_proj, self.add_v_proj,
                                self.norm_added_q, self.norm_added_k, txt_rope)
        y = F.scaled_dot_product_attention(torch.cat((tq, iq), 2), torch.cat((tk, ik), 2), torch.cat((tv, iv), 2),
                                           attn_mask=mask)
        y = y.transpose(1, 2).flatten(2)
        n = txt.shape[1]
        return self.to_out[0](y[:, n:]), y[:, :n]


class Block(nn.Module):
    def __init__(self, d, head_dim):
        super().__init__()
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.attn = JointAttention(d, head_dim)
        self.img_mlp, self.txt_mlp = FeedForward(d), FeedForward(d)

    def forward(self, img, txt, temb, img_rope, txt_rope, mask, last):
        i = self.img_mod(temb)[:, None].float().chunk(6, -1)
        t = self.txt_mod(temb)[:, None].float().chunk(6, -1)
        a, b = self.attn(layer_norm(img) * (1 + i[1]) + i[0], layer_norm(txt) * (1 + t[1]) + t[0],
                         img_rope, txt_rope, mask)
        img = img + i[2] * a
        img = img + i[5] * self.img_mlp(layer_norm(img) * (1 + i[4]) + i[3])
        if not last:  # nothing reads the text stream of the last block
            txt = txt + t[2] * self.attn.to_add_out(b)
            txt = txt + t[5] * self.txt_mlp(layer_norm(txt) * (1 + t[4]) + t[3])
        return img, txt


class Transformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        d = config["num_attention_heads"] * config["attention_head_dim"]
        self.img_in = nn.Linear(config["in_channels"], d)
        self.txt_norm = RMSNorm(config["joint_attention_dim"])
        self.txt_in = nn.Linear(config["joint_attention_dim"], d)
        embedder = nn.Module()
        embedder.linear_1, embedder.linear_2 = nn.Linear(256, d), nn.Linear(d, d)
        self.time_text_embed = nn.Module()
        self.time_text_embed.timestep_embedder = embedder
        self.transformer_blocks = nn.ModuleList([Block(d, config["attention_head_dim"])
                                                 for _ in range(config["num_layers"])])
        self.norm_out = nn.Module()
        self.norm_out.linear = nn.Linear(d, 2 * d)
        self.proj_out = nn.Linear(d, config["patch_size"] ** 2 * config["out_channels"])
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.xavier_uniform_(p)
        for layer in [self.norm_out.linear, self.proj_out] + [m[1] for b in self.transformer_blocks
                                                              for m in (b.img_mod, b.txt_mod)]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def rope(self, positions):
        """cos, sin [tokens, head_dim / 2] for positions [tokens, 3]."""
        angles = []
        for axis, dim in enumerate(self.config["axes_dims_rope"]):
            freq = 10000.0 ** (-torch.arange(0, dim, 2, device=positions.device).float() / dim)
            angles.append(positions[:, axis, None] * freq)
        angle = torch.cat(angles, -1)
        return angle.cos(), angle.sin()

    def forward(self, x, t, text, text_mask, grid=GRID):
        """x [B, grid^2, 64]; t [B] in 0..1; text [B, rows, .]; text_mask [B, rows] bool, or None.  Velocity."""
        device, rows = x.device, text.shape[1]
        axis = torch.arange(grid, device=device).float() - (grid - grid // 2)
        y_pos, x_pos = axis.repeat_interleave(grid), axis.repeat(grid)
        img_rope = self.rope(torch.stack((torch.zeros_like(x_pos), y_pos, x_pos), -1))
        txt_rope = self.rope((torch.arange(rows, device=device).float() + grid // 2)[:, None].expand(-1, 3))
        freq = torch.exp(-math.log(10000) * torch.arange(128, device=device).float() / 128)
        angle = 1000 * t.float()[:, None] * freq
        embed = self.time_text_embed.timestep_embedder
        temb = embed.linear_2(F.silu(embed.linear_1(torch.cat((angle.cos(), angle.sin()), -1))))
        mask = None
        if text_mask is not None:
            mask = F.pad(text_mask, (0, x.shape[1]), value=True)[:, None, None, :]
            mask = mask.expand(-1, 1, mask.shape[-1], -1)
        img, txt = self.img_in(x).float(), self.txt_in(self.txt_norm(text)).float()
        for n, block in enumerate(self.transformer_blocks):
            img, txt = block(img, txt, temb, img_rope, txt_rope, mask, n + 1 == len(self.transformer_blocks))
        scale, shift = self.norm_out.linear(F.silu(temb))[:, None].float().chunk(2, -1)
        return self.proj_out(layer_norm(img) * (1 + scale) + shift)


class Painter(nn.Module):
    """Text encoder and transformer, which train together."""

    def __init__(self, tokenizer):
        super().__init__()
        prefix = tokenizer.template(qwen_tokenizer.TEMPLATE_PREFIX)
        assert len(prefix) == qwen_tokenizer.DROP
        vocab_size = len(tokenizer.vocab) + len(tokenizer.added)
        self.text_encoder, self.transformer = TextEncoder(vocab_size, prefix, TEXT), Transformer(DIT)

    def forward(self, x, t, ids, lengths):
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return self.transformer(x, t, self.text_encoder(ids), mask)


# ------------------------------------------------------------------------------------------- sampling

def encode_prompts(tokenizer, prompts, rows=TEXT_ROWS):
    """Padded ids [N, rows] of prompt and template end, and their lengths."""
    end = tokenizer.template(qwen_tokenizer.TEMPLATE_SUFFIX)
    ids, lengths = np.zeros((len(prompts), rows), np.int64), np.zeros(len(prompts), np.int64)
    for i, prompt in enumerate(prompts):
        row = tokenizer.encode(prompt) + end
        ids[i, :len(row)], lengths[i] = row, len(row)
    return ids, lengths


def sigmas(steps, tokens):
    """The pipeline's schedule: linear, exponential shift by the number of tokens, stretched to end at 0.02."""
    mu = 0.5 + (tokens - 256) * (0.9 - 0.5) / (8192 - 256)
    s = np.linspace(1, 1 / steps, steps)
    s = math.exp(mu) / (math.exp(mu) + 1 / s - 1)
    s = 1 - (1 - s) * (1 - 0.02) / (1 - s[-1])
    return np.append(s, 0.0)


@torch.no_grad()
def paint(painter, vae, tokenizer, prompts, steps=20, guidance=4.0, negative=" ", seed=0):
    """uint8 pictures [N, size, size, 3]; each prompt has its own noise, from `seed` on."""
    device = next(painter.parameters()).device
    ids, lengths = (torch.from_numpy(a).to(device) for a in encode_prompts(tokenizer, prompts))
    no_ids, no_lengths = (torch.from_numpy(a).to(device) for a in encode_prompts(tokenizer, [negative]))
    n = len(prompts)
    no_ids, no_lengths = no_ids.expand(n, -1), no_lengths.expand(n)
    x = torch.stack([torch.randn(1, 16, 2 * GRID, 2 * GRID, generator=torch.Generator().manual_seed(seed + i))
                     for i in range(n)])
    x = x.view(n, 16, GRID, 2, GRID, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, GRID * GRID, 64).to(device)
    schedule = sigmas(steps, GRID * GRID)
    for now, then in zip(schedule, schedule[1:]):
        t = torch.full((n,), float(now), device=device)
        v = painter(x, t, ids, lengths).float()
        if guidance > 1:
            u = painter(x, t, no_ids, no_lengths).float()
            mixed = u + guidance * (v - u)
            v = mixed * (v.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True))
        x = x + float(then - now) * v
    picture = torch.cat([vae.picture(p) for p in x.split(64)])
    return ((picture * 0.5 + 0.5) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
