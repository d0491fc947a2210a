"""Loads what cells need, once: imported by the process that all cells are forked from."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import peft.tuners.lora.model  # noqa: F401
import transformers.modeling_utils
import transformers.models.auto.modeling_auto
import transformers.trainer  # noqa: F401

import matrix.cells
import matrix.place  # noqa: F401
