"""Small checkpoints as the official programs write them, by tensorstore and msgpack alone.

The names are written out here a second time, from our parameters to the official ones, so that the
tests do not read back what the importer itself has made up.
"""

import json

import numpy as np
import torch


def dense(state, ours):
    """A flax linear layer: kernel [in, out]."""
    tree = {"kernel": state[f"{ours}.weight"].mT}
    if f"{ours}.bias" in state:
        tree["bias"] = state[f"{ours}.bias"]
    return tree


def flax_linear(state, ours):
    return {"_flax_linear": dense(state, ours)}


def number(state, ours, linear=flax_linear):
    layers = {f"layers_{i}": linear(state, f"{ours}.mlp.{i}") for i in (0, 2)}
    return {"mlp": layers}


def in_context_tree(net, pixels=False, velocity="both"):
    """iMF's or pMF's tree; `velocity` is what there is of its head: both, layer, none."""
    s = {n: v.detach() for n, v in net.state_dict().items()}
    tree = {}
    for name in ("time", "label", "omega", "t_min", "t_max"):
        table = s[f"tokens.{name}"]
        official = "class" if name == "label" else name
        tree[f"{official}_tokens"] = table[None] if pixels else table
    embedders = {
        "h_embedder": "time",
        "omega_embedder": "omega",
        "cfg_t_start_embedder": "t_min",
        "cfg_t_end_embedder": "t_max",
    }
    for official, name in embedders.items():
        tree[official] = number(s, f"embedders.{name}")
    conv = {
        "kernel": s["x_embedder.proj.weight"].permute(2, 3, 1, 0),
        "bias": s["x_embedder.proj.bias"],
    }
    if pixels:
        tree["pos_embed"] = s["positions"][None]
        wide = dense(s, "x_embedder.expand")
        wide["kernel"] = wide["kernel"][None, None]
        tree["x_embedder"] = {"proj1": conv, "proj2": wide}
        tree["y_embedder"] = {"embedding_table": {"embedding": s["labels.weight"][None]}}
    else:
        tree["x_embedder"] = {"proj": conv}
        table = {"_flax_embedding": {"embedding": s["labels.weight"]}}
        tree["y_embedder"] = {"embedding_table": table}
    groups = {"trunk": "shared_blocks", "u_blocks": "u_heads"}
    if velocity == "both":
        groups["v_blocks"] = "v_heads"
    for ours, official in groups.items():
        for i in range(len(getattr(net, ours))):
            tree[f"{official}_{i}"] = block(s, f"{ours}.{i}")
    for which in "uv" if velocity in ("both", "layer") else "u":
        tree[f"{which}_final_layer"] = {
            "norm": {"kernel": s[f"{which}_layer.norm.weight"]},
            "linear": flax_linear(s, f"{which}_layer.linear"),
        }
    return {"net": tree}


def block(s, ours):
    attention = {f"{n}_proj": flax_linear(s, f"{ours}.attn.{n}") for n in ("q", "k", "v", "out")}
    for n in ("q_norm", "k_norm"):
        attention[n] = {"kernel": s[f"{ours}.attn.{n}.weight"]}
    return {
        "attn_scale": s[f"{ours}.attn_scale"],
        "mlp_scale": s[f"{ours}.mlp_scale"],
        "norm1": {"kernel": s[f"{ours}.norm1.weight"]},
        "norm2": {"kernel": s[f"{ours}.norm2.weight"]},
        "attn": attention,
        "mlp": {n: flax_linear(s, f"{ours}.{n}") for n in ("w1", "w2", "w3")},
    }


def drifting_tree(net):
    s = {n: v.detach() for n, v in net.state_dict().items()}

    def linear(ours):
        return {"Dense_0": dense(s, ours)}

    def weight(ours):
        return {"weight": s[f"{ours}.weight"]}

    inner = {
        "TorchLinear_0": linear("x_embedder"),
        "pos_embed": s["positions"][None],
        "TorchLinear_1": linear("token"),
        "cls_embed": s["tokens"][None],
        "FinalLayer_0": {
            "TorchLinear_0": linear("modulation"),
            "RMSNorm_0": weight("norm"),
            "TorchLinear_1": linear("linear"),
        },
    }
    for i in range(len(net.blocks)):
        b = f"blocks.{i}"
        inner[f"blocks_{i}"] = {
            "TorchLinear_0": linear(f"{b}.modulation"),
            "RMSNorm_0": weight(f"{b}.norm1"),
            "Attention_0": {
                "TorchLinear_0": linear(f"{b}.attn.qkv"),
                "q_norm": weight(f"{b}.attn.q_norm"),
                "k_norm": weight(f"{b}.attn.k_norm"),
                "TorchLinear_1": linear(f"{b}.attn.proj"),
            },
            "RMSNorm_1": weight(f"{b}.norm2"),
            "SwiGLUFFN_0": {
                "TorchLinear_0": linear(f"{b}.gate"),
                "TorchLinear_1": linear(f"{b}.value"),
                "TorchLinear_2": linear(f"{b}.out"),
            },
        }
    tree = {
        "Embed_0": {"embedding": s["labels.weight"]},
        "TimestepEmbedder_0": {
            "TorchLinear_0": linear("omega.mlp.0"),
            "TorchLinear_1": linear("omega.mlp.2"),
        },
        "RMSNorm_0": weight("omega_norm"),
        "LightningDiT_0": inner,
    }
    for i in range(len(net.noise)):
        tree[f"noise_embeds_{i}"] = {"embedding": s[f"noise.{i}.weight"]}
    return tree


