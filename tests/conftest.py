"""Settings of all tests: one thread each, because two threads on two busy cores are slower than one; no network."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")
