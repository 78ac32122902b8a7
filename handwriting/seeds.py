"""Seeds that follow from others."""

import hashlib


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed from 0 to 2^62 - 1 that follows from what it is for and some whole numbers, of any size.

    Another purpose, another number, or one number more gives another seed.
    """
    named = " ".join([purpose, *(str(int(number)) for number in numbers)])
    return int.from_bytes(hashlib.sha256(named.encode()).digest()[:8], "little") >> 2
