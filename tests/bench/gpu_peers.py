#!/usr/bin/env python3
"""T(1) and T(16) of the 8B shape in BF16 below 1024 tokens, random weights, by peers on the same card: one JSON object.

    gpu_peers.py [--device cuda|cpu] [--tiny] [--passes 30]

transformers   Qwen3ForCausalLM with its own cache, cut back after each pass
torch_graph    the same layers in plain PyTorch (F.linear, rms_norm, scaled_dot_product_attention over a static cache, no RoPE), captured
               as a CUDA graph; without a GPU not captured
A peer that is not installed is null, and "not_measured" says why.
"""
import argparse
import json
import statistics
import time

CONTEXT, ROWS = 1024, (1, 16)
SHAPE = dict(hidden=4096, layers=36, heads=32, kv_heads=8, head=128, ffn=12288, vocab=151936)
TINY = dict(hidden=64, layers=2, heads=4, kv_heads=2, head=16, ffn=96, vocab=301)


def timed(torch, device, passes, once):
    for _ in range(3):
        once()
    took = []
    for _ in range(passes):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        once()
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(took), 4)


def by_transformers(s, device, passes):
    import torch
    import transformers
    config = transformers.Qwen3Config(hidden_size=s["hidden"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
                                      num_key_value_heads=s["kv_heads"], head_dim=s["head"], intermediate_size=s["ffn"],
                                      vocab_size=s["vocab"], max_position_embeddings=2 * CONTEXT, tie_word_embeddings=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.Qwen3ForCausalLM(config).eval()
    points = []
    with torch.inference_mode():
        past = model(torch.zeros(1, CONTEXT, dtype=torch.long, device=device), use_cache=True, logits_to_keep=1).past_key_values
        for rows in ROWS:
            tokens = torch.ones(1, rows, dtype=torch.long, device=device)

            def once():
                model(tokens, past_key_values=past, use_cache=True)
                past.crop(CONTEXT)
            points.append({"rows": rows, "ms": timed(torch, device, passes, once)})
    return {"version": transformers.__version__, "torch": torch.__version__, "points": points}


class Plain:
    """One model of that shape and the room its pass works in."""

    def __init__(self, torch, s, device):
        self.torch, self.s = torch, s
        new = lambda *dims: torch.randn(*dims, device=device, dtype=torch.bfloat16) * 0.02  # noqa: E731
        wide, kv = s["heads"] * s["head"], s["kv_heads"] * s["head"]
        self.layers = [(new(wide + 2 * kv, s["hidden"]), new(s["hidden"], wide), new(2 * s["ffn"], s["hidden"]), new(s["hidden"], s["ffn"]))
                       for _ in range(s["layers"])]
        self.head, self.embed = new(s["vocab"], s["hidden"]), new(s["vocab"], s["hidden"])
        self.kv = [new(2, 1, s["kv_heads"], CONTEXT + max(ROWS), s["head"]) for _ in range(s["layers"])]

    def step(self, tokens):
        f, s = self.torch.nn.functional, self.s
        rows, end = tokens.shape[0], CONTEXT + tokens.shape[0]
        x = f.embedding(tokens, self.embed)
        norm = lambda v: f.rms_norm(v, (v.shape[-1],))  # noqa: E731
        for (qkv, o, gate_up, down), cache in zip(self.layers, self.kv):
            q, k, v = f.linear(norm(x), qkv).view(1, rows, -1, s["head"]).transpose(1, 2).split([s["heads"], s["kv_heads"], s["kv_heads"]], 1)
            cache[0, :, :, CONTEXT:end].copy_(norm(k))
            cache[1, :, :, CONTEXT:end].copy_(v)
            a = f.scaled_dot_product_attention(norm(q), cache[0, :, :, :end], cache[1, :, :, :end], enable_gqa=True)
            x = x + f.linear(a.transpose(1, 2).reshape(rows, -1), o)
            gate, up = f.linear(norm(x), gate_up).chunk(2, -1)
            x = x + f.linear(f.silu(gate) * up, down)
        return f.linear(norm(x), self.head).float()


def by_graph(s, device, passes):
    import torch
    model, points = Plain(torch, s, device), []
    with torch.inference_mode():
        for rows in ROWS:
            tokens = torch.ones(rows, dtype=torch.long, device=device)
            once = lambda: model.step(tokens)  # noqa: B023, E731
            if device == "cuda":
                side = torch.cuda.Stream()
                with torch.cuda.stream(side):
                    once()
                side.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    once()
                once = graph.replay
            points.append({"rows": rows, "ms": timed(torch, device, passes, once)})
    return {"torch": torch.__version__, "captured": device == "cuda", "points": points}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--device", default="cuda")
    p.add_argument("--tiny", action="store_true")
    p.add_argument("--passes", type=int, default=30)
    o = p.parse_args()
    table, missing = {}, {}
    for name, peer in (("torch_graph", by_graph), ("transformers", by_transformers)):
        table[name] = None
        try:
            table[name] = peer(TINY if o.tiny else SHAPE, o.device, o.passes)
        except ImportError as e:
            missing[name] = f"not installed: {e.name}"
        except Exception as e:  # a peer's own trouble is no reason to lose the other's figures
            missing[name] = str(e).splitlines()[0]
    print(json.dumps(dict(table, not_measured=missing)))


if __name__ == "__main__":
    main()
