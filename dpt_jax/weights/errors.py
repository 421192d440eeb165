# SPDX-License-Identifier: Apache-2.0
"""What reading and writing files of weights may raise."""


class WeightsError(ValueError):
    """A file of weights is damaged, hostile or of a kind that cannot be read; it is named."""
