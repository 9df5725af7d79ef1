"""NumPy's PCG64 without NumPy: the numbers of `numpy.random.default_rng(seed).random()`, on every machine the same.

Source: M. O'Neill, PCG, HMC-CS-2014-0905 (XSL-RR 128/64), and NumPy's `SeedSequence`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_M32: Final = (1 << 32) - 1
_M64: Final = (1 << 64) - 1
_M128: Final = (1 << 128) - 1
_MULTIPLIER: Final = 0x2360ED051FC65DA44385DF649FCCF645
_POOL: Final = 4


def uniform(seed: int) -> Iterator[float]:
    """Numbers of [0, 1) without end, each a multiple of 2**-53."""
    words = _seed_words(seed)
    high, low, sequence_high, sequence_low = (words[at] | words[at + 1] << 32 for at in range(0, 8, 2))
    increment = ((sequence_high << 64 | sequence_low) << 1 | 1) & _M128
    state = (increment + (high << 64 | low)) & _M128
    state = (state * _MULTIPLIER + increment) & _M128
    while True:
        state = (state * _MULTIPLIER + increment) & _M128
        folded, turn = (state >> 64 ^ state) & _M64, state >> 122
        yield (((folded >> turn | folded << (64 - turn)) & _M64) >> 11) * 2.0**-53


class _Hash:
    """NumPy's running hash: its constant changes with every use."""

    def __init__(self, constant: int, multiplier: int) -> None:
        self._constant = constant
        self._multiplier = multiplier

    def __call__(self, value: int) -> int:
        value ^= self._constant
        self._constant = self._constant * self._multiplier & _M32
        value = value * self._constant & _M32
        return value ^ value >> 16


def _mix(left: int, right: int) -> int:
    mixed = (0xCA01F9DD * left - 0x4973F715 * right) & _M32
    return mixed ^ mixed >> 16


def _seed_words(seed: int) -> list[int]:
    """The eight 32-bit words that NumPy's `SeedSequence` makes of a seed."""
    entropy = [seed >> at & _M32 for at in range(0, max(seed.bit_length(), 1), 32)]
    scramble = _Hash(0x43B0D7E5, 0x931E8875)
    pool = [scramble(word) for word in (entropy + [0] * _POOL)[:_POOL]]
    for source in range(_POOL):
        for target in (target for target in range(_POOL) if target != source):
            pool[target] = _mix(pool[target], scramble(pool[source]))
    for word in entropy[_POOL:]:
        for target in range(_POOL):
            pool[target] = _mix(pool[target], scramble(word))
    draw = _Hash(0x8B51F9DD, 0x58F38DED)
    return [draw(pool[at % _POOL]) for at in range(8)]
