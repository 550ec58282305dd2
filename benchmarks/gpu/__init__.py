"""Measurements on a GPU machine in one command with a time budget. README.md in this folder: what to run, in which order.

__main__.py      the command: loads the models, runs the sections, each for every model before the next
session.py       a section's figures are stored as they come, so that nothing is lost when the machine is taken away
device.py        the device: facts, timing with and without the launching thread's wait, power and clocks
subject.py       one model with the corpus in its tokens
ceilings.py      copies and bare matrix products
correctness.py   golden proof, attention against float64, half precision against float32
ways.py          every way to run the model: tokens/s, host beside device time, kernels
host.py          whole calls of the encoder, alone and beside a busy interpreter; the tokenizer by threads
end_to_end.py    `reembed embed` on a local Ray, with one replica and with four
opponents.py     sentence-transformers in half precision
prepare.py       gathers what a machine without network lacks
"""
