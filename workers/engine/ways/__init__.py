"""Ways to run a model over a packed batch. Each maps a batch to the hidden states of its tokens.

    fused.py      CPU, BERT-like models: our own layers, without padding          (float32, bfloat16, int8)
    fused_modern.py  the same for ModernBERT                                      (float32, bfloat16)
    fused_cuda.py CUDA, BERT-like models: the same                                (float16, bfloat16, float8)
    packed.py     transformers' model without padding, with our attention         (families that use its AttentionInterface)
    compiled.py   packed, through torch.compile                                   (CUDA)
    by_runs.py    transformers' MPNet without padding: its bias by distance goes through no AttentionInterface
    padded.py     transformers' model unchanged: padded rectangle, attention mask (any family; one text at a time it is the
                                                                                   reference of all ways, its own included)
    supported.py  which of them a model seems to support, fastest first
    pooler.py     the model's own head, of which each sequence's first state is what it reads
    interface.py  what they have in common

Whether a way is right for a model is measured (self_check.py): a family may ignore the packed positions, or let padding
change the other tokens, and still return numbers. Shapes: B sequences, T tokens, H hidden size.
"""
