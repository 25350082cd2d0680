"""Qwen3's architecture in plain PyTorch (1.13 or newer), and its Hugging Face files: enough to train the tiny pair.

A block is x + attention(norm(x)), then x + mlp(norm(x)).  Attention: grouped queries, each head's q and k normalised before the
rotation, no biases.  MLP: down(silu(gate(x)) * up(x)).  The output layer is the embedding (tied).
"""
import json
import math
import pathlib
import struct

import torch
from torch import nn
from torch.nn import functional as F

EPS = 1e-6
POSITIONS_MAX = 2048  # max_position_embeddings; the corpus' longest document has under 400 tokens
SHAPES = {
    "target": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 768},
    "draft": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "intermediate_size": 384},
}


def configuration(name, vocab_size):
    return {**SHAPES[name], "vocab_size": vocab_size, "rope_theta": 10000.0}


class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.weight


def linear(n_in, n_out, gain=1.0):
    layer = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(layer.weight, std=gain * n_in ** -0.5)
    return layer


def rotate(x, cos, sin):
    """RoPE over the two halves of a head.  x: (batch, heads, time, head_dim); cos, sin: (time, head_dim)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n_q, self.n_kv, self.d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        hidden = c["hidden_size"]
        self.q_proj, self.o_proj = linear(hidden, self.n_q * self.d), linear(self.n_q * self.d, hidden, gain=0.5)
        self.k_proj, self.v_proj = linear(hidden, self.n_kv * self.d), linear(hidden, self.n_kv * self.d)
        self.q_norm, self.k_norm = RMSNorm(self.d), RMSNorm(self.d)

    def forward(self, x, cos, sin, mask):
        batch, time, _ = x.shape
        heads = lambda y, n: y.view(batch, time, n, self.d)
        q = rotate(self.q_norm(heads(self.q_proj(x), self.n_q)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(heads(self.k_proj(x), self.n_kv)).transpose(1, 2), cos, sin)
        v = heads(self.v_proj(x), self.n_kv).transpose(1, 2)
        k, v = (t.repeat_interleave(self.n_q // self.n_kv, 1) for t in (k, v))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(self.d) + mask, -1)
        return self.o_proj((weights @ v).transpose(1, 2).reshape(batch, time, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, inner = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = linear(hidden, inner), linear(hidden, inner), linear(inner, hidden, gain=0.5)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(c["hidden_size"]), Attention(c)
        self.post_attention_layernorm, self.mlp = RMSNorm(c["hidden_size"]), MLP(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    """Submodules bear Hugging Face's names, so that state_dict() with "model." before each is the checkpoint."""

    def __init__(self, c):
        super().__init__()
        self.config = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"])
        frequency = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"])
        angle = torch.outer(torch.arange(POSITIONS_MAX).float(), frequency)
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angle, angle), -1).sin(), persistent=False)

    def forward(self, ids):
        """ids: (batch, time) -> logits (batch, time, vocab)."""
        time = ids.shape[1]
        mask = torch.full((time, time), float("-inf"), device=ids.device).triu(1)
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, self.cos[:time], self.sin[:time], mask)
        return self.norm(x) @ self.embed_tokens.weight.t()


# --- Hugging Face's files ---

def write_safetensors(path, tensors):
    """tensors: name -> tensor; written as BF16, in order of names (https://github.com/huggingface/safetensors, "Format")."""
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        blob = tensors[name].detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    """The same back, as float32."""
    raw = path.read_bytes()
    size, = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}: only what write_safetensors writes is read"
        first, last = (8 + size + offset for offset in entry["data_offsets"])
        bits = torch.frombuffer(bytearray(raw[first:last]), dtype=torch.bfloat16)
        tensors[name] = bits.view(entry["shape"]).float()
    return tensors


def export(model, tokenizer, directory):
    """A directory that transformers and outriderd open; the tokenizer's files are bpe.py's."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    end, text_end = tokenizer.added["<|im_end|>"], tokenizer.added["<|endoftext|>"]
    write_safetensors(directory / "model.safetensors", {f"model.{name}": t for name, t in model.state_dict().items()})
    config = {
        **model.config, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
        "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": POSITIONS_MAX,
        "max_window_layers": model.config["num_hidden_layers"], "rms_norm_eps": EPS, "rope_scaling": None, "sliding_window": None,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
        "bos_token_id": text_end, "eos_token_id": end,
    }
    generation = {"bos_token_id": text_end, "eos_token_id": [end, text_end], "pad_token_id": text_end, "do_sample": True,
                  "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2))


def load(directory):
    """An exported model, in float32."""
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    model = Qwen3({key: config[key] for key in [*SHAPES["target"], "vocab_size", "rope_theta"]})
    tensors = read_safetensors(directory / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items()})
    return model.eval()
