"""Changes to bytes, to JSON, to arrays of numbers, and to zip files as a whole, all drawn from one generator.

Changed bytes would seldom come past the first check (a CRC, a JSON parser). So who knows what an input is
made of changes its parts, and puts it together again. Knows nothing of what fmfast does with it.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

MAX_SIZE = 1 << 16  # bytes of an input

INTEGERS = [
    0, 1, -1, 2, 3, 7, 8, 9, 127, 128, 255, 256, 65535, 65536, 2**24, 2**31 - 2, 2**31 - 1, 2**31,
    2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**62, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31),
    -(2**31) - 1, -(2**63), 10**19, 10**30,
]  # fmt: skip
FLOATS = [
    0.0, -0.0, 1.0, 0.5, 1.5, 1e-45, 1.1754942e-38, 1e-320, 5e-324, 2.2250738585072014e-308, 1e38,
    3.4028235e38, 3.5e38, 1e39, 1e300, 1.7976931348623157e308, -1e30, float("inf"), float("-inf"),
    float("nan"),
]  # fmt: skip
STRINGS = [
    "",
    "a",
    "../x",
    "/etc/passwd",
    "\x00",
    "ж",
    "\ud800",
    "x" * 300,
    "float32",
    "<f8",
    "|O",
    "O",
    "nan",
    "inf",
]


def mutate_bytes(data: bytes, rng: random.Random, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """One to a few random changes, at most `MAX_SIZE` bytes."""
    out = bytearray(data)
    for _ in range(1 + rng.getrandbits(2) * (rng.random() < 0.6)):
        size = len(out)
        at = rng.randrange(size + 1)
        kind = rng.randrange(10)
        if kind == 0 and size:
            out[at - 1] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            out[at - 1] = rng.randrange(256)
        elif kind == 2:
            del out[at : at + rng.randrange(1, 2 + min(size, 64))]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:  # a stretch once more, somewhere else
            start = rng.randrange(size + 1)
            out[at:at] = out[start : start + rng.randrange(1, 2 + min(size, 200))]
        elif kind == 5 and others:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[at : at + rng.randrange(64)] = other[
                start : start + rng.randrange(1, 2 + min(len(other), 200))
            ]
        elif kind == 6 and size and rng.random() < 0.3:
            del out[at:]
        elif kind == 7:
            out[at:at] = str(rng.choice(INTEGERS)).encode()
        elif kind == 8 and size and rng.random() < 0.1:  # long
            out[at:at] = out[max(0, at - 20) : at] * rng.randrange(1, 300)
        elif tokens:
            token = rng.choice(tokens)
            out[at : at + (len(token) if rng.random() < 0.3 else 0)] = token
    return bytes(out[:MAX_SIZE])


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three of its parts changed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _mutated_part(value, rng)
    return value


def _mutated_part(value: Any, rng: random.Random) -> Any:
    parts: list[tuple[Any, Any]] = []  # (container, key)

    def walk(part: Any) -> None:
        keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        for key in keys:
            parts.append((part, key))
            if len(parts) < 5000:
                walk(part[key])

    walk(value)
    if not parts or rng.random() < 0.01:
        return new_json(rng)
    container, key = rng.choice(parts)
    kind = rng.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, list):
        container.insert(key, container[key] if rng.random() < 0.7 else new_json(rng))
    elif kind == 1:
        container[rng.choice([*STRINGS, str(key) + "x"])] = container[key]
    elif kind == 2:
        other, other_key = rng.choice(parts)
        if other_key in (other if isinstance(other, dict) else range(len(other))):
            container[key] = json.loads(json.dumps(other[other_key]))
    elif kind == 3 and isinstance(container[key], (int, float)):
        container[key] = container[key] + rng.choice((-1, 1, 0.5, 2**31, -(2**32)))
    elif kind == 4 and isinstance(container, list) and len(container) < 200:
        container += container[: rng.randrange(1, 4)]
    elif kind == 5 and isinstance(container[key], str):
        container[key] = container[key] + rng.choice(STRINGS)
    else:
        container[key] = new_json(rng)
    return value


def new_json(rng: random.Random) -> Any:
    """A small value of any kind."""
    return rng.choice(
        [
            None, True, False, [], {}, rng.choice(INTEGERS), rng.choice(INTEGERS), rng.choice(FLOATS),
            rng.choice(STRINGS), [rng.choice(INTEGERS)] * 2, {"": 0}, [[]], -rng.random(),
        ]
    )  # fmt: skip


def mutate_numbers(data: bytes, rng: random.Random) -> bytes:
    """Some elements of an array of unknown type set to odd numbers."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        code, values = rng.choice([("<i", INTEGERS), ("<q", INTEGERS), ("<f", FLOATS), ("<d", FLOATS)])
        size = struct.calcsize(code)
        if len(out) < size:
            break
        value = rng.choice(values)
        if code in ("<i", "<q"):
            bits = 8 * size
            value = (int(value) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
        try:
            packed = struct.pack(code, value)
        except OverflowError:
            continue
        at = rng.randrange(len(out) // size) * size
        out[at : at + size] = packed
    return bytes(out)


# -- files of files -----------------------------------------------------------------------------


def unzip(data: bytes) -> dict[str, bytes] | None:
    """The members of an uncompressed zip file, None if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_SIZE:
                return None
            return {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # whatever: it is a mutated file
        return None


def zipped(members: dict[str, bytes]) -> bytes:
    """The same as bytes for the same members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


Mutator = Callable[[str, bytes, random.Random], bytes]


def mutate_members(
    members: dict[str, bytes], rng: random.Random, mutate: Mutator, names: Sequence[str]
) -> dict[str, bytes]:
    """Mostly one member changed by `mutate`; sometimes one added, dropped, renamed or exchanged."""
    members = dict(members)
    kind = rng.randrange(20)
    chosen = rng.choice(list(members)) if members else ""
    if kind == 0:
        members.pop(chosen, None)
    elif kind == 1:
        members[rng.choice(names)] = rng.choice([b"", b"\x00" * 10, *members.values()])
    elif kind == 2 and members:
        members[chosen] = rng.choice(list(members.values()))
    elif kind == 3 and members:
        members = {(rng.choice(names) if name == chosen else name): m for name, m in members.items()}
    elif members:
        for _ in range(rng.choice((1, 1, 2, 4))):
            chosen = rng.choice(list(members))
            members[chosen] = mutate(chosen, members[chosen], rng)
    return members


def mutate_array_member(content: bytes, rng: random.Random, tokens: Sequence[bytes]) -> bytes:
    """An .npy file: its numbers, its length, or seldom what precedes them."""
    kind = rng.randrange(12)
    if kind == 0:
        return mutate_bytes(content, rng, tokens, ())
    if kind == 1:
        return content[: rng.randrange(len(content) + 1)]
    if kind == 2:
        return content + content[-rng.choice((1, 4, 8, 64)) :]
    return content[:128] + mutate_numbers(content[128:], rng)
