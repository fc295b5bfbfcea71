"""`train.py` that writes its metrics down after every step."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import train
from captioner.training import trainer

if __name__ == "__main__":
    trainer._LOG_STEPS = 1
    sys.exit(train.main())
