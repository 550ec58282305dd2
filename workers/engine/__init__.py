"""The engine: token ids in, vectors out. The only package that imports torch.

encoder                      the entry: precision at start, then calls: tokens in, vectors out
batches.plan, batches.budget lengths -> batches; how many tokens a batch may have
batches.runner               runs them, and makes them smaller where the device runs out of memory
batches.attempts             one batch: vectors, or whose fault it is that there are none
device.in_flight             vectors on their way from the device to the host, while it computes the next call
device.overflow              documents that float16 cannot hold, once more in float32
checkpoint                   the weights, loaded once
inputs                       what a model is given beside token ids
ways                         the ways to run a model: fused (CPU, CUDA), packed, compiled, padded
readout                      hidden states -> vectors: pooling, and modules of sentence-transformers around it (heads)
precision, self_check        number formats and their tolerances; the comparison with golden vectors at start
bert.facts, bert.weights     BERT-like models: what config.json says, and weights under one set of names
bert.layers                  encoder layers of our own on a CPU; bert.cuda_layers: on CUDA
query                        one query through a BERT-like model in NumPy, without torch
kernels.packing              a batch as tensors without padding
kernels.attention            attention over such a batch, on CPU and CUDA
kernels.compiled_attention   the same in C (attention.c), for CPUs with AVX512-BF16
kernels.linear               matrix products of a CPU in float32, bfloat16 and 8 bits
kernels.float8               8-bit floating-point products of CUDA
kernels.triton_rows          what lies between products, on CUDA; kernels.torch_rows: the same in plain torch
"""

from __future__ import annotations

import os

# oneDNN generates a kernel for each shape. torch keeps 1,024 of them per thread, and oneDNN as many again: a replica grew by
# 400 MB within an hour of varied batches. 128 are enough for one window of documents. Both libraries read these variables at
# their first matrix product.
KEPT_KERNELS = "128"
os.environ.setdefault("LRU_CACHE_CAPACITY", KEPT_KERNELS)
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KEPT_KERNELS)
