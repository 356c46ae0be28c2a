"""Make again, from the published `study.yaml` and `results.csv` files, every table, figure and number of these pages.

python docs/results/regenerate.py
"""

from __future__ import annotations

import first_edition
import second_edition

EDITIONS = (first_edition.EDITION, second_edition.EDITION)


def main() -> None:
    for edition in EDITIONS:
        edition.make()


if __name__ == "__main__":
    main()
