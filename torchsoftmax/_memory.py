"""The memory of large results."""

from torchsoftmax import _C


def empty_cache() -> int:
    """Gives back to the system the memory that is kept for the next large results on the CPU.

    A result of 1 MiB or more is in memory that torchsoftmax keeps when the tensor is freed, for the
    next result of its size: otherwise the system fills new pages with zeros first, which takes
    longer than a softmax over them. What is kept still counts in the process's resident size; of
    results of more than 32 MiB it is marked as free (``MADV_FREE``): the system takes it, without
    asking, before memory gets short.

    At most 64 MiB of smaller results are kept, and 8 larger ones, of those no more than an eighth
    of the machine's memory, or than the environment variable ``TORCHSOFTMAX_KEEP_MB`` says (1 MB =
    10⁶ bytes; 0 keeps nothing; it is read once). Nothing is kept on systems other than Linux. On
    CUDA, PyTorch's allocator does this: :func:`torch.cuda.empty_cache`.

    Returns:
        How many bytes were kept.

    Example:
        >>> probabilities = torchsoftmax.softmax(torch.randn(1024, 10000), dim=-1)
        >>> del probabilities
        >>> bytes_kept = torchsoftmax.empty_cache()  # 41943040 on Linux
        >>> torchsoftmax.empty_cache()
        0
    """
    return _C.release_memory()
