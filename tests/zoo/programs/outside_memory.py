"""Memory that Python does not know: malloc by ctypes, a linked list of C structs, pages of an anonymous mapping."""

from __future__ import annotations

import ctypes

from pace import report, sha, steps

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.realloc.restype = ctypes.c_void_p
LIBC.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]


class Node(ctypes.Structure):
    """A link of a list in C memory."""

    _fields_ = (("next", ctypes.c_void_p), ("value", ctypes.c_char * 64))


def pushed(head: int | None, value: str) -> int:
    address = LIBC.malloc(ctypes.sizeof(Node))
    link = Node.from_address(address)
    link.next = head
    link.value = value.encode()
    return int(address)


def main() -> None:
    head: int | None = None
    block = LIBC.malloc(1)
    for step in steps(100):
        state = sha(step, Node.from_address(head).value if head else b"")
        head = pushed(head, state)
        block = LIBC.realloc(block, (step + 1) * 100_000)
        ctypes.memset(block + step * 100_000, step, 100_000)
    values = []
    while head:
        link = Node.from_address(head)
        values.append(link.value)
        after = link.next
        LIBC.free(head)
        head = after
    result = ctypes.string_at(block, 100 * 100_000)
    LIBC.free(block)
    report(values, result)


if __name__ == "__main__":
    main()
