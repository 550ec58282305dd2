"""The engine: token ids in, vectors out. The one room where torch lives.

encoder        the door: precision, token budget, batches, out-of-memory policy
batching       lengths -> batches            packing     a batch as tensors, without padding
forward        which way a model is run      attention   packed attention, CPU and CUDA
fused_bert     BERT-like models on a CPU     linear      its matrix products: float32, bfloat16, 8 bits
checkpoint     the weights, read once        bert_weights   those of BERT-like models under one set of names
pooling heads  hidden states -> vectors      golden      what a replica must reproduce before its first shard
"""

from __future__ import annotations

import os

# oneDNN makes a kernel for each shape, torch keeps 1,024 of them a thread and oneDNN as many again: a replica grew by 400 MB
# over an hour's varied batches. What one window of documents needs stays; read by both at their first product.
KEPT_KERNELS = "128"
os.environ.setdefault("LRU_CACHE_CAPACITY", KEPT_KERNELS)
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KEPT_KERNELS)