def meanflow_tree(net):
    s = {n: v.detach() for n, v in net.state_dict().items()}
    blocks = {}
    for i in range(len(net.blocks)):
        b = f"blocks.{i}"
        blocks[f"layers_{i}"] = {
            "adaLN_modulation": {"layers_1": flax_linear(s, f"{b}.modulation")},
            "attn": {n: flax_linear(s, f"{b}.attn.{n}") for n in ("qkv", "proj")},
            "mlp": {n: flax_linear(s, f"{b}.mlp.{n}") for n in ("fc1", "fc2")},
        }
    tree = {
        "x_embedder": {
            "proj": {
                "kernel": s["x_embedder.proj.weight"].permute(2, 3, 1, 0),
                "bias": s["x_embedder.proj.bias"],
            }
        },
        "t_embedder": number(s, "conditioning.times.t"),
        "h_embedder": number(s, "conditioning.times.t-r"),
        "y_embedder": {
            "embedding_table": {"_flax_embedding": {"embedding": s["conditioning.labels.weight"]}}
        },
        "blocks": blocks,
        "final_layer": {
            "adaLN_modulation": {"layers_1": flax_linear(s, "final_layer.modulation")},
            "linear": flax_linear(s, "final_layer.linear"),
        },
    }
    return {"net": tree}


def meanflow_port(net):
    """The names of the PyTorch port: flat, with a position table and a head for another loss."""
    s = {n: v.detach().clone() for n, v in net.state_dict().items()}
    renamed = {}
    for name, value in s.items():
        name = name.replace("conditioning.times.t-r.", "h_embedder.")
        name = name.replace("conditioning.times.t.", "t_embedder.")
        name = name.replace("conditioning.labels.", "y_embedder.embedding_table.")
        name = name.replace(".modulation.", ".adaLN_modulation.1.")
        renamed[name] = value
    return renamed


def shifted(tree):
    """The same tree with every number changed: raw weights beside averages."""
    return {k: shifted(v) if isinstance(v, dict) else v + 1 for k, v in tree.items()}


def leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), np.ascontiguousarray(value.float().numpy())


def write_ocdbt(tree, folder):
    """The newer layout of Orbax, as far as it is read: one array a leaf, names joined by dots."""
    import tensorstore

    folder.mkdir(parents=True)
    base = {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    with tensorstore.Transaction() as together:  # one commit
        for path, value in leaves(tree):
            name, shape = ".".join(path), list(value.shape)
            about = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "<f4"}
            about |= {"order": "C", "compressor": None, "filters": None, "fill_value": None}
            chunk = ".".join("0" for _ in shape)
            store.with_transaction(together)[f"{name}/.zarray"] = json.dumps(about).encode()
            store.with_transaction(together)[f"{name}/{chunk}"] = value.tobytes()
    keys = {str(path): {"key_metadata": [{"key": k} for k in path]} for path, _ in leaves(tree)}
    (folder / "_METADATA").write_text(json.dumps({"tree_metadata": keys}))
    return folder


def packed(tree, chunk=None):
    """Flax's msgpack; arrays of more than `chunk` numbers are cut as large ones are."""
    import msgpack

    def pack(value):
        if isinstance(value, dict):
            return {k: pack(v) for k, v in value.items()}
        if chunk is not None and value.numel() > chunk:
            pieces = value.contiguous().flatten().split(chunk)
            return {
                "__msgpack_chunked_array__": True,
                "shape": {str(i): n for i, n in enumerate(value.shape)},
                "chunks": {str(i): pack_array(p) for i, p in enumerate(pieces)},
            }
        return pack_array(value)

    def pack_array(value):
        value = value.contiguous()
        if value.dtype == torch.bfloat16:
            content, dtype = value.view(torch.int16).numpy().tobytes(), "bfloat16"
        else:
            content, dtype = value.numpy().tobytes(), str(value.numpy().dtype)
        data = msgpack.packb((list(value.shape), dtype, content), use_bin_type=True)
        return msgpack.ExtType(1, data)

    return msgpack.packb(pack(tree), use_bin_type=True)


def write_orbax_msgpack(tree, folder, **options):
    """The older layout of Orbax."""
    folder.mkdir(parents=True)
    (folder / "checkpoint").write_bytes(packed(tree, **options))
    (folder / "_METADATA").write_text("{}")
    return folder


def halved(tree, dtype=torch.bfloat16):
    return {k: halved(v, dtype) if isinstance(v, dict) else v.to(dtype) for k, v in tree.items()}
