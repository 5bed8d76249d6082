"""Two small real data sets that ship with the package, for the demo, the examples and a first try: no download, no account.

- penguins.csv: 344 penguins of three species. Horst, Hill and Gorman (2020), palmerpenguins, doi:10.5281/zenodo.3960218; CC0.
- digits.csv.gz: 1,797 handwritten digits of 8 x 8 pixels. Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI, doi:10.24432/C50P49;
  CC BY 4.0. 64 pixels from 0 to 16 and the label in each line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

_HERE = Path(__file__).parent


def penguins() -> Path:
    """The path of a CSV file: species, island, four measures of the body, sex and year of 344 penguins; what was not measured stands as NA.

    >>> import fivestep as fs
    >>> fs.datasets.penguins().name
    'penguins.csv'
    """
    return _HERE / "penguins.csv"


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits: images, uint8 (1797, 8, 8) from 0 (paper) to 255 (ink), and labels, int64 (1797,) from 0 to 9.

    >>> images, labels = digits()
    >>> images.shape, labels[:3].tolist()
    ((1797, 8, 8), [0, 1, 2])
    """
    rows = np.loadtxt(_HERE / "digits.csv.gz", delimiter=",", dtype=np.int64)
    images = rows[:, :64].reshape(-1, 8, 8) * 255 // 16  # the file's 17 grey levels, spread over a byte
    return images.astype(np.uint8), rows[:, 64]
