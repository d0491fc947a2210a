"""A process that writes parts of a teacher cache; one of several under Accelerate.

accelerate launch --config_file FILE -m toolchain.compress.distill.cache.worker plan.json
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """Write this process's parts; the exit code."""
    from toolchain.train.worker import reporting

    return reporting(_write)


def _write() -> None:
    import torch

    from toolchain.compress.distill.cache.job import read_job
    from toolchain.compress.distill.cache.write import write_parts

    job = read_job(Path(sys.argv[1]))
    torch.set_num_threads(job.threads)
    write_parts(job, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


if __name__ == "__main__":
    sys.exit(main())
