"""``python -m ckptrun``."""

from __future__ import annotations

import sys

from ckptrun.cli.main import main

sys.exit(main())
